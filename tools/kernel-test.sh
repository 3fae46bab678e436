# shellcheck shell=bash
# `./test --kernel`: the programs on the oldest kernel of a supported distribution that can be had, in qemu. Sourced
# by `test`, which has built the programs into $1.

# Linux 6.1 is Debian 12's; its packages are what this knows how to fetch.
kernel_test() {
    local programs=$1 work package version module
    say "what the kernel test needs"
    install_packages <<'PACKAGES' || fail "the kernel test needs qemu, cpio, kmod, a static busybox and programs that make file systems"
qemu-system-x86_64      qemu-system-x86     qemu-kvm-core       runs another kernel
cpio                    cpio                cpio                packs its first root
depmod                  kmod                kmod                knows which modules need which
busybox                 busybox-static      busybox             programs for it
mksquashfs              squashfs-tools      squashfs-tools      writes an image
mkfs.erofs              erofs-utils         erofs-utils         writes another
mkfs.ext4               e2fsprogs           e2fsprogs           makes perNodeCaches
PACKAGES
    [ "$(uname -m)" = x86_64 ] || fail "the kernel test runs on x86_64 only"
    command -v apt-get >/dev/null || fail "the kernel test takes its kernel from Debian's packages, and apt-get is not here"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # now, not later
    trap "rm -rf '$work'" RETURN
    package=$(apt-cache search --names-only '^linux-image-6\.1\.[0-9.-]+-cloud-amd64$' | cut -d' ' -f1 | sort -V | tail -1)
    [ -n "$package" ] || fail "no package linux-image-6.1…-cloud-amd64 is to be had from apt here"
    say "Linux of $package"
    (cd "$work" && apt-get -qq download "$package" 2>/dev/null && dpkg -x "$package"_*.deb kernel) ||
        fail "$package could not be downloaded"
    version=$(basename "$work"/kernel/boot/vmlinuz-* | sed 's/^vmlinuz-//')
    depmod --basedir "$work/kernel" "$version"

    local root=$work/root
    mkdir -p "$root"/{bin,images,modules,etc,opt/shifter/bin,opt/shifter/sbin}
    cp "$(command -v busybox)" "$root/bin/busybox"
    install -m 0755 tests/kernel/init "$root/init"
    install -m 0755 "$programs/shifter" "$root/opt/shifter/bin/"
    install -m 0755 "$programs/setupRoot" "$programs/unsetupRoot" "$root/opt/shifter/sbin/"
    # With its libraries; ext4 itself is built into this kernel.
    for module in "$(command -v mkfs.ext4)" $(ldd "$(command -v mkfs.ext4)" | grep -o '/[^ ]*'); do
        install -D "$module" "$root/${module#/}"
    done
    [ -x "$root/usr/sbin/mkfs.ext4" ] || install -D "$root$(command -v mkfs.ext4)" "$root/usr/sbin/mkfs.ext4"
    for module in loop squashfs overlay erofs; do
        # What a module needs stands after it, what is needed first last.
        grep "/$module\.ko:" "$work/kernel/lib/modules/$version/modules.dep" | tr -d : | tr ' ' '\n' | tac
    done | awk 'NF && !seen[$0]++' | while read -r module; do
        cp "$work/kernel/lib/modules/$version/$module" "$root/modules/"
        basename "$module" >>"$root/modules/order"
    done

    local tree=$work/tree id
    mkdir -p "$tree"/{bin,etc,usr,data,mnt,var,opt}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    for module in sh cat id grep cut sort touch pwd; do ln -s busybox "$tree/bin/$module"; done
    echo image >"$tree/data/of-image"
    mksquashfs "$tree" "$work/image" -all-root -no-xattrs -quiet -no-progress >/dev/null
    id=$(sha256sum "$work/image" | cut -d' ' -f1)
    cp "$work/image" "$root/images/$id.squashfs"
    printf 'FORMAT: squashfs\n' >"$root/images/$id.meta"
    echo "$id" >"$root/images/id"
    mkfs.erofs --quiet "$work/other" "$tree"
    id=$(sha256sum "$work/other" | cut -d' ' -f1)
    cp "$work/other" "$root/images/$id.erofs"
    printf 'FORMAT: erofs\n' >"$root/images/$id.meta"
    echo "$id" >"$root/images/erofs"
    (cd "$root" && find . -print0 | cpio --quiet --null --create --format=newc --owner=0:0) | gzip -1 >"$work/initramfs"

    local how said failed=no
    for how in switch initramfs; do
        say "in qemu, the root being $([ $how = switch ] && echo "a tmpfs after switch_root" || echo "the initramfs itself")"
        said=$(timeout 300 qemu-system-x86_64 -accel tcg -cpu max -m 1024 -nographic -no-reboot \
            -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initramfs" \
            -append "console=ttyS0 quiet panic=-1 $how" </dev/null 2>&1 | tr -d '\r') || true
        grep '^kernel test:' <<<"$said" || true
        if ! grep -q '^kernel test: passed' <<<"$said"; then
            tail -20 <<<"$said"
            failed=yes
        fi
    done
    [ $failed = no ] || fail "the kernel test did not pass"
}
