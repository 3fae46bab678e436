//! A directory that a user names, as one archive: all below it, in the order of names, read as far as that user's own
//! reach. What they could not read ends it, and so does a tree that changes meanwhile: an image is whole or not made.
//!
//! Walked by descriptor, no link followed, no other file system entered (mount points stay as empty directories).
//! Devices and sockets are left out, as are extended attributes. What is changed for an image is the layers' policy, when
//! the archive is read.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use shifter_fasthash::hash;
use shifter_fasthash::open::{Asker, Verdict, identity, judge, reopen};
use shifter_layers::{Attributes, Limits, MergeError, Special, TarWriter};

/// What is read, and for whom.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Open for reading; the asker could do that, and pass it.
    pub(crate) directory: File,
    /// What it was called.
    pub(crate) path: PathBuf,
    pub(crate) asker: Asker,
    /// Directories and files that must not be below it.
    pub(crate) forbidden: Vec<PathBuf>,
}

impl Tree {
    /// Whether it is no root file system but an image as an OCI layout (image-spec image-layout.md).
    pub(crate) fn is_oci_layout(&self) -> bool {
        let is = |name: &str, kind| {
            let found = fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
            found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == kind)
        };
        let (file, directory) = (FileType::RegularFile, FileType::Directory);
        is("oci-layout", file) && is("index.json", file) && is("blobs", directory)
    }
}

/// Why a directory is not imported; each is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error(
        "you cannot read {0}; an image would lack it, so move it out of the directory, or let yourself read it"
    )]
    Denied(String),
    #[error(
        "whether you may read {0} is decided by an access list, which the gateway cannot judge; upload a tar of the \
         directory"
    )]
    Unclear(String),
    #[error(
        "the image gateway cannot read {0}: {1}; upload a tar of the directory, or let everybody read it"
    )]
    Gateway(String, Errno),
    #[error("{0} changed while it was read; import it again when nobody writes to the directory")]
    Changed(String),
    #[error("{0} is the image gateway's own")]
    Forbidden(String),
    #[error("{0} means in a layer that a file is removed, and cannot be in an image; rename it")]
    Whiteout(String),
    #[error("the directory has more than {0} {1}, which is too much for an image (reached at {2})")]
    TooMuch(u64, &'static str, String),
    #[error("reading {0} failed: {1}")]
    Read(String, io::Error),
    #[error("writing the archive failed: {0}")]
    Write(String),
}

/// Writes the archive; at most so many bytes of files.
///
/// # Errors
/// [`TreeError`]; what was written so far is worthless.
pub(crate) fn archive(tree: &Tree, most: u64, out: &mut dyn Write) -> Result<(), TreeError> {
    let closed = tree.forbidden.iter().filter_map(|path| fs::stat(path).ok()).map(|found| identity(&found));
    let mut walk = Walk {
        tree,
        closed: closed.collect(),
        limits: Limits { uncompressed_bytes: most, ..Limits::default() },
        entries: 1,
        bytes: 0,
        names: HashMap::new(),
        out: TarWriter::new(out),
    };
    let open = |error: Errno| TreeError::Gateway(tree.path.display().to_string(), error);
    let status = fs::fstat(&tree.directory).map_err(open)?;
    walk.out.directory(b"", &attributes(&status)).map_err(written)?;
    let top = tree.directory.try_clone().map_err(|error| TreeError::Read(walk.said(b""), error))?;
    walk.directory(&top, &mut Vec::new(), 0)?;
    walk.out.finish().map_err(written)
}

struct Walk<'a> {
    tree: &'a Tree,
    /// Device and inode of what must not be met.
    closed: Vec<(u64, u64)>,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// Files that have several names: the first that was met.
    names: HashMap<(u64, u64), Vec<u8>>,
    out: TarWriter<'a>,
}

impl Walk<'_> {
    /// What is in an open directory, whose own entry is written. Each level holds a descriptor or two.
    fn directory(&mut self, directory: &File, path: &mut Vec<u8>, depth: usize) -> Result<(), TreeError> {
        if depth >= self.limits.depth {
            return Err(TreeError::TooMuch(
                self.limits.depth as u64,
                "directories in each other",
                self.said(path),
            ));
        }
        let before = self.status(directory, path)?;
        for name in self.list(directory, path)? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if path.len() > self.limits.name_bytes {
                return Err(TreeError::TooMuch(
                    self.limits.name_bytes as u64,
                    "bytes in a path",
                    self.said(path),
                ));
            }
            if name.starts_with(b".wh.") {
                return Err(TreeError::Whiteout(self.said(path)));
            }
            self.entry(directory, &before, &name, path, depth)?;
            path.truncate(length);
        }
        self.unchanged(directory, &before, path)
    }

    fn entry(
        &mut self,
        directory: &File,
        above: &Stat,
        name: &[u8],
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), TreeError> {
        let failed = |walk: &Self, error: Errno| match error {
            Errno::NOENT => TreeError::Changed(walk.said(path)),
            error => TreeError::Gateway(walk.said(path), error),
        };
        let (found, is_mount) = look(directory, name).map_err(|error| failed(self, error))?;
        let status = self.status(&found, path)?;
        let attributes = attributes(&status);
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                self.out.directory(path, &attributes).map_err(written)?;
                if is_mount || status.st_dev != above.st_dev {
                    return Ok(());
                }
                if self.closed.contains(&identity(&status)) {
                    return Err(TreeError::Forbidden(self.said(path)));
                }
                self.may(&found, &status, 0o5, path)?;
                let below = reopen(&found).map_err(|error| failed(self, error))?;
                self.directory(&below, path, depth + 1)
            }
            _ if is_mount => Ok(()),
            FileType::RegularFile => self.file(&found, &status, path),
            FileType::Symlink => {
                let target = fs::readlinkat(&found, "", Vec::new()).map_err(|error| failed(self, error))?;
                self.out.symlink(path, target.as_bytes(), &attributes).map_err(written)
            }
            FileType::Fifo => self.out.special(path, Special::Fifo, &attributes).map_err(written),
            _ => Ok(()),
        }
    }

    fn file(&mut self, found: &OwnedFd, status: &Stat, path: &[u8]) -> Result<(), TreeError> {
        if self.closed.contains(&identity(status)) {
            return Err(TreeError::Forbidden(self.said(path)));
        }
        self.may(found, status, 0o4, path)?;
        if status.st_nlink > 1 {
            if let Some(first) = self.names.get(&identity(status)) {
                return self.out.hard_link(path, first, &attributes(status)).map_err(written);
            }
            self.names.insert(identity(status), path.to_vec());
        }
        let mut file = reopen(found).map_err(|error| TreeError::Gateway(self.said(path), error))?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.uncompressed_bytes {
            return Err(TreeError::TooMuch(
                self.limits.uncompressed_bytes,
                "bytes of files",
                self.said(path),
            ));
        }
        self.out.file(path, &attributes(status), size).map_err(written)?;
        let mut to = Noting { to: self.out.data(), failed: Cell::new(false) };
        let copied = hash::copy(&mut file, &mut to, size);
        let is_ours = to.failed.get();
        copied.map_err(|error| match error.kind() {
            _ if is_ours => TreeError::Write(error.to_string()),
            io::ErrorKind::UnexpectedEof => TreeError::Changed(self.said(path)),
            _ => TreeError::Read(self.said(path), error),
        })?;
        self.out.end_data(size).map_err(written)?;
        self.unchanged(&file, status, path)
    }

    /// The names in a directory, sorted.
    fn list(&mut self, directory: &File, path: &[u8]) -> Result<Vec<Vec<u8>>, TreeError> {
        let text = self.said(path);
        let failed = |error: Errno| TreeError::Read(text.clone(), error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if self.entries >= self.limits.entries {
                return Err(TreeError::TooMuch(self.limits.entries, "entries", self.said(path)));
            }
            self.entries += 1;
            names.push(name.to_vec());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn may(&self, found: &OwnedFd, status: &Stat, bits: u32, path: &[u8]) -> Result<(), TreeError> {
        match judge(found, status, &self.tree.asker, bits) {
            Verdict::Yes => Ok(()),
            Verdict::No => Err(TreeError::Denied(self.said(path))),
            Verdict::Unclear => Err(TreeError::Unclear(self.said(path))),
        }
    }

    fn status(&self, found: &impl std::os::fd::AsFd, path: &[u8]) -> Result<Stat, TreeError> {
        fs::fstat(found).map_err(|error| TreeError::Read(self.said(path), error.into()))
    }

    fn unchanged(&self, file: &File, before: &Stat, path: &[u8]) -> Result<(), TreeError> {
        let now = self.status(file, path)?;
        let of = |s: &Stat| (s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec, s.st_size);
        if of(&now) == of(before) { Ok(()) } else { Err(TreeError::Changed(self.said(path))) }
    }

    /// A path for a sentence.
    fn said(&self, path: &[u8]) -> String {
        let top = self.tree.path.display().to_string();
        if path.is_empty() { top } else { format!("{}/{}", top.trim_end_matches('/'), path.escape_ascii()) }
    }
}

/// One name, without following anything, and whether something is mounted on it. Before Linux 5.6 only what is on
/// another file system is known to be.
fn look(directory: &File, name: &[u8]) -> rustix::io::Result<(OwnedFd, bool)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let plain = || fs::openat(directory.as_fd(), name, flags, Mode::empty());
    match fs::openat2(directory.as_fd(), name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        Ok(found) => Ok((found, false)),
        Err(Errno::XDEV) => Ok((plain()?, true)),
        Err(Errno::NOSYS | Errno::PERM) => Ok((plain()?, false)),
        Err(error) => Err(error),
    }
}

/// Knows whose error it was that ended a copy.
struct Noting<'a> {
    to: &'a mut dyn Write,
    failed: Cell<bool>,
}

impl Write for Noting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).inspect_err(|_| self.failed.set(true))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn attributes(status: &Stat) -> Attributes<'static> {
    Attributes {
        mode: (status.st_mode & 0o7777) as u16,
        uid: status.st_uid,
        gid: status.st_gid,
        mtime: u32::try_from(status.st_mtime.max(0)).unwrap_or(u32::MAX),
        xattrs: &[],
    }
}

fn written(error: MergeError) -> TreeError {
    TreeError::Write(match error {
        MergeError::WriteOutput { source } => source.to_string(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests;
