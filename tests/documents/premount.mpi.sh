mkdir -p var/opt/cray
mkdir -p etc/opt/cray
mkdir shifter
