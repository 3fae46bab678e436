//! Mount namespaces kept without a process in them, and joined later: an nsfs mount on a file is what keeps one
//! (namespaces(7)). An own tmpfs, private, holds such mounts, since they cannot lie on shared ones.

use crate::child;
use crate::descriptors::{Proc, path_of};
use crate::directory as dir;
use crate::error::{During, Error, Result};
use crate::mount::{self, Depth, Propagation, SAFE};
use crate::trusted;
use rustix::fd::OwnedFd;
use rustix::fs;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, UnshareFlags, move_into_link_name_space, sched_getcpu, sched_setaffinity,
    unshare_unsafe,
};
use std::os::fd::AsFd;

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

/// The directory `path` with a private tmpfs of root's alone on it, mounted if it is not yet.
pub fn private_directory(path: &str) -> Result<OwnedFd> {
    let (parent, _) = path.rsplit_once('/').unwrap_or(("/", ""));
    let above = trusted::open_or_make_directory(parent, 0o700)?;
    let place = trusted::open_or_make_directory(path, 0o700)?;
    if dir::status(&place, path)?.st_dev != dir::status(&above, parent)?.st_dev {
        return Ok(place);
    }
    let own = mount::new_file_system("tmpfs", &[("source", "shifter"), ("mode", "0700")], SAFE)?;
    mount::attach(&own, &place, path)?;
    mount::set_attributes_at(&own, "", Depth::One, SAFE, Propagation::Private)?;
    Ok(own)
}

/// Does `build` in a child, which moves into a mount namespace of its own by it, and pins that on the file `place`.
/// `build` may be done a second time, in another child.
pub fn pin(proc: &Proc, place: &OwnedFd, build: impl Fn() -> std::result::Result<(), String>) -> Result<()> {
    let target = path_of(proc, place);
    let attempt = |use_up: bool| {
        let child = child::Held::start(|| {
            if use_up {
                use_up_numbers().map_err(|error| error.to_string())?;
            }
            build()
        })?;
        let namespace = format!("/proc/{}/ns/mnt", child.pid());
        // Not by move_mount(2), which refuses namespaces.
        mount_bind(&*namespace, &*target).during("pin", namespace)
    };
    match attempt(false) {
        Err(error) if error.errno() == Some(libc::EINVAL) => attempt(true),
        other => other,
    }
}

/// A namespace can only be pinned in an older one, and what is older is told by a number. From Linux 6.18 each
/// processor has a stock of 4,096 numbers, so that a new namespace may get a low one. When this processor's stock is
/// used up, cheaply by namespaces of host names, its next is higher than any there is.
fn use_up_numbers() -> Result<()> {
    const STOCK: usize = 4096;
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).during("stay on", "a processor")?;
    for _ in 0..STOCK {
        // SAFETY: only CLONE_NEWUTS is given: memory and descriptors stay as they were.
        unsafe { unshare_unsafe(UnshareFlags::NEWUTS) }.during("enter", "a new UTS namespace")?;
    }
    Ok(())
}

/// Takes everything off that is mounted at `path` or below; it is freed when its last user is gone. Nothing there is
/// no error.
pub fn unmount_all(path: &str) -> Result<()> {
    for _ in 0..MOST_STACKED {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).during("unmount", path),
        }
    }
    Err(Error::refused("unmount", path, "there is always one more mount on it"))
}
