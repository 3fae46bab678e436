//! Files that root may believe: every directory on the way, and the thing itself, belongs to root (or to a
//! named owner) and nobody else can write it. The walk holds each step by descriptor and checks the opened
//! thing, so that nothing can change between look and use.

use crate::error::{During, Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use std::io::Read;

/// Most symbolic links followed, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// What the last component must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Whatever it is and whoever may write it: only the way to it is checked.
    Anything,
}

/// Opens the directory `path` whoever owns it, as long as every directory on the way belongs to root, to that
/// same owner or to `other`, and none can be written by group or others. Its status tells the owner.
pub fn open_owned_directory(path: &str, other: Option<u32>) -> Result<(OwnedFd, Stat)> {
    let (handle, owners) = walk(path, Kind::Directory)?;
    let found = fs::fstat(&handle).during("examine", path)?;
    let allowed = |owner: &u32| *owner == found.st_uid || Some(*owner) == other;
    check_owners(path, &owners, allowed)?;
    Ok((handle, found))
}

/// Opens `path` from `/`. Directories and target must be owned by root and be writable by
/// it alone; symbolic links in such directories are followed, because configurations and prefixes
/// are links at many sites. The descriptor is readable for files and `O_PATH` for directories.
pub fn open(path: &str, kind: Kind) -> Result<OwnedFd> {
    let (handle, owners) = walk(path, kind)?;
    check_owners(path, &owners, |_| false)?;
    Ok(handle)
}

/// [`open`] for a directory, which is made with `mode` where its parent lacks it: for places root mounts on or
/// keeps state in. A name that somebody else could make into a link elsewhere is no such place.
pub fn open_or_make_directory(path: &str, mode: u32) -> Result<OwnedFd> {
    match open(path, Kind::Directory) {
        Err(error) if error.errno() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    crate::directory::make(&open(parent, Kind::Directory)?, name, mode)?;
    open(path, Kind::Directory)
}

/// Walks to `path`, checking modes; returns the owners other than root that were met on the way.
fn walk(path: &str, kind: Kind) -> Result<(OwnedFd, Vec<u32>)> {
    let mut owners = Vec::new();
    let mut ancestors: Vec<OwnedFd> = Vec::new(); // without the root
    let mut pending: Vec<String> = components(path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            ancestors.pop();
            continue;
        }
        let handle = open_next(&ancestors, &name, OFlags::PATH).during("open", path)?;
        let found = fs::fstat(&handle).during("examine", path)?;
        let file_type = FileType::from_raw_mode(found.st_mode);
        if kind == Kind::Anything && pending.is_empty() && file_type != FileType::Symlink {
            return Ok((handle, owners));
        }
        owners.extend(Some(found.st_uid).filter(|uid| *uid != 0));
        match file_type {
            FileType::Symlink => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Error::refused("open", path, "it leads through too many symbolic links"));
                }
                let target = fs::readlinkat(&handle, "", Vec::new()).during("read the link", path)?;
                let target = target
                    .to_str()
                    .map_err(|_| Error::refused("open", path, "a link on its way is not UTF-8"))?;
                if target.starts_with('/') {
                    ancestors.clear();
                }
                pending.extend(components(target));
            }
            FileType::Directory => {
                check_mode(path, &found)?;
                ancestors.push(handle);
            }
            FileType::RegularFile if kind == Kind::File && pending.is_empty() => {
                check_mode(path, &found)?;
                return Ok((reopen(&ancestors, &name, path, &found)?, owners));
            }
            _ => return Err(Error::refused("open", path, wrong_kind(kind))),
        }
    }
    if kind != Kind::Directory {
        return Err(Error::refused("open", path, wrong_kind(kind)));
    }
    let root = || open_next(&[], "", OFlags::PATH | OFlags::DIRECTORY).during("open", path);
    Ok((ancestors.pop().map_or_else(root, Ok)?, owners))
}

/// Opens `name` in the last of `ancestors`, or in the root where there is none; a link itself, if it is one.
fn open_next(ancestors: &[OwnedFd], name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match ancestors.last() {
        Some(parent) => fs::openat(parent, name, flags, Mode::empty()),
        None => fs::open(format!("/{name}"), flags, Mode::empty()),
    }
}

/// Reads a trusted file of at most `limit` bytes as UTF-8; other bytes become U+FFFD.
pub fn read(path: &str, limit: u64) -> Result<String> {
    read_all(open(path, Kind::File)?, path, limit)
}

/// Reads an open file of at most `limit` bytes as UTF-8; other bytes become U+FFFD.
pub fn read_all(file: OwnedFd, name: &str, limit: u64) -> Result<String> {
    Ok(match String::from_utf8(read_bytes(file, name, limit)?) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Reads an open file of at most `limit` bytes.
pub fn read_bytes(file: OwnedFd, name: &str, limit: u64) -> Result<Vec<u8>> {
    let size = fs::fstat(&file).map_or(0, |found| found.st_size as u64); // one read then does it
    let mut bytes = Vec::with_capacity(size.min(limit) as usize + 1);
    std::fs::File::from(file).take(limit + 1).read_to_end(&mut bytes).during("read", name)?;
    if bytes.len() as u64 > limit {
        return Err(Error::refused("read", name, "it is larger than such a file can be"));
    }
    Ok(bytes)
}

/// Opens a regular file in a directory held by descriptor: no link, owned by root or one of `owners`,
/// writable by its owner alone. Returns its status beside it.
pub fn open_file_in(directory: &OwnedFd, name: &str, owners: &[u32]) -> Result<(OwnedFd, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(directory, name, flags, Mode::empty()).during("open", name)?;
    let found = fs::fstat(&file).during("examine", name)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(Error::refused("open", name, wrong_kind(Kind::File)));
    }
    check_owners(name, &[found.st_uid], |owner| owners.contains(owner))?;
    check_mode(name, &found)?;
    Ok((file, found))
}

/// An open thing must be root's, writable by it alone.
pub(crate) fn check_roots_alone(name: &str, found: &Stat) -> Result<()> {
    check_owners(name, &[found.st_uid], |_| false)?;
    check_mode(name, found)
}

/// The file behind an `O_PATH` look, opened for reading and seen to be the same.
fn reopen(ancestors: &[OwnedFd], name: &str, path: &str, looked_at: &Stat) -> Result<OwnedFd> {
    let file = open_next(ancestors, name, OFlags::RDONLY | OFlags::NONBLOCK).during("open", path)?;
    let found = fs::fstat(&file).during("examine", path)?;
    if (found.st_dev, found.st_ino) != (looked_at.st_dev, looked_at.st_ino) {
        return Err(Error::refused("open", path, "it was replaced just now"));
    }
    Ok(file)
}

fn check_owners(path: &str, owners: &[u32], allowed: impl Fn(&u32) -> bool) -> Result<()> {
    if owners.iter().all(|owner| *owner == 0 || allowed(owner)) {
        return Ok(());
    }
    let rule = "it, or a directory on its way, does not belong to root; give it to root";
    Err(Error::refused("trust", path, rule))
}

fn check_mode(path: &str, found: &Stat) -> Result<()> {
    if found.st_mode & 0o022 == 0 {
        return Ok(());
    }
    let rule =
        "it, or a directory on its way, can be written by group or others; take that away (chmod go-w)";
    Err(Error::refused("trust", path, rule))
}

fn wrong_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "it is not a directory",
        _ => "it is not a regular file",
    }
}

/// The components in reverse, ready to be popped.
fn components(path: &str) -> Vec<String> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").rev().map(str::to_owned).collect()
}
