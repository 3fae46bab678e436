//! Inherited descriptors: the standard three are made sure of, and those that could lead out of the
//! container (directories, path handles, namespaces) are closed; all others stay, since MPI launchers pass
//! sockets (`PMI_FD`). What leaked descriptors did elsewhere: CVE-2024-21626.

use crate::error::{During, Error, Result};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, StatxFlags};

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: u64 = 0x9fa0;
/// Most descriptors that are asked for one by one.
const MOST_ASKED: RawFd = 32;

/// A descriptor of `/proc` that is known to be procfs.
#[derive(Debug)]
pub struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc` and checks its file system's magic number.
    pub fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let proc = fs::open("/proc", flags, Mode::empty()).during("open", "/proc")?;
        if fs::fstatfs(&proc).during("examine", "/proc")?.f_type as u64 != PROC_MAGIC {
            return Err(Error::refused("use", "/proc", "it is not a proc file system"));
        }
        Ok(Self(proc))
    }
}

/// A path by which the kernel finds the file open as `fd`; valid while it is open and `/proc` is procfs.
pub fn path_of(_proc: &Proc, fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Where the thing open as `fd` lies, seen from this process's root; only while nobody moves it.
pub fn path_of_open(proc: &Proc, fd: &impl AsFd) -> Result<String> {
    let link = format!("self/fd/{}", fd.as_fd().as_raw_fd());
    let path = fs::readlinkat(&proc.0, &link, Vec::new()).during("find the path of", &link)?;
    path.into_string().map_err(|_| Error::refused("find the path of", link, "it is not UTF-8"))
}

/// Opens `/dev/null` on those of 0, 1 and 2 that are closed, so that no file we open can take their place.
pub fn ensure_standard_streams() -> Result<()> {
    use rustix::stdio::{stderr, stdin, stdout};
    if [stdin(), stdout(), stderr()].iter().all(|stream| rustix::io::fcntl_getfd(stream).is_ok()) {
        return Ok(());
    }
    loop {
        let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .during("open", "/dev/null")?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        rustix::io::fcntl_setfd(&null, rustix::io::FdFlags::empty()).during("keep", "/dev/null")?;
        let _kept_open = null.into_raw_fd();
    }
}

/// Closes every inherited descriptor that leads to a directory or a namespace; among the standard three
/// such a one becomes `/dev/null`. Returns the numbers closed.
pub fn close_those_leading_out(proc: &Proc) -> Result<Vec<RawFd>> {
    let ours = proc.0.as_raw_fd();
    let mut closed = Vec::new();
    for number in open_numbers(proc)?.into_iter().filter(|number| *number != ours) {
        // SAFETY: the number stood in this process's own descriptor table and nothing has closed it since:
        // there is one thread, and nothing is dropped meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if !leads_out(fd, proc) {
            continue;
        }
        // SAFETY: inherited, so no value of this program owns it; it is closed exactly once.
        unsafe { rustix::io::close(number) };
        closed.push(number);
    }
    if !closed.is_empty() {
        ensure_standard_streams()?;
    }
    Ok(closed)
}

/// The numbers of all open descriptors. Since Linux 6.2 the size of the directory is how many there are, and most
/// often they are the first ones: asking for those takes a tenth of the time that the directory takes to be listed.
fn open_numbers(proc: &Proc) -> Result<Vec<RawFd>> {
    let how_many = fs::statat(&proc.0, "self/fd", AtFlags::empty()).map_or(0, |found| found.st_size as usize);
    // SAFETY: F_GETFD takes a number, and one that is not open is an error.
    let is_open = |number: &RawFd| unsafe { libc::fcntl(*number, libc::F_GETFD) } != -1;
    let first: Vec<RawFd> = (0..MOST_ASKED).filter(is_open).take(how_many).collect();
    if how_many > 0 && first.len() == how_many {
        return Ok(first);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = fs::openat(&proc.0, "self/fd", flags, Mode::empty()).during("list", "/proc/self/fd")?;
    let entries = crate::directory::entries(&list, "/proc/self/fd", usize::MAX)?;
    drop(list);
    // Two of them were open for the listing alone.
    Ok(entries.iter().filter_map(|entry| entry.name.to_str().ok()?.parse().ok()).filter(is_open).collect())
}

/// Asks without I/O to a server where the file system allows that (`STATX_DONT_SYNC`): a job's output is
/// often a file of a parallel file system.
fn leads_out(fd: BorrowedFd<'_>, proc: &Proc) -> bool {
    let path_handle = fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH));
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::MODE;
    let Ok(found) = fs::statx(fd, "", flags, wanted) else {
        // A file on the caller's own FUSE mount, which root may not even examine (fuse(4)): their output, maybe.
        // Only from a directory could anything be looked up, and the kernel says so without asking the server.
        let inside = fs::openat(fd, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        return path_handle || inside.err() != Some(rustix::io::Errno::NOTDIR);
    };
    let device = fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    path_handle
        || match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::Directory => true,
            // Namespaces show as files of nsfs (all of mode 0444), whose device is that of our own.
            FileType::RegularFile if found.stx_mode & 0o777 == 0o444 => {
                fs::statat(&proc.0, "self/ns/mnt", AtFlags::empty())
                    .map_or(true, |namespace| namespace.st_dev == device)
            }
            _ => false,
        }
}
