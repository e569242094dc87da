#!/bin/bash
# A world of mpiframe as a job of Grid Engine. Copy this file, change what is marked "yours", and: qsub sge.sh
#
# For a script and nothing else `mpiframe submit -n 16 --walltime 1:00:00 script.py` is shorter: it writes and
# submits such a job itself, on any batch system, and with --wait shows its output. This file is for jobs that
# have more to them: modules, several steps, a warning before the time is over, a world to attach to.

# yours: what the job asks for. As many ranks as slots; the first is the client, the others are servers.
# `qconf -spl` lists the parallel environments, `qconf -sp NAME` says how one spreads slots over hosts.
#$ -N mpiframe
#$ -S /bin/bash
#$ -cwd
#$ -j y
#$ -pe mpi 16
# When the soft limit of time is over, and (by -notify) before the job is deleted, the script gets
# KeyboardInterrupt, as by Ctrl-C. It then has the --grace seconds below to save what it has (what has a journal
# is saved); the exit status is 130, or 0 if it still ended well.
#$ -l h_rt=01:00:00
#$ -l s_rt=00:59:00
#$ -notify

# One line a rank, which every MPI can read; Grid Engine's own list is "host slots queue processors".
list=${PE_HOSTFILE:?"this is no job of Grid Engine in a parallel environment: qsub $0"}
hosts=$TMPDIR/hosts
awk '{for (slot = 0; slot < $2; slot++) print $1}' "$list" >"$hosts" || exit 1

# yours: the environment with mpiframe in it, which all hosts have to see
#module load openmpi
. "$HOME/venv/bin/activate" || exit 1

# yours: one of these.
# 1. A script. (With `--name survey` it can be looked at meanwhile, by `mpiframe top survey` as in 2.)
run=(mpiframe run -n "$NSLOTS" --hostfile "$hosts" --grace 45 script.py --its-own-option)
# 2. A world without a script, for interactive work until the time is over or `mpiframe stop survey`. To work
#    with it: ssh -t HOST mpiframe attach survey (HOST: `qstat -g t` shows where MASTER is)
#run=(mpiframe start --foreground --name survey -n "$NSLOTS" --hostfile "$hosts")

# Grid Engine warns by SIGUSR1 and SIGUSR2, and sends them to all processes of the script: this shell makes
# an interrupt of them, the others take no notice. The exit status is the world's.
trap 'kill -INT $world' USR1 USR2
(
    trap '' USR1 USR2
    exec "${run[@]}"
) &
world=$!
wait $world
status=$?
while kill -0 $world 2>/dev/null; do # a signal ends the waiting, too
    wait $world
    status=$?
done
exit $status
