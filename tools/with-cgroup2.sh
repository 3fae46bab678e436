#!/bin/bash
# Runs a command as root on this system's own files under another kernel, in qemu, where cgroup v2 is the only one: for
# tests of Slurm's cgroup/v2, which refuses a machine that has any of version 1.
#
#   tools/with-cgroup2.sh COMMAND…
#
# The kernel is Debian 12's, from its packages. The command sees every file of this machine, and what it writes is gone
# with the guest, which has two emulated processors (a test takes some ten times as long), 4 GB and no network but its
# own. The current directory, CARGO_TARGET_DIR and variables SHIFTER_… are the command's, as is the status; 124 after an hour.
# It needs qemu-system-x86_64, busybox (static), cpio, depmod, apt-get and dpkg. For instance
#
#   SHIFTER_BIN_DIR=/opt/bins tools/with-cgroup2.sh "$CARGO_TARGET_DIR"/debug/deps/slurm_extern-… st57
set -euo pipefail
case ${1:-} in -h | --help | '') sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
[ "$(id -u)" = 0 ] || { echo "with-cgroup2.sh: root alone can show a guest every file" >&2 && exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
package=$(apt-cache search --names-only '^linux-image-6\.1\.[0-9.-]+-amd64$' | cut -d' ' -f1 | sort -V | tail -1)
(cd "$work" && apt-get -qq download "${package:-linux-image-6.1}" 2>"$work/said" && dpkg -x "$package"_*.deb kernel) ||
    { echo "with-cgroup2.sh: Debian's package linux-image-6.1…-amd64 could not be downloaded: $(cat "$work/said")" >&2 && exit 2; }
version=$(basename "$work"/kernel/boot/vmlinuz-* | sed 's/^vmlinuz-//')
depmod --basedir "$work/kernel" "$version"

root=$work/root
mkdir -p "$root"/{bin,modules,lower,upper,whole,proc,sys,dev}
cp "$(command -v busybox)" "$root/bin/busybox"
for module in virtio_pci 9pnet_virtio 9p overlay; do
    # What a module needs stands after it, what is needed first last.
    grep "/$module\.ko:" "$work/kernel/lib/modules/$version/modules.dep" | tr -d : | tr ' ' '\n' | tac
done | awk 'NF && !seen[$0]++' | while read -r module; do
    cp "$work/kernel/lib/modules/$version/$module" "$root/modules/"
    basename "$module" >>"$root/modules/order"
done
cat >"$root/init" <<INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc; \$b mount -t sysfs sys /sys; \$b mount -t devtmpfs dev /dev
while read -r module; do \$b insmod /modules/\$module; done </modules/order
\$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 root /lower
\$b mount -t tmpfs -o mode=755 upper /upper
\$b mkdir /upper/new /upper/work
\$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/new,workdir=/upper/work root /whole
for top in proc sys dev; do \$b mount --move /\$top /whole/\$top; done
exec \$b switch_root /whole /bin/bash $work/inside
INIT
chmod 755 "$root/init"
{
    cat <<INSIDE
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /lib/modules/$version
mount -t devpts -o gid=5,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount --bind $work/kernel/lib/modules/$version /lib/modules/$version
for module in bridge veth loop squashfs overlay; do modprobe \$module; done
ip link set lo up
INSIDE
    for name in "${!SHIFTER_@}" "${!CARGO_TARGET_DIR@}"; do printf 'export %s=%q\n' "$name" "${!name}"; done
    printf 'cd %q\n%s\necho "with-cgroup2.sh: status $?"\n' "$PWD" "$(printf '%q ' "$@")"
    echo 'echo o >/proc/sysrq-trigger; sleep 60'
} >"$work/inside"
(cd "$root" && find . -print0 | cpio --quiet --null --create --format=newc --owner=0:0) | gzip -1 >"$work/initramfs"
timeout 3600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 -nographic -no-reboot -net none \
    -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1" \
    -virtfs local,path=/,mount_tag=root,security_model=passthrough,readonly=on,multidevs=remap \
    </dev/null 2>&1 | tr -d '\r' | tee "$work/console" || true
status=$(sed -n 's/^with-cgroup2\.sh: status //p' "$work/console" | tail -1)
exit "${status:-124}"
