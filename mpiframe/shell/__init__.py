"""`mpiframe shell`: a prompt that is the client, on rank 0 itself, with servers behind it.

    launcher (in the foreground)  lends its terminal   command_line.py, launcher/foreground.py
      mpiexec                     in a session of its own
        rank 0                    takes the terminal, makes a Client, and gives it a prompt       rank0.py
          prompt.interact: IPython, or     history, completion; what servers print meanwhile      ipython.py
          a plain prompt                                                                plain.py, live.py
        servers
    magics                        in both prompts, and in notebooks                               magics.py

The terminal has to be on the host of rank 0. So under Slurm: in the shell of `salloc` where that runs on the
job's first node (elsewhere rank 0 says that it cannot reach the terminal, and ends), or in a step of its own,
`srun -n 1 --overlap --pty mpiframe shell -n 4` within the allocation, where Open MPI wants besides
`--launcher-arg=--map-by --launcher-arg=:OVERSUBSCRIBE`, because it takes the step's one task for a limit.

Nothing here imports MPI until rank 0 does.
"""
