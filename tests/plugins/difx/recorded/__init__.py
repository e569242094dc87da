"""Recordings of DiFX's own guiServer and client, and programs that say what was recorded of DiFX's own."""
