#!/bin/bash
# A world of mpiframe as a job of Slurm. Copy this file, change what is marked "yours", and: sbatch slurm.sh
#
# For a script and nothing else `mpiframe submit -n 16 --walltime 1:00:00 script.py` is shorter: it writes and
# submits such a job itself, on any batch system, and with --wait shows its output. This file is for jobs that
# have more to them: modules, several steps, a warning before the time is over, a world to attach to.

# yours: what the job asks for. As many ranks as tasks; the first is the client, the others are servers.
#SBATCH --job-name=mpiframe
#SBATCH --ntasks=16
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out
# A minute or two before the time is over the script gets KeyboardInterrupt, as by Ctrl-C. It then has
# the --grace seconds below to save what it has (what has a journal is saved); the exit status is 130, or 0 if
# it still ended well. "B:" is for `mpiframe`; with srun (below) leave it out: --signal=INT@60.
#SBATCH --signal=B:INT@60

ranks=${SLURM_NTASKS:?"this is no job of Slurm: sbatch $0"}

# yours: the environment with mpiframe in it, which all nodes have to see
#module load openmpi
. "$HOME/venv/bin/activate" || exit 1

# yours: one of these. "exec", so that signals reach it, and its exit status is the job's.
# 1. A script, started by the MPI's own launcher, which finds the nodes of the job. (With `--name survey` it can be
#    looked at meanwhile, by `mpiframe top survey` as in 3.)
exec mpiframe run -n "$ranks" --grace 45 script.py --its-own-option
# 2. A script, started by Slurm itself, which then counts and limits each rank: where the site wants that, with
#    the site's own MPI. pmix for Open MPI, pmi2 for MPICH; `srun --mpi=list` says what Slurm has.
#exec srun --mpi=pmix --kill-on-bad-exit=1 python -m mpiframe script.py --its-own-option
# 3. A world without a script, for interactive work until the time is over or `mpiframe stop survey`. To work
#    with it: srun --jobid=NUMBER --overlap --nodes=1 --ntasks=1 --pty mpiframe attach survey
#exec mpiframe start --foreground --name survey -n "$ranks"
