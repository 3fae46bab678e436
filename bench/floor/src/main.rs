//! The floor under a private start: the mounts and files of `shifter --dry-run` for the benchmark's
//! configuration, made with as few system calls as the kernel's interfaces allow, privileges dropped as
//! `shifter` must drop them, exec.
//!
//! It reads no configuration and checks nothing, knows the image's entries beforehand, and is told the loop
//! device (or, for a first container, the image file to attach). It has no start-up code but the C library's. **It
//! is no container runtime**: setuid root and trusting its caller, it must never lie where anybody can run it; the
//! driver installs it in a mount namespace that no other process sees.
//!
//!     bench-floor /dev/loopN|/…/ID.squashfs PROGRAM [WORD…]
#![no_main]

mod kernel;

use bench_layout::{ETC, ETC_LAYERS, Entry, IMAGE, ROOT, TOP, VAR};
use kernel::{AT_FDCWD, Flags, copy, create_file, detached, directory, link, place};
use libc::{c_char, c_int};
use std::ffi::CStr;

const SAFE: Flags =
    Flags { set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, propagation: libc::MS_PRIVATE };

/// Called by the C library's start-up code.
///
/// # Safety
/// `words` has `count` pointers to NUL-terminated strings and a null pointer after them.
// SAFETY: the program's one symbol of that name, with the signature the C library calls it by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    if count < 3 {
        kernel::give_up(c"usage: bench-floor DEVICE PROGRAM [WORD...]");
    }
    // SAFETY: `words` has `count` pointers to NUL-terminated strings and a null pointer after them.
    let (device, argv) = unsafe { (CStr::from_ptr(*words.add(1)), words.add(2)) };
    kernel::enter_new_namespace();
    let image = mount_image(device);
    let root = detached(c"tmpfs", &[(c"source", c"shifter"), (c"mode", c"0755")], false, SAFE.set);
    place(root, AT_FDCWD, ROOT);
    assemble(image, root);
    kernel::pivot_into(root);
    kernel::become_the_caller();
    kernel::exec(argv)
}

fn mount_image(device: &CStr) -> c_int {
    let attached;
    let mut source = device;
    let mut path = [0u8; 32];
    if !device.to_bytes().starts_with(b"/dev/loop") {
        attached = kernel::attach(device, &mut path);
        source = attached.path;
    }
    let image = detached(c"squashfs", &[(c"source", source)], true, SAFE.set | libc::MOUNT_ATTR_RDONLY);
    place(image, AT_FDCWD, IMAGE);
    // Private, so that copies of its directories are: one call here instead of one for each of them.
    kernel::set_flags(image, Flags { set: 0, ..SAFE });
    image
}

fn assemble(image: c_int, root: c_int) {
    for path in [
        c"etc",
        c"etc/udiImage",
        c"opt",
        c"opt/udiImage",
        c"opt/udiImage/modules",
        c"var",
        c"var/spool",
        c"var/run",
        c"var/tmp",
    ] {
        directory(root, path, 0o755);
    }
    directory(root, c"var/empty", 0o700);
    for path in [c"proc", c"sys", c"dev", c"tmp", c"home"] {
        directory(root, path, 0o755);
    }
    place(copy(AT_FDCWD, c"/home", Some(SAFE), false), root, c"home");
    let etc = kernel::open_directory(root, c"etc");
    link(etc, c"mtab", c"/proc/mounts");
    for (name, content) in ETC {
        create_file(etc, name, content.as_bytes());
    }
    let no_exec = Flags { set: SAFE.set | libc::MOUNT_ATTR_NOEXEC, ..SAFE };
    let devices = Flags { set: libc::MOUNT_ATTR_NOSUID, ..SAFE };
    for (path, flags, recursive) in [
        (c"/proc", no_exec, false),
        (c"/sys", SAFE, false),
        (c"/dev", devices, true),
        (c"/tmp", SAFE, false),
        (c"/var/tmp", SAFE, false),
    ] {
        let relative = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[1..]).unwrap_or(c".");
        place(copy(AT_FDCWD, path, Some(flags), recursive), root, relative);
    }
    show(image, root, &TOP);
    let var = kernel::open_directory(root, c"var");
    show(kernel::open_directory(image, c"var"), var, &VAR);
    directory(etc, c"ssh", 0o755);
    kernel::mark_opaque(kernel::open_directory(etc, c"ssh"));
    let options = [(c"source", c"shifter"), (c"lowerdir", ETC_LAYERS)];
    place(detached(c"overlay", &options, true, SAFE.set | libc::MOUNT_ATTR_RDONLY), root, c"etc");
    // As long as the record that shifter writes.
    create_file(var, c"shifterConfig.json", &[b' '; 122]);
}

fn show(from: c_int, to: c_int, entries: &[(&CStr, Entry)]) {
    for (name, entry) in entries {
        match entry {
            Entry::Shown => {
                directory(to, name, 0o755);
                place(copy(from, name, None, false), to, name);
            }
            Entry::Link(target) => link(to, name, target),
            Entry::Hidden | Entry::HiddenLink(_) => {}
        }
    }
}
