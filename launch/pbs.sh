#!/bin/bash
# A world of mpiframe as a job of PBS (OpenPBS, PBS Pro; Torque). Copy this file, change what is marked "yours",
# and: qsub pbs.sh
#
# For a script and nothing else `mpiframe submit -n 16 --walltime 1:00:00 script.py` is shorter: it writes and
# submits such a job itself, on any batch system, and with --wait shows its output. This file is for jobs that
# have more to them: modules, several steps, a warning before the time is over, a world to attach to.

# yours: what the job asks for; here 2 nodes with 8 ranks each. The first rank is the client, the others are
# servers. On Torque the third line is: -l nodes=2:ppn=8
#PBS -N mpiframe
#PBS -j oe
#PBS -l select=2:ncpus=8:mpiprocs=8
#PBS -l walltime=01:00:00

# yours: the walltime less a minute, in seconds. Then the script gets KeyboardInterrupt, as by Ctrl-C. It has the
# --grace seconds below to save what it has (what has a journal is saved); the exit status is 130, or 0 if it
# still ended well. PBS itself would end all ranks at once.
warn_after=3540

cd "${PBS_O_WORKDIR:?"this is no job of PBS: qsub $0"}" || exit 1

# yours: the environment with mpiframe in it, which all nodes have to see
#module load openmpi
. "$HOME/venv/bin/activate" || exit 1

# PBS writes a line a rank. The other nodes are reached by ssh, which must not ask for a password.
ranks=$(wc -l <"$PBS_NODEFILE")

# yours: one of these.
# 1. A script. (With `--name survey` it can be looked at meanwhile, by `mpiframe top survey` as in 2.)
run=(mpiframe run -n "$ranks" --hostfile "$PBS_NODEFILE" --grace 45 script.py --its-own-option)
# 2. A world without a script, for interactive work until the time is over or `mpiframe stop survey`. To work
#    with it: ssh -t NODE mpiframe attach survey (NODE: the first of `qstat -f NUMBER | grep exec_host`)
#run=(mpiframe start --foreground --name survey -n "$ranks" --hostfile "$PBS_NODEFILE")

# "exec", so that signals reach it, and its exit status is the job's.
exec timeout --foreground --preserve-status --signal=INT "$warn_after" "${run[@]}"
