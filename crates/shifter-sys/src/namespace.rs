//! Mount namespaces kept without a process in them are joined here; `pin` makes them. An nsfs mount on a file is what
//! keeps one (namespaces(7)).

use crate::error::{During, Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;

#[cfg(feature = "setup")]
pub mod pin;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// Most mounts stacked on one place that are taken off.
const MOST_STACKED: usize = 64;

/// Moves this process into a pinned mount namespace: root and working directory become those of the container.
pub fn join(pin: &OwnedFd) -> Result<()> {
    if fs::fstatfs(pin).during("examine", "a pinned namespace")?.f_type as u64 != NSFS_MAGIC {
        return Err(Error::refused("join", "a pinned namespace", "it is not one"));
    }
    move_into_link_name_space(pin.as_fd(), Some(LinkNameSpaceType::Mount))
        .during("join", "a pinned namespace")
}

/// [`unmount_all`] for what may share with other mounts, which lose nothing.
#[cfg(feature = "setup")]
pub fn take_down(path: &str) -> Result<()> {
    use crate::mount::{Depth, Flags, Propagation, set_attributes_at};
    for _ in 0..MOST_STACKED {
        let cut_off = set_attributes_at(fs::CWD, path, Depth::Recursive, Flags::empty(), Propagation::Slave);
        match cut_off {
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT)) => return Ok(()),
            other => other?,
        }
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).during("unmount", path)?;
    }
    Err(Error::refused("unmount", path, "there is always one more mount on it"))
}

/// Takes everything off that is mounted at `path` or below; it is freed when its last user is gone. Nothing there is
/// no error.
pub fn unmount_all(path: impl rustix::path::Arg + Copy) -> Result<()> {
    for _ in 0..MOST_STACKED {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).during("unmount", path),
        }
    }
    Err(Error::refused("unmount", path.to_string_lossy(), "there is always one more mount on it"))
}
