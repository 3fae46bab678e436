#!/usr/bin/shifter /bin/bash
#SBATCH --image=docker:yourRepo/yourImage:latest
#SBATCH -N 2
## every other node of the allocation, by the container's own ssh
for node in $(sort -u /var/hostsfile); do
    ssh $node yourExecutable
done
