"""Processes without MPI that work with a running world: `mpiframe.attach` and `mpiframe.launch`."""
