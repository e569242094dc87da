"""The names of GRID_LRT on `mpiframe.plugins.grid`, for Python 3. Written from its documentation."""
