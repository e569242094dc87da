"""The DiFX correlator: its job files and visibilities, its messages, and the programs that run it."""
