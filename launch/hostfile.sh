#!/bin/bash
# A world of mpiframe on hosts without a batch system. Copy this file, change what is marked "yours", and run
# it on the first of the hosts: ./hostfile.sh, or for hours: nohup ./hostfile.sh >survey.log 2>&1 &
#
# Each host has to see this folder and the environment under the same paths, and to be reached by ssh without a
# password: ssh node2 true

# yours: the hosts, each as often as it takes ranks. The first rank is the client, the others are servers.
hosts=hosts.txt
cat >"$hosts" <<HOSTS || exit 1
node1
node2
node2
node3
node3
HOSTS

# yours: the environment with mpiframe in it
. "$HOME/venv/bin/activate" || exit 1

ranks=$(wc -l <"$hosts")

# yours: one of these. "exec", so that signals reach it, and its exit status is the world's. On Ctrl-C (or
# kill -INT) the script gets KeyboardInterrupt, and has the --grace seconds to save what it has.
# 1. A script. (With `--name survey` it can be looked at meanwhile, by `mpiframe top survey` as in 2.)
exec mpiframe run -n "$ranks" --hostfile "$hosts" --grace 45 script.py --its-own-option
# 2. A world without a script, for interactive work until `mpiframe stop survey`. To work with it, on this host:
#    mpiframe attach survey
#exec mpiframe start --foreground --name survey -n "$ranks" --hostfile "$hosts"
