"""Server-side plugins. Those that come with mpiframe each have a folder here.

A plugin module imports `mpiframe.plugins.base` and its own folder, never the client: its classes are
ordinary Python and work without MPI.
"""
