//! Pinning a mount namespace, for programs that root runs: a child moves into a new one and waits while it is mounted
//! on a file. An own tmpfs, private, holds such mounts, since they cannot lie on shared ones.

use crate::child::start;
use crate::descriptors::{Proc, path_of};
use crate::directory as dir;
use crate::error::{Cause, During, Error, Result};
use crate::mount::{self, Depth, Propagation, SAFE};
use crate::trusted;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::mount::mount_bind;
use rustix::process::Pid;
use rustix::thread::{CpuSet, UnshareFlags, sched_getcpu, sched_setaffinity, unshare_unsafe};
use std::io::{PipeReader, Read, Write};

/// The directory `path` with a private tmpfs of root's alone on it, mounted if it is not yet.
pub fn private_directory(path: &str) -> Result<OwnedFd> {
    let (parent, _) = path.rsplit_once('/').unwrap_or(("/", ""));
    let above = trusted::open_or_make_directory(parent, 0o700)?;
    let lock = dir::open_lock(&above, "jobs.lock")?;
    if !dir::wait_for(&lock) {
        return Err(Error::refused("mount on", path, "another process has been doing so for too long"));
    }
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
        let child = Held::start(|| {
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

/// A child that did its part and stays as it is until this value, or its maker, is gone.
struct Held {
    pid: Pid,
    _until_closed: PipeReader,
}

impl Held {
    /// Forks, and returns when the child has done `build`; a failure is the child's words.
    fn start(build: impl FnOnce() -> std::result::Result<(), String>) -> Result<Self> {
        const NAME: &str = "the container's process";
        const DONE: &[u8] = b"1";
        let (mut said, mut tell) = std::io::pipe().during("make a pipe for", NAME)?;
        let parents_end = said.as_fd().as_raw_fd();
        let pid = start(NAME, || {
            // SAFETY: this process's copy, which the child never uses otherwise: it ends by _exit.
            unsafe { libc::close(parents_end) };
            match build() {
                Err(text) => tell.write_all(text.as_bytes()).during("write to", NAME),
                Ok(()) => {
                    tell.write_all(DONE).during("write to", NAME)?;
                    // Nobody reads any more: an error, which poll(2) always reports.
                    let mut gone = [rustix::event::PollFd::new(&tell, rustix::event::PollFlags::empty())];
                    rustix::event::poll(&mut gone, None).map(drop).during("wait for", NAME)
                }
            }
        })?;
        drop(tell);
        let mut text = vec![0];
        said.read_exact(&mut text).during("hear from", NAME)?;
        if text == DONE {
            return Ok(Self { pid, _until_closed: said });
        }
        said.read_to_end(&mut text).during("hear from", NAME)?;
        let cause = Cause::Said(String::from_utf8_lossy(&text).into_owned());
        Err(Error { operation: "prepare", object: "the container".to_owned(), cause })
    }

    fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}
