#!/usr/bin/shifter /bin/bash
#SBATCH --image=docker:yourRepo/yourImage:latest
#SBATCH -N 2
mpirun -launcher ssh -f /var/nodeslist -n 4 mpiExecutable
