#!/bin/bash
#SBATCH --image=docker:yourRepo/yourImage:latest
srun shifter mpiExecutable.sh
