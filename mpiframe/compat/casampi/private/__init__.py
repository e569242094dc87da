"""The modules below `casampi.private` that other people's tests and tools import."""
