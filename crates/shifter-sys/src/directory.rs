//! Making and writing things in a directory tree held by descriptor. Paths are relative to the descriptor and
//! resolved inside it: no `..`, no magic links, and links only as far as the caller says.

use crate::credentials::Unprivileged;
use crate::error::{During, Error, Result};
use crate::trusted::check_roots_alone;
use rustix::fd::OwnedFd;
pub use rustix::fs::FileType;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// The error number of [`find`] where it met a link it was to refuse.
pub const IS_A_LINK: i32 = libc::ELOOP;

/// Longest wait for a lock; then doing without what it guards is the lesser evil.
const PATIENCE: Duration = Duration::from_secs(1);
/// Seconds after which nobody waits for a lock's holder.
const LONGEST_HELD: i64 = 10;

/// How symbolic links inside the tree are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Any link on the way is an error.
    Refuse,
    /// Followed as a process in the tree would see them (`RESOLVE_IN_ROOT`).
    InTree,
}

/// One entry of a directory.
#[derive(Debug)]
pub struct Entry {
    /// Its name, any bytes but `/` and NUL.
    pub name: std::ffi::CString,
    /// Its type.
    pub file_type: FileType,
}

/// An `O_PATH` handle of `path` below `root`; a leading slash means the root itself.
pub fn find(root: &OwnedFd, path: &str, links: Links) -> Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let (resolve, nofollow) = match links {
        Links::Refuse => (ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS, OFlags::NOFOLLOW),
        Links::InTree => (ResolveFlags::IN_ROOT, OFlags::empty()),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC | nofollow;
    fs::openat2(root, relative, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS)
        .during("find", path)
}

/// [`find`], where absence is an answer.
pub fn find_if_present(root: &OwnedFd, path: &str, links: Links) -> Result<Option<OwnedFd>> {
    match find(root, path, links) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The status of an open thing.
pub fn status(handle: &OwnedFd, name: &str) -> Result<Stat> {
    fs::fstat(handle).during("examine", name)
}

/// What tells one state of a file from every other, as text.
pub fn identity(status: &Stat) -> String {
    let Stat { st_dev, st_ino, st_size, st_ctime, st_ctime_nsec, .. } = status;
    format!("{st_dev:x}:{st_ino}:{st_size}:{st_ctime}.{st_ctime_nsec}")
}

/// What [`place`] says of a path that leads nowhere.
pub const NOTHING: &str = "-";

/// Device and inode of what a path of the host leads to, as text.
pub fn place(path: &str) -> String {
    fs::stat(path).map_or(NOTHING.to_owned(), |found| format!("{:x}:{}", found.st_dev, found.st_ino))
}

/// The type of an open thing.
pub fn file_type(handle: &OwnedFd, name: &str) -> Result<FileType> {
    Ok(FileType::from_raw_mode(status(handle, name)?.st_mode))
}

/// An `O_PATH` handle of a path of the host. Links on the way are followed only where none but root can make
/// them: who may write a directory of a site's path must not choose what root mounts. It is asked for as a
/// directory first, because only that makes an automounter mount what belongs there (open(2), O_PATH).
pub fn open_host(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = |flags| fs::openat2(fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    match open(flags | OFlags::DIRECTORY) {
        Err(Errno::NOTDIR) => open(flags).during("open", path),
        Err(Errno::LOOP) => crate::trusted::open(path, crate::trusted::Kind::Anything),
        other => other.during("open", path),
    }
}

/// A directory of the host that whoever opens it may list, links followed as the kernel does for them.
pub fn open_to_list(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat2(fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).during("open", path)
}

/// The two bytes at `offset` of an open file, little-endian.
pub fn read_u16(file: &OwnedFd, offset: u64) -> Option<u16> {
    let mut bytes = [0; 2];
    (rustix::io::pread(file, &mut bytes[..], offset) == Ok(2)).then(|| u16::from_le_bytes(bytes))
}

/// Reads a file of the host whose content is no secret and decides nothing (`/etc/hosts`).
pub fn read_host(path: &str, limit: u64) -> Result<String> {
    crate::trusted::read_all(open_to_read(path)?, path, limit)
}

/// Reads a file the user names, as the user.
pub fn read_as_user(_proof: &Unprivileged, path: &str, limit: u64) -> Result<Vec<u8>> {
    crate::trusted::read_bytes(open_to_read(path)?, path, limit)
}

/// Opens a path of the host as whoever does it.
pub fn open_to_read(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).during("open", path)
}

/// Makes a directory directly in `parent`; one that is there stays as it is.
pub fn make(parent: &OwnedFd, name: impl rustix::path::Arg + Copy, mode: u32) -> Result<()> {
    make_if_absent(parent, name, mode).map(drop)
}

/// The same, saying whether it was made.
pub fn make_if_absent(parent: &OwnedFd, name: impl rustix::path::Arg + Copy, mode: u32) -> Result<bool> {
    match fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error).during("make the directory", name),
    }
}

/// Opens, or creates with mode 0600, a file that is only ever locked.
pub fn open_lock(directory: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).during("open", name)
}

/// Waits at most a second for a lock file to be this process's alone; it is given back by being closed.
pub fn wait_for(lock: &OwnedFd) -> bool {
    let start = Instant::now();
    loop {
        match fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return true,
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(_) => return false,
        }
    }
}

/// [`wait_for`], but not for a holder that has had the lock for longer than anybody should: a process that its
/// caller starves or freezes must not slow every other down.
pub fn wait_for_recent(lock: &OwnedFd) -> bool {
    let now = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
    let taken = || fs::fstat(lock).is_ok_and(|found| age(found.st_mtime) > LONGEST_HELD);
    if fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() && (taken() || !wait_for(lock)) {
        return false;
    }
    fs::futimens(lock, &fs::Timestamps { last_access: now, last_modification: now }).is_ok()
}

/// Seconds since then.
fn age(time: i64) -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_sub(time)
}

/// Writes a new file (mode 0644, root's) directly in `parent`; an existing name is an error.
pub fn write_new(parent: &OwnedFd, name: &str, content: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).during("create", name)?;
    std::fs::File::from(file).write_all(content).during("write", name)
}

/// An empty file to mount something on.
pub fn make_file(parent: &OwnedFd, name: impl rustix::path::Arg + Copy) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop).during("create", name)
}

/// A file of `size` bytes without a name, in a directory: it is gone with its last user, whatever happens.
pub fn make_nameless(directory: &OwnedFd, size: u64, shown: &str) -> Result<OwnedFd> {
    let (mode, flags) = (Mode::from_raw_mode(0o600), OFlags::RDWR | OFlags::CLOEXEC);
    let file = match fs::openat(directory, ".", flags | OFlags::TMPFILE, mode) {
        // The file system has no such thing.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let name = format!(".perNodeCache.{}", rustix::process::getpid().as_raw_nonzero());
            let make = || fs::openat(directory, &name, flags | OFlags::CREATE | OFlags::EXCL, mode);
            // A start that was killed between the two left its name; no other process has this number.
            let file = match make() {
                Err(Errno::EXIST) => fs::unlinkat(directory, &name, AtFlags::empty()).and_then(|()| make()),
                other => other,
            };
            file.and_then(|file| fs::unlinkat(directory, &name, AtFlags::empty()).map(|()| file))
        }
        other => other,
    };
    let file = file.during("make a file in", shown)?;
    fs::ftruncate(&file, size).during("make room in", shown)?;
    Ok(file)
}

/// Whether what is below it appears when it is looked for (autofs; linux/magic.h).
pub fn is_automounted(place: &OwnedFd) -> bool {
    fs::fstatfs(place).is_ok_and(|status| status.f_type as u64 == 0x0187)
}

/// Gives the root of a new mount to somebody.
pub fn give(place: &OwnedFd, uid: u32, gid: u32, name: &str) -> Result<()> {
    let (uid, gid) = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
    fs::chownat(place, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).during("give to its user", name)
}

/// Makes a symbolic link directly in `parent`.
pub fn make_link(
    parent: &OwnedFd,
    name: impl rustix::path::Arg + Copy,
    target: impl rustix::path::Arg,
) -> Result<()> {
    fs::symlinkat(target, parent, name).during("make the link", name)
}

/// What the symbolic link `name` in `directory` points to; `None` if it is none, or not UTF-8.
pub fn link_target(directory: &OwnedFd, name: &str) -> Option<String> {
    fs::readlinkat(directory, name, Vec::new()).ok()?.into_string().ok()
}

/// Removes a name that is no directory.
#[cfg(feature = "setup")]
pub fn remove(directory: &OwnedFd, name: &str) -> Result<()> {
    fs::unlinkat(directory, name, AtFlags::empty()).during("remove", name)
}

/// Lets nobody but root and `uid` into a directory (acl(5); the attribute's form is linux/posix_acl_xattr.h). File
/// systems without access lists say EOPNOTSUPP.
#[cfg(feature = "setup")]
pub fn let_only_one_in(directory: &OwnedFd, uid: u32, name: &str) -> Result<()> {
    const NOBODY: u32 = u32::MAX;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = fs::openat(directory, ".", flags, Mode::empty()).during("open", name)?;
    let mut list = 2u32.to_le_bytes().to_vec();
    // Owner, this user, owning group, mask, others.
    for (tag, rights, id) in
        [(1u16, 7u16, NOBODY), (2, 5, uid), (4, 0, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY)]
    {
        list.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()));
    }
    fs::fsetxattr(&readable, "system.posix_acl_access", &list, XattrFlags::empty())
        .during("shut others out of", name)
}

/// Copies the symbolic link `name` of `from` into `to`.
pub fn copy_link(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    let target = fs::readlinkat(from, name, Vec::new()).during("read the link", name)?;
    make_link(to, name, target.as_c_str())
}

/// Copies what is in `from`, all of which must be root's alone, into `to`, readable by all (a+rX); devices, pipes and sockets are left out.
/// A tree deeper than `depth` is refused.
pub fn copy_tree(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    for entry in entries(from, "a site directory", usize::MAX)? {
        let name = entry.name.as_c_str();
        let open = |parent: &OwnedFd, flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).during("copy", name)
        };
        match entry.file_type {
            FileType::Symlink => copy_link(from, to, name)?,
            FileType::Directory if depth == 0 => {
                return Err(Error::refused("copy", shown(name), "it lies too deep"));
            }
            FileType::Directory => {
                make(to, name, 0o755)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let source = open(from, flags)?;
                check_roots_alone(&shown(name), &status(&source, "a site directory")?)?;
                copy_tree(&source, &open(to, flags)?, depth - 1)?;
            }
            FileType::RegularFile => {
                let source = open(from, OFlags::RDONLY | OFlags::NONBLOCK)?;
                let found = status(&source, "a site file")?;
                check_roots_alone(&shown(name), &found)?;
                let mode = found.st_mode & 0o777;
                let target = open(to, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
                let executable = if mode & 0o111 == 0 { 0o444 } else { 0o555 };
                fs::fchmod(&target, Mode::from_raw_mode(mode | executable)).during("copy", name)?;
                let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
                std::io::copy(&mut source, &mut target).during("copy", name)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The directory `name` in `parent`; a link there is an error.
pub fn find_directory(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty()).during("open", name)
}

/// The status of what has the name `name` in `directory`, links not followed.
pub fn status_of(directory: &OwnedFd, name: &CStr) -> Result<Stat> {
    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).during("examine", name)
}

/// Gives `old` in `directory` the name `new`, which nothing has.
pub fn rename(directory: &OwnedFd, old: &CStr, new: &str) -> Result<()> {
    let flags = fs::RenameFlags::NOREPLACE;
    fs::renameat_with(directory, old, directory, new, flags).during("rename", old)
}

/// Removes the directory `name` of `parent` and all that is in it, down to `depth`; its absence is fine.
pub fn remove_tree(parent: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let directory = match find_directory(parent, name) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(()),
        other => other?,
    };
    for entry in entries(&directory, &shown(name), usize::MAX)? {
        match entry.file_type {
            FileType::Directory if depth > 0 => remove_tree(&directory, &entry.name, depth - 1)?,
            _ => fs::unlinkat(&directory, &entry.name, AtFlags::empty())
                .during("remove", entry.name.as_c_str())?,
        }
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR).during("remove", name)
}

/// Whether `name` is in `directory`, whatever it is.
pub fn has(directory: &OwnedFd, name: impl rustix::path::Arg + Copy) -> Result<bool> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error).during("examine", name),
    }
}

/// The entries of a directory held as an `O_PATH` handle, without `.` and `..`; more than `most` are an error.
pub fn entries(directory: &OwnedFd, name: &str, most: usize) -> Result<Vec<Entry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = fs::openat(directory, ".", flags, Mode::empty()).during("list", name)?;
    let mut found = Vec::with_capacity(32);
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut list = fs::RawDir::new(&readable, &mut buffer);
    while let Some(entry) = list.next().transpose().during("list", name)? {
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if found.len() == most {
            let rule = "it has more entries than such a directory can have";
            return Err(Error::refused("list", name, rule));
        }
        found.push(Entry { name: entry.file_name().to_owned(), file_type: entry.file_type() });
    }
    for entry in found.iter_mut().filter(|entry| entry.file_type == FileType::Unknown) {
        let status = fs::statat(directory, &entry.name, AtFlags::SYMLINK_NOFOLLOW).during("examine", name)?;
        entry.file_type = FileType::from_raw_mode(status.st_mode);
    }
    Ok(found)
}

/// Marks a directory of an overlay's layer so that the layers below do not shine through (overlayfs.rst).
pub fn mark_opaque(parent: &OwnedFd, name: &str) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::openat(parent, name, flags, Mode::empty()).during("open", name)?;
    fs::fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty()).during("mark opaque", name)
}

fn shown(name: impl rustix::path::Arg) -> String {
    name.to_string_lossy().into_owned()
}
