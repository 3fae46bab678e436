//! The floor's system calls, each one line of use: what fails ends the program with the step's name. No errors
//! worth the name, because nothing but the benchmark ever calls it.

use libc::{c_char, c_int, c_long, c_ulong};
use std::ffi::CStr;
use std::ptr::null;

pub(crate) use libc::AT_FDCWD;

const LOOP_CTL_GET_FREE: c_ulong = 0x4C82;
const LOOP_CONFIGURE: c_ulong = 0x4C0A;
/// `LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR` of linux/loop.h.
const READ_ONLY_AND_AUTOCLEAR: u32 = 1 | 4;
/// `struct loop_config` of linux/loop.h in 32-bit words: the descriptor is the first, the flags the 16th.
const CONFIG_WORDS: usize = 304 / 4;
const FLAGS_WORD: usize = 2 + 52 / 4;

/// What mount_setattr(2) sets.
#[derive(Clone, Copy)]
pub(crate) struct Flags {
    pub(crate) set: u64,
    pub(crate) propagation: c_ulong,
}

/// Says which step failed, with its error number, and ends the program.
pub(crate) fn give_up(step: &CStr) -> ! {
    // SAFETY: perror takes a NUL-terminated string; _exit ends the program.
    unsafe {
        libc::perror(step.as_ptr());
        libc::_exit(1)
    }
}

fn must(code: c_long, step: &CStr) -> c_int {
    if code < 0 { give_up(step) } else { code as c_int }
}

fn close(fd: c_int) {
    // SAFETY: every caller owns `fd` and uses it no more.
    unsafe { libc::close(fd) };
}

/// A mount namespace of its own, from which nothing goes back.
pub(crate) fn enter_new_namespace() {
    // SAFETY: no memory is passed.
    must(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into(), c"unshare");
    set_attributes(AT_FDCWD, c"/", libc::AT_RECURSIVE, Flags { set: 0, propagation: libc::MS_SLAVE });
}

fn set_attributes(fd: c_int, path: &CStr, how: c_int, flags: Flags) {
    let attributes: [u64; 4] = [flags.set, 0, flags.propagation, 0];
    // SAFETY: the path is NUL-terminated, and `struct mount_attr` is four 64-bit words.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            how,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    must(code, c"mount_setattr");
}

/// Sets flags and propagation of the mount that `fd` holds.
pub(crate) fn set_flags(fd: c_int, flags: Flags) {
    set_attributes(fd, c"", libc::AT_EMPTY_PATH, flags);
}

/// A new file system, not attached anywhere yet.
pub(crate) fn detached(kind: &CStr, options: &[(&CStr, &CStr)], read_only: bool, flags: u64) -> c_int {
    const SET_FLAG: c_int = 0;
    const SET_STRING: c_int = 1;
    const CREATE: c_int = 6;
    const CLOEXEC: c_int = 1;
    // SAFETY: `kind` is NUL-terminated.
    let context = must(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) }, c"fsopen");
    let configure = |command: c_int, key: *const c_char, value: *const c_char| {
        // SAFETY: key and value are null or NUL-terminated, as `command` wants them.
        must(unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) }, c"fsconfig");
    };
    for (key, value) in options {
        configure(SET_STRING, key.as_ptr(), value.as_ptr());
    }
    if read_only {
        configure(SET_FLAG, c"ro".as_ptr(), null());
    }
    configure(CREATE, null(), null());
    // SAFETY: no memory is passed.
    let mount = must(unsafe { libc::syscall(libc::SYS_fsmount, context, CLOEXEC, flags) }, c"fsmount");
    close(context);
    mount
}

/// Attaches a detached mount. The descriptor stays open: it is the mount's root.
pub(crate) fn place(mount: c_int, directory: c_int, path: &CStr) {
    const FROM_DESCRIPTOR: c_int = 4; // MOVE_MOUNT_F_EMPTY_PATH
    // SAFETY: both paths are NUL-terminated.
    let code = unsafe {
        libc::syscall(libc::SYS_move_mount, mount, c"".as_ptr(), directory, path.as_ptr(), FROM_DESCRIPTOR)
    };
    must(code, path);
}

/// A detached copy of the mount at `path`, with the mounts below it or without.
pub(crate) fn copy(directory: c_int, path: &CStr, flags: Option<Flags>, recursive: bool) -> c_int {
    const CLONE_CLOEXEC: c_int = 1 | libc::O_CLOEXEC;
    let depth = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated.
    let code = unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), CLONE_CLOEXEC | depth) };
    let copy = must(code, path);
    if let Some(flags) = flags {
        set_attributes(copy, c"", libc::AT_EMPTY_PATH | depth, flags);
    }
    copy
}

/// mkdirat(2)
pub(crate) fn directory(parent: c_int, path: &CStr, mode: libc::mode_t) {
    // SAFETY: the path is NUL-terminated.
    must(unsafe { libc::mkdirat(parent, path.as_ptr(), mode) }.into(), path);
}

/// symlinkat(2)
pub(crate) fn link(parent: c_int, name: &CStr, target: &CStr) {
    // SAFETY: both are NUL-terminated.
    must(unsafe { libc::symlinkat(target.as_ptr(), parent, name.as_ptr()) }.into(), name);
}

/// A handle of a directory.
pub(crate) fn open_directory(parent: c_int, path: &CStr) -> c_int {
    // O_RDONLY, because fsetxattr(2) takes no O_PATH handle.
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated.
    must(unsafe { libc::openat(parent, path.as_ptr(), flags) }.into(), path)
}

/// Writes a new file.
pub(crate) fn create_file(parent: c_int, name: &CStr, content: &[u8]) {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: the name is NUL-terminated.
    let file = must(unsafe { libc::openat(parent, name.as_ptr(), flags, 0o644) }.into(), name);
    if !content.is_empty() {
        // SAFETY: `content` is as long as said.
        must(unsafe { libc::write(file, content.as_ptr().cast(), content.len()) } as c_long, name);
    }
    close(file);
}

/// Hides what lower layers have in this directory (overlayfs documentation, "opaque").
pub(crate) fn mark_opaque(directory: c_int) {
    let name = c"trusted.overlay.opaque";
    // SAFETY: the name is NUL-terminated, the value one byte long.
    must(unsafe { libc::fsetxattr(directory, name.as_ptr(), b"y".as_ptr().cast(), 1, 0) }.into(), name);
}

/// A loop device with an image on it. The descriptor is left open: without it the device would clear itself.
pub(crate) struct Attached<'p> {
    pub(crate) path: &'p CStr,
}

/// Puts `file` on a free loop device, whose path is written to `path`.
pub(crate) fn attach<'p>(file: &CStr, path: &'p mut [u8; 32]) -> Attached<'p> {
    // SAFETY: the paths are NUL-terminated; the requests take nothing, and a loop_config.
    unsafe {
        let image = must(libc::open(file.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC).into(), file);
        let control =
            must(libc::open(c"/dev/loop-control".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC).into(), file);
        let mut config = [0u32; CONFIG_WORDS];
        config[0] = image as u32;
        config[FLAGS_WORD] = READ_ONLY_AND_AUTOCLEAR;
        loop {
            let number = must(libc::ioctl(control, LOOP_CTL_GET_FREE as _).into(), c"LOOP_CTL_GET_FREE");
            libc::snprintf(path.as_mut_ptr().cast(), path.len(), c"/dev/loop%d".as_ptr(), number);
            let device =
                must(libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC).into(), file);
            let done = libc::ioctl(device, LOOP_CONFIGURE as _, config.as_ptr());
            // Somebody else on this machine may have been faster: loop(4).
            if done == 0 || *libc::__errno_location() != libc::EBUSY {
                must(done.into(), c"LOOP_CONFIGURE");
                break;
            }
            libc::close(device);
        }
    }
    Attached { path: CStr::from_bytes_until_nul(path).unwrap_or(c"") }
}

/// Makes `root` the root of everything and detaches all else.
pub(crate) fn pivot_into(root: c_int) {
    // SAFETY: the paths are NUL-terminated.
    unsafe {
        must(libc::fchdir(root).into(), c"fchdir");
        must(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()), c"pivot_root");
        must(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into(), c"umount2");
        must(libc::chdir(c"/".as_ptr()).into(), c"chdir");
    }
}

/// Gives root up for good: bounding and ambient sets emptied, then the ids; the kernel empties the other sets with
/// them (capabilities(7)). Groups are the caller's own all along.
pub(crate) fn become_the_caller() {
    const LAST_CAPABILITY: c_ulong = 63;
    // SAFETY: ids by value only; prctl's four arguments are numbers.
    unsafe {
        for capability in 0..=LAST_CAPABILITY {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break; // past the last one that this kernel has
            }
        }
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong;
        must(libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0).into(), c"ambient capabilities");
        let (uid, gid) = (libc::getuid(), libc::getgid());
        must(libc::setresgid(gid, gid, gid).into(), c"setresgid");
        must(libc::setresuid(uid, uid, uid).into(), c"setresuid");
        must(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(), c"no_new_privs");
    }
}

/// Runs `argv` with the environment this program was given.
pub(crate) fn exec(argv: *const *const c_char) -> ! {
    // SAFETY: `argv` ends in a null pointer and has at least one string.
    unsafe { libc::execv(*argv, argv) };
    give_up(c"execv")
}
