#!/bin/bash
#SBATCH --ccm
#SBATCH -N 2
for node in $(sort -u /var/hostsfile); do
    ssh $node yourExecutable
done
