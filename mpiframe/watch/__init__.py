"""What a world does, to be looked at: snapshots, `mpiframe top`, the dashboard and its metrics."""
