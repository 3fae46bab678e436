//! Making and writing things in a directory tree held by descriptor. Paths are relative to the descriptor and
//! resolved inside it: no `..`, no magic links, and links only as far as the caller says.

use crate::error::{During, Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::io::Write;

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

/// The type of an open thing.
pub fn file_type(handle: &OwnedFd, name: &str) -> Result<FileType> {
    Ok(FileType::from_raw_mode(status(handle, name)?.st_mode))
}

/// A directory of the host by absolute path, made (mode 0755) if its parent lacks it.
pub fn open_or_make(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            match fs::mkdir(path, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).during("make the directory", path),
            }
            fs::open(path, flags, Mode::empty()).during("open", path)
        }
        other => other.during("open", path),
    }
}

/// An `O_PATH` handle of a path of the host, links followed, magic links not.
pub fn open_host(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    fs::openat2(fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).during("open", path)
}

/// Reads a file of the host whose content is no secret and decides nothing (`/etc/hosts`).
pub fn read_host(path: &str, limit: u64) -> Result<String> {
    let file = fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .during("open", path)?;
    crate::trusted::read_all(file, path, limit)
}

/// Makes a directory directly in `parent`; one that is there stays as it is.
pub fn make(parent: &OwnedFd, name: impl rustix::path::Arg + Copy, mode: u32) -> Result<()> {
    match fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).during("make the directory", shown(name)),
    }
}

/// [`make`] for each component of `path`, inside `root`; existing links on the way are refused.
pub fn make_all(root: &OwnedFd, path: &str, mode: u32) -> Result<OwnedFd> {
    let mut so_far = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let parent = find(root, &so_far, Links::Refuse)?;
        make(&parent, name, mode)?;
        so_far = format!("{so_far}/{name}");
    }
    let found = find(root, &so_far, Links::Refuse)?;
    if file_type(&found, path)? != FileType::Directory {
        return Err(Error::refused("make the directory", path, "something else has its name"));
    }
    Ok(found)
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
    fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop).during("create", shown(name))
}

/// Makes a symbolic link directly in `parent`.
pub fn make_link(
    parent: &OwnedFd,
    name: impl rustix::path::Arg + Copy,
    target: impl rustix::path::Arg,
) -> Result<()> {
    fs::symlinkat(target, parent, name).during("make the link", shown(name))
}

/// Copies the symbolic link `name` of `from` into `to`.
pub fn copy_link(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr) -> Result<()> {
    let target = fs::readlinkat(from, name, Vec::new()).during("read the link", shown(name))?;
    make_link(to, name, target.as_c_str())
}

/// Whether `name` is in `directory`, whatever it is.
pub fn has(directory: &OwnedFd, name: impl rustix::path::Arg + Copy) -> Result<bool> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error).during("examine", shown(name)),
    }
}

/// The entries of a directory held as an `O_PATH` handle, without `.` and `..`.
pub fn entries(directory: &OwnedFd, name: &str) -> Result<Vec<Entry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = fs::openat(directory, ".", flags, Mode::empty()).during("list", name)?;
    let mut found = Vec::new();
    for entry in fs::Dir::read_from(&readable).during("list", name)? {
        let entry = entry.during("list", name)?;
        let entry_name = entry.file_name().to_owned();
        if matches!(entry_name.to_bytes(), b"." | b"..") {
            continue;
        }
        let file_type = match entry.file_type() {
            FileType::Unknown => {
                let status =
                    fs::statat(directory, &entry_name, AtFlags::SYMLINK_NOFOLLOW).during("examine", name)?;
                FileType::from_raw_mode(status.st_mode)
            }
            known => known,
        };
        found.push(Entry { name: entry_name, file_type });
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
