"""Worlds that have a name: where they are found, how they are left running, and the subcommands about them.

places      a folder for each world: its card, secret, socket, log and lock
secure      TLS and key files, for those who come over TCP
hosting     opens the hub of a world in its place; _hosted is rank 0 of a world without a script
background  runs worlds in the background, and ends them
start, attach, listing, stop, key   the subcommands: `add_arguments(parser)` and `run(options)`
"""
