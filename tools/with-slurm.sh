#!/bin/bash
# Runs a command where another release of Slurm is installed than this machine's, for the tests of the plugin.
#
#   tools/with-slurm.sh DIRECTORY COMMAND…
#
# DIRECTORY has the unpacked packages (dpkg -x) slurm-client, slurmd, slurmctld and slurm-wlm-basic-plugins of that
# release, from a distribution whose C library is not newer than here. They are laid over /usr for the command alone.
# SHIFTER_BIN_DIR must have a plugin built for it (SHIFTER_SLURM_VERSION). For instance, in tests/:
#
#   SHIFTER_BIN_DIR=… ../tools/with-slurm.sh /opt/slurm-21.08 cargo nextest run -E 'binary(/^slurm_/)'
#
# Containers of the node's own system (--ccm) see /usr without what is laid over it, so that test fails; before 22.05
# also those of what Slurm could not do yet: other releases refused, groups, PMIx 4, cgroup.conf.
set -euo pipefail
case ${1:-} in -h | --help | '') sed -n '2,14s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
[ -x "$1/usr/bin/srun" ] || { echo "with-slurm.sh: there is no $1/usr/bin/srun" >&2 && exit 2; }
[ $# -gt 1 ] || { echo "with-slurm.sh: there is no command to run" >&2 && exit 2; }
# shellcheck disable=SC2016
exec unshare --mount --propagation private bash -ec '
    mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr
    shift
    exec "$@"' with-slurm "$(realpath "$1")" "${@:2}"
