//! Writes an image's tree below an open directory, for programs that look at it before it is published.
//!
//! Everything is made by descriptor and by one name at a time, never through a symlink, and nothing that is there
//! is written over; so whatever the image holds, nothing outside of the directory is touched. Devices, pipes and
//! sockets are left out; setuid and setgid bits, owners and extended attributes are not taken over. The
//! caller gives a directory that only its own user can enter, and removes it, also after an error.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};

use super::data::Chunk;
use super::error::ReadError;
use super::image::Image;
use super::inode::{Attributes, Kind};
use super::source::Source;
use super::walk::{Entry, Event};

/// How much may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes of files, without holes.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

/// How much is taken over besides names, data, permissions and times of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// What a reader needs.
    ToRead,
    /// Also the sticky bits and times of directories and links, and mode and time of the root, for a tool that
    /// makes another image of the tree.
    ToCopy,
}

/// What was written, and what was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files, without holes.
    pub bytes: u64,
    /// Devices, pipes and sockets, which were not made.
    pub left_out: u64,
}

/// A tree that was not wholly written.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The image is broken.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is larger than allowed.
    #[error("the image unpacks to more than the {limit} {what} allowed (reached at \"/{}\")", path.escape_ascii())]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// Where it was reached.
        path: Vec<u8>,
    },
    /// The file system said no.
    #[error("cannot {operation} \"/{}\" of the image: {source}", path.escape_ascii())]
    Write {
        /// What was being done.
        operation: &'static str,
        /// To which entry.
        path: Vec<u8>,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes the tree below this directory, whose own attributes stay unless it is [`Fidelity::ToCopy`].
pub fn extract<S: Source>(
    image: &Image<S>,
    below: BorrowedFd<'_>,
    allowance: &Allowance,
    fidelity: Fidelity,
) -> Result<Extracted, ExtractError> {
    let mut target = Target {
        image,
        below,
        here: enter(below, &[])?,
        allowance: *allowance,
        fidelity,
        done: Extracted::default(),
        first_names: HashMap::new(),
    };
    let mut walk = image.walk()?;
    while let Some(event) = walk.next()? {
        match event {
            Event::Leave(entry) if entry.path.is_empty() && fidelity == Fidelity::ToCopy => {
                target.finish(below, &entry, 0o700)?;
            }
            Event::Enter(entry) | Event::Leave(entry) if entry.path.is_empty() => {}
            Event::Enter(entry) => target.directory(&entry)?,
            Event::Leaf(entry) => target.leaf(&entry)?,
            Event::Leave(entry) => target.leave(&entry)?,
        }
    }
    Ok(target.done)
}

struct Target<'a, S> {
    image: &'a Image<S>,
    below: BorrowedFd<'a>,
    /// The directory that the walk is in.
    here: OwnedFd,
    allowance: Allowance,
    fidelity: Fidelity,
    done: Extracted,
    /// By number: an inode's first name, if it may have others.
    first_names: HashMap<u32, Vec<u8>>,
}

impl<S: Source> Target<'_, S> {
    fn directory(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.count(entry)?;
        fs::mkdirat(&self.here, entry.name(), Mode::RWXU).map_err(failed("make directory", entry))?;
        self.here = step(self.here.as_fd(), entry.name()).map_err(failed("enter directory", entry))?;
        Ok(())
    }

    fn leave(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.finish(self.here.as_fd(), entry, 0o700)?;
        self.here = enter(self.below, parent(&entry.path))?;
        Ok(())
    }

    fn leaf(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        match &entry.inode.kind {
            // A walk enters directories.
            Kind::Directory(_) => return Ok(()),
            Kind::BlockDevice(_) | Kind::CharacterDevice(_) | Kind::Fifo | Kind::Socket => {
                self.done.left_out = self.done.left_out.saturating_add(1);
                return Ok(());
            }
            Kind::File(_) | Kind::Symlink { .. } => self.count(entry)?,
        }
        if let Some(first) = self.first_names.get(&entry.inode.number) {
            let from = enter(self.below, parent(first))?;
            let name = first.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            return fs::linkat(from, name, &self.here, entry.name(), AtFlags::empty())
                .map_err(failed("link", entry));
        }
        match &entry.inode.kind {
            Kind::Symlink { target } => self.symlink(target, entry)?,
            _ => self.file(entry)?,
        }
        if entry.inode.links > 1 {
            self.first_names.insert(entry.inode.number, entry.path.clone());
        }
        Ok(())
    }

    fn symlink(&self, target: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        fs::symlinkat(target, &self.here, entry.name()).map_err(failed("make symlink", entry))?;
        match self.fidelity {
            Fidelity::ToRead => Ok(()),
            // A symlink has no descriptor that its times could be set by.
            Fidelity::ToCopy => {
                let times = times(&entry.inode.attributes);
                fs::utimensat(&self.here, entry.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("set the time of", entry))
            }
        }
    }

    /// Sets mode and time; `least` is what the owner needs to look at it and to remove it.
    fn finish(&self, fd: BorrowedFd<'_>, entry: &Entry, least: u16) -> Result<(), ExtractError> {
        let sticky = match (self.fidelity, &entry.inode.kind) {
            (Fidelity::ToCopy, Kind::Directory(_)) => 0o1000,
            _ => 0,
        };
        let mode = (entry.inode.attributes.mode & (0o777 | sticky)) | least;
        let set = fs::fchmod(fd, Mode::from_raw_mode(u32::from(mode)));
        set.and_then(|()| fs::futimens(fd, &times(&entry.inode.attributes)))
            .map_err(failed("set mode of", entry))
    }

    fn file(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.here, entry.name(), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(failed("make file", entry))?);
        let size = self.fill(&file, entry)?;
        file.set_len(size).map_err(|source| write_error("set the length of", entry, source))?;
        self.finish(file.as_fd(), entry, 0o400)
    }

    fn fill(&mut self, file: &File, entry: &Entry) -> Result<u64, ExtractError> {
        let mut data = self.image.data(entry)?;
        let mut at = 0_u64;
        while let Some(chunk) = data.next_chunk()? {
            let length = match chunk {
                Chunk::Hole(length) => length,
                Chunk::Data(bytes) => {
                    let length = bytes.len() as u64;
                    self.done.bytes = self.done.bytes.saturating_add(length);
                    if self.done.bytes > self.allowance.bytes {
                        let (what, limit) = ("bytes", self.allowance.bytes);
                        return Err(ExtractError::TooMuch { what, limit, path: entry.path.clone() });
                    }
                    file.write_all_at(bytes, at).map_err(|source| write_error("write", entry, source))?;
                    length
                }
            };
            at = at.saturating_add(length);
        }
        Ok(at)
    }

    fn count(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.done.entries = self.done.entries.saturating_add(1);
        if self.done.entries > self.allowance.entries {
            let (what, limit) = ("entries", self.allowance.entries);
            return Err(ExtractError::TooMuch { what, limit, path: entry.path.clone() });
        }
        Ok(())
    }
}

/// Opens a directory that was made here before, one component after the other, never through a symlink.
fn enter(below: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, ExtractError> {
    let failed = |source: io::Error| {
        let operation = "enter directory";
        ExtractError::Write { operation, path: path.to_vec(), source }
    };
    let mut here = below.try_clone_to_owned().map_err(failed)?;
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        here = step(here.as_fd(), component).map_err(|errno| failed(errno.into()))?;
    }
    Ok(here)
}

fn step(here: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(here, name, flags, Mode::empty())
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = Timespec { tv_sec: i64::from(attributes.modified), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn parent(path: &[u8]) -> &[u8] {
    let last = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.get(..last).unwrap_or_default()
}

fn failed(operation: &'static str, entry: &Entry) -> impl FnOnce(rustix::io::Errno) -> ExtractError {
    move |errno| write_error(operation, entry, errno.into())
}

fn write_error(operation: &'static str, entry: &Entry, source: io::Error) -> ExtractError {
    ExtractError::Write { operation, path: entry.path.clone(), source }
}
