#!/bin/bash
# Runs a command where another release of Slurm is installed than this machine's, for the tests of the plugin.
#
#   tools/with-slurm.sh DIRECTORY COMMAND…
#
# DIRECTORY has the unpacked packages (dpkg -x) slurm-client, slurmd, slurmctld and slurm-wlm-basic-plugins of that
# release, from a distribution whose C library is not newer than here; they are laid over /usr for the command alone.
# Or it is a whole system that has them, made by mmdebstrap for instance, also newer than this one: the command runs
# in it, and sees SHIFTER_BIN_DIR, CARGO_TARGET_DIR and the current directory. The rest is what ./test installs.
#
# SHIFTER_BIN_DIR must have a plugin built for that release (SHIFTER_SLURM_VERSION). For instance
#
#   tools/with-slurm.sh /opt/slurm-24.11 "$CARGO_TARGET_DIR"/debug/deps/slurm_jobs-… --test-threads 1
#
# What is laid over /usr is not seen by containers of the node's own system, so the test of --ccm fails.
set -euo pipefail
case ${1:-} in -h | --help | '') sed -n '2,16s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
[ -x "$1/usr/bin/srun" ] || { echo "with-slurm.sh: there is no $1/usr/bin/srun" >&2 && exit 2; }
[ $# -gt 1 ] || { echo "with-slurm.sh: there is no command to run" >&2 && exit 2; }
# shellcheck disable=SC2016
over='
    mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr
    shift
    exec "$@"'
# shellcheck disable=SC2016
inside='
    root=$1 here=$PWD
    shift
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    for top in /sys /dev; do mount --rbind $top "$root$top"; done
    for top in /tmp /run; do mount -t tmpfs -o mode=1777 system "$root$top"; done
    chmod 755 "$root/run"
    for shown in "${SHIFTER_BIN_DIR:-}" "${CARGO_TARGET_DIR:-}" "$here"; do
        [ -z "$shown" ] || { mkdir -p "$root$shown" && mount --rbind "$shown" "$root$shown"; }
    done
    mkdir "$root/run/outside"
    cd "$root"
    pivot_root . run/outside
    umount -l /run/outside
    cd "$here"
    unset TMPDIR
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    exec "$@"'
how=$over
[ ! -e "$1/etc/os-release" ] || how=$inside
exec unshare --mount --propagation private bash -ec "$how" with-slurm.sh "$(realpath "$1")" "${@:2}"
