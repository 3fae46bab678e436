#!/bin/bash
#SBATCH --image=docker:yourRepo/yourImage:latest
#SBATCH -N 2
for hostname in $(scontrol show hostname $SLURM_NODELIST); do
    ssh $hostname shifter yourExecutable
done
