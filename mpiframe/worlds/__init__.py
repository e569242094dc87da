"""The subcommands about worlds that have a name: start, attach, list, stop, key.

Each module has `add_arguments(parser)` and `run(options)`; the work is done by `places` and `background`.
"""
