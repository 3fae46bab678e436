//! Mounts by descriptor: file systems are made detached, flags are set on the detached thing, then it is
//! attached. Nothing is mounted by name twice, so nothing can be swapped in between (CVE-2021-30465).
//!
//! These are the interfaces of Linux 5.12: fsopen(2), open_tree(2), mount_setattr(2), move_mount(2).

use crate::descriptors::{Proc, path_of};
use crate::error::{During, Error, Result};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Flags every mount of ours has.
pub const SAFE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
/// Read-only besides.
pub const SAFE_READ_ONLY: MountAttrFlags = SAFE.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
/// For procfs.
pub const SAFE_NO_EXEC: MountAttrFlags = SAFE.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// For `/dev` and what lies below it, which is of no use without devices.
pub const NO_SETUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub use rustix::mount::MountAttrFlags as Flags;

/// How a mount exchanges later mounts with where it came from; values of linux/mount.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing in or out.
    Private = 1 << 18,
    /// Later mounts come in.
    Slave = 1 << 19,
    /// Both ways.
    Shared = 1 << 20,
}

/// Whether mounts below come along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The one mount.
    One,
    /// It and all below it.
    Recursive,
}

/// Leaves the caller's mount namespace for a new one. Nothing may be mounted before [`cut_off`].
pub fn enter_new_namespace() -> Result<()> {
    // SAFETY: only CLONE_NEWNS is given: memory and descriptors stay shared as they were, and the process
    // has one thread (what unshare_unsafe asks to be considered is CLONE_FILES).
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.during("enter", "a new mount namespace")
}

/// Lets nothing go back from this namespace to the one it came from; later mounts still come in.
pub fn cut_off() -> Result<()> {
    set_attributes_at(CWD, "/", Depth::Recursive, Flags::empty(), Propagation::Slave)
}

/// A new file system, detached. `options` are keys with values, or with none; `ro` is set for those with the flag.
pub fn new_file_system(kind: &str, options: &[(&str, &str)], flags: Flags) -> Result<OwnedFd> {
    // ENODEV, "no such device", is the answer to an unknown kind.
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).during("use the file system", kind)?;
    let read_only = flags.contains(Flags::MOUNT_ATTR_RDONLY).then_some(("ro", ""));
    for (key, value) in options.iter().copied().chain(read_only) {
        let set = match value {
            "" => fsconfig_set_flag(&context, key),
            value => fsconfig_set_string(&context, key, value),
        };
        set.map_err(|error| explain(&context, kind, error))?;
    }
    fsconfig_create(&context).map_err(|error| explain(&context, kind, error))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(|error| explain(&context, kind, error))
}

/// Adds what the file system itself had to say (fsopen(2): messages are read from the context).
fn explain(context: &OwnedFd, kind: &str, error: Errno) -> Error {
    let mut message = [0u8; 256];
    let length = rustix::io::read(context, &mut message).unwrap_or(0);
    let said = String::from_utf8_lossy(&message[..length]).trim().to_owned();
    let object = if said.is_empty() { kind.to_owned() } else { format!("{kind} ({said})") };
    Error { operation: "mount", object, cause: crate::error::Cause::Kernel(error.into()) }
}

/// An overlay of directories held by descriptor, topmost first; read-only unless `write` says where changes go:
/// an upper directory and an empty work directory of the same file system (overlayfs.rst).
pub fn new_overlay(proc: &Proc, layers: &[&OwnedFd], write: Option<[&OwnedFd; 2]>) -> Result<OwnedFd> {
    let lower: Vec<String> = layers.iter().map(|layer| path_of(proc, *layer)).collect();
    let lower = lower.join(":");
    let options = [("source", "shifter"), ("lowerdir", lower.as_str())];
    let Some([upper, work]) = write.map(|places| places.map(|place| path_of(proc, place))) else {
        return new_file_system("overlay", &options, SAFE_READ_ONLY);
    };
    let changes = [("upperdir", upper.as_str()), ("workdir", work.as_str())];
    new_file_system("overlay", &[options, changes].concat(), SAFE)
}

/// A detached copy of the mount at an open place, with `flags` set on it and, if asked, on all below.
pub fn copy_of(
    place: &impl AsFd,
    name: &str,
    depth: Depth,
    flags: Flags,
    propagation: Propagation,
) -> Result<OwnedFd> {
    let mut how =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if depth == Depth::Recursive {
        how |= OpenTreeFlags::AT_RECURSIVE;
    }
    let copy = open_tree(place, "", how).during("copy the mount of", name)?;
    set_attributes_at(&copy, "", depth, flags, propagation)?;
    Ok(copy)
}

/// A private read-only copy of the mount at an open place of root's, from which programs can run: `/run`, where the
/// place may lie, is mounted noexec by some distributions.
pub fn executable_copy_of(place: &impl AsFd, name: &str) -> Result<OwnedFd> {
    let copy = copy_of(place, name, Depth::One, SAFE_READ_ONLY, Propagation::Private)?;
    change_attributes(&copy, "", libc::AT_EMPTY_PATH, [0, libc::MOUNT_ATTR_NOEXEC, 0])?;
    Ok(copy)
}

/// Mounts what `from` has under `name` on what `to` has under the same name. The mount `from` lies on must be
/// private and carry its flags already: a copy inherits both, so this is two system calls per entry.
pub fn graft(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr) -> Result<()> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let copy = open_tree(from, name, how).during("copy the mount of", name)?;
    move_mount(&copy, "", to, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during("mount on", name)
}

/// Sets flags and propagation of the mount at `path` from `directory`.
pub fn set_attributes_at(
    directory: impl AsFd,
    path: &str,
    depth: Depth,
    flags: Flags,
    propagation: Propagation,
) -> Result<()> {
    let mut how = libc::AT_NO_AUTOMOUNT;
    if path.is_empty() {
        how |= libc::AT_EMPTY_PATH;
    }
    if depth == Depth::Recursive {
        how |= libc::AT_RECURSIVE;
    }
    change_attributes(directory, path, how, [flags.bits().into(), 0, propagation as u64])
}

/// mount_setattr(2); `[set, clear, propagation]`.
fn change_attributes(directory: impl AsFd, path: &str, how: i32, change: [u64; 3]) -> Result<()> {
    let [set, clear, propagation] = change;
    // `struct mount_attr` of linux/mount.h, the last for a user namespace.
    let attributes = [set, clear, propagation, 0u64];
    let c_path =
        std::ffi::CString::new(path).map_err(std::io::Error::from).during("set the flags of", path)?;
    // SAFETY: the path is NUL-terminated, the array is mount_attr in its first version, whose size is
    // passed, and both outlive the call; mount_setattr(2) writes to neither.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_fd().as_raw_fd(),
            c_path.as_ptr(),
            how,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).during("set the flags of", path) }
}

/// Attaches a detached mount on an open place.
pub fn attach(mount: &OwnedFd, place: &OwnedFd, name: &str) -> Result<()> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", how).during("mount on", name)
}

/// Makes `root`, a mount of this namespace, the root of everything and detaches all else.
///
/// On a node whose root is its initramfs nothing can be pivoted or detached (pivot_root(2), "rootfs"). There the
/// container is moved over that root, as switch_root(8) does; what lies below can be named by nobody, since no
/// directory outside is open and the process cannot leave its root without CAP_SYS_CHROOT.
pub fn pivot_into(root: &OwnedFd) -> Result<()> {
    rustix::process::fchdir(root).during("enter", "the container's root")?;
    match rustix::process::pivot_root(".", ".") {
        Err(Errno::INVAL) => {
            let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(root, "", CWD, "/", how).during("move over the host's root", "the container's")?;
            rustix::process::chroot(".").during("enter", "the container's root")?;
        }
        other => {
            other.during("pivot into", "the container's root")?;
            unmount(".", UnmountFlags::DETACH).during("detach", "the host's root")?;
        }
    }
    rustix::process::chdir("/").during("enter", "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_the_kernel_does_not_have_is_no_such_device() {
        assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root, as ./test does");
        let error = new_file_system("shifterfs", &[], SAFE).map(drop).map_err(|error| error.errno());
        assert_eq!(error, Err(Some(libc::ENODEV)));
    }

    #[test]
    fn what_a_file_system_says_is_part_of_the_error() {
        assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root, as ./test does");
        let error =
            new_file_system("tmpfs", &[("size", "many")], SAFE).map(drop).map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|text| text.contains("size")), "{error:?}");
    }
}
