"""The snippets of the documentation of DiFX's Python interface, each with what it has to do."""
