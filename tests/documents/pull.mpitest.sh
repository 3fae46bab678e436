shifterimg pull dmjacobsen/mpitest:latest
