//! The sandbox's mount namespace: the host's files, with private `/etc`, `/run`, `/opt`, `/home` and temporary
//! directories on top.
//!
//! The calling thread alone enters it (unshare(2): CLONE_NEWNS implies CLONE_FS), and what it starts afterwards
//! inherits it; where a test has machines of its own, the network is entered with it. `/` is made private first, so that nothing reaches the host, and shared then, as service managers
//! have it: a container that forgets to cut propagation shows up in the leak check.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount, mount_bind_recursive, mount_change, unmount};
use rustix::process::{chdir, fchdir, getcwd, pivot_root};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Where the sandbox's own files lie, on a tmpfs that no other namespace sees.
pub(super) const BASE: &str = "/opt/shifter-test";

/// What else than mounts is the sandbox's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// The host's, whose addresses and ports others use as well.
    Host,
    /// An empty one, gone with the last process in it; with a host name of one's own.
    Own,
}

/// Moves the calling thread into a new mount namespace furnished for tests.
pub(super) fn enter(network: Network) -> Result<()> {
    unshare(match network {
        Network::Host => UnshareFlags::NEWNS,
        Network::Own => UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWUTS,
    })?;
    own_root()?;
    tmpfs("/opt", "mode=0755")?;
    fs::create_dir(BASE).with_context(|| format!("create {BASE}"))?;
    for covered in ["/etc", "/run"] {
        overlay(covered)?;
    }
    // A service manager's own /run/shifter would be another machine's state.
    let _absent_is_fine = fs::remove_dir_all("/run/shifter");
    for temporary in ["/tmp", "/var/tmp", "/dev/shm"] {
        tmpfs(temporary, "mode=1777")?;
    }
    tmpfs("/home", "mode=0755")?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("make / shared")
}

/// Makes every mount private, and the present root the namespace's own. Where the tests were started by chroot(8),
/// setns(2) would otherwise lead out of it, and the kernel would show paths of mounts as seen from outside.
fn own_root() -> Result<()> {
    let namespace = File::open("/proc/thread-self/ns/mnt").context("open the mount namespace")?;
    let root = File::open("/").context("open /")?;
    // Entering even one's own namespace goes to its root, whatever the root was.
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .context("enter the namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("make / private (tests must run as root with mount rights)")?;
    fchdir(&root).context("go back to the root")?;
    let path = getcwd(Vec::new()).context("ask for the root's path")?;
    if path.as_bytes() == b"/" {
        return Ok(());
    }
    mount_bind_recursive(&path, &path).context("make the root a mount")?;
    chdir(&path).context("enter the root's mount")?;
    pivot_root(".", ".").context("make it the namespace's root")?;
    unmount(".", UnmountFlags::DETACH).context("detach what was outside")?;
    chdir("/").context("go to the new root")
}

// This is the test suite's one unsafe block; the crate denies unsafe code everywhere else.
#[allow(unsafe_code)]
fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: the call is unsafe because CLONE_FILES would leave descriptors behind; it is in no caller's flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }.context("make a namespace (tests must run as root)")
}

/// Moves the calling thread into a network of its own, in which nothing is up yet.
pub(super) fn enter_network() -> Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// Covers `target` with an empty tmpfs.
pub(super) fn tmpfs(target: &str, options: &str) -> Result<()> {
    let data = CString::new(options).context("tmpfs options hold no NUL")?;
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("cover {target} with a tmpfs"))
}

/// Covers `target` with an overlay, so that changes stay in the sandbox.
fn overlay(target: &str) -> Result<()> {
    let layer = format!("{BASE}/.layers{}", target.replace('/', "-"));
    let (upper, work) = (format!("{layer}/upper"), format!("{layer}/work"));
    for directory in [&upper, &work] {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    set_mode(Path::new(&upper), 0o755)?;
    let data = format!("lowerdir={target},upperdir={upper},workdir={work}");
    let data = CString::new(data).context("overlay options hold no NUL")?;
    mount("overlay", target, "overlay", MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("cover {target} with an overlay"))
}

/// chmod with a sentence.
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {} to {mode:o}", path.display()))
}
