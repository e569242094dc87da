"""Batch systems behind one face: Slurm, PBS, Torque, Grid Engine, and a queue on this machine."""
