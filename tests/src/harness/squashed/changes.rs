//! What changes files behind the stand-in for `root_squash`: creating, writing, renaming, removing. Who may is decided
//! as by such a server, and what is created belongs to who asked. Links, special files and times are missing.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Answer, NOBODY, Request, SEARCH, Server, WRITE, attributes, permit, u32_at, u64_at};

/// Bits of fuse_setattr_in's `valid` (linux/fuse.h).
const FATTR_MODE: u32 = 1;
const FATTR_SIZE: u32 = 8;

fn squashed(id: u32) -> u32 {
    if id == 0 { NOBODY } else { id }
}

fn io(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

impl Server {
    /// None for what changes nothing.
    pub(super) fn change(&mut self, opcode: u32, request: &Request<'_>, path: &Path) -> Option<Answer> {
        Some(match opcode {
            4 => self.set(request, path),
            9 => self.make(request, path),
            10 | 11 => self.remove(request, path, opcode == 11),
            12 => self.rename(request, path, 8),
            // With flags, nobody here asks for it.
            45 if u32_at(request.body, 8) != 0 => Err(Errno::INVAL),
            45 => self.rename(request, path, 16),
            16 => self.write(request, path),
            20 | 30 => Ok(Vec::new()),
            35 => self.create(request, path),
            _ => return None,
        })
    }

    fn set(&mut self, request: &Request<'_>, path: &Path) -> Answer {
        let of = fs::symlink_metadata(path).map_err(io)?;
        let valid = u32_at(request.body, 0);
        if valid & FATTR_MODE != 0 {
            if squashed(request.uid) != of.uid() {
                return Err(Errno::PERM);
            }
            fs::set_permissions(path, Permissions::from_mode(u32_at(request.body, 68) & 0o7777))
                .map_err(io)?;
        }
        if valid & FATTR_SIZE != 0 {
            permit(request, &of, WRITE)?;
            OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(io)?
                .set_len(u64_at(request.body, 16))
                .map_err(io)?;
        }
        let of = fs::symlink_metadata(path).map_err(io)?;
        Ok([vec![0; 16], attributes(request.node, &of)].concat())
    }

    fn write(&mut self, request: &Request<'_>, path: &Path) -> Answer {
        let [handle, offset] = [u64_at(request.body, 0), u64_at(request.body, 8)];
        let bytes = request.body.get(40..40 + u32_at(request.body, 16) as usize).ok_or(Errno::INVAL)?;
        let file = self.open.get(handle as usize).ok_or(Errno::BADF)?;
        if let Some(quota) = *self.quota.lock().map_err(|_| Errno::IO)? {
            let size = file.metadata().map_err(io)?.len();
            let others = used(path.parent().unwrap_or(path)) - size;
            if others + size.max(offset + bytes.len() as u64) > quota {
                return Err(Errno::DQUOT);
            }
        }
        file.write_all_at(bytes, offset).map_err(io)?;
        Ok([bytes.len() as u32, 0].into_iter().flat_map(u32::to_ne_bytes).collect())
    }

    fn create(&mut self, request: &Request<'_>, directory: &Path) -> Answer {
        let child = self.child(request, directory, 16)?;
        let mode = u32_at(request.body, 4) & !u32_at(request.body, 8) & 0o7777;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&child);
        self.open.push(file.map_err(io)?);
        let head = self.entered(request, child)?;
        let handle = [self.open.len() as u64 - 1, 0];
        Ok([head, handle.into_iter().flat_map(u64::to_ne_bytes).collect()].concat())
    }

    fn make(&mut self, request: &Request<'_>, directory: &Path) -> Answer {
        let child = self.child(request, directory, 8)?;
        let mode = u32_at(request.body, 0) & !u32_at(request.body, 4) & 0o7777;
        fs::create_dir(&child).map_err(io)?;
        fs::set_permissions(&child, Permissions::from_mode(mode)).map_err(io)?;
        self.entered(request, child)
    }

    fn remove(&mut self, request: &Request<'_>, directory: &Path, is_directory: bool) -> Answer {
        let child = self.child(request, directory, 0)?;
        let removed = if is_directory { fs::remove_dir(&child) } else { fs::remove_file(&child) };
        removed.map_err(io)?;
        self.forget(&child);
        Ok(Vec::new())
    }

    fn rename(&mut self, request: &Request<'_>, directory: &Path, names: usize) -> Answer {
        let from = self.child(request, directory, names)?;
        let length = from.file_name().unwrap_or_default().len();
        let target = self.path(u64_at(request.body, 0))?;
        let to = self.child(request, &target, names + length + 1)?;
        fs::rename(&from, &to).map_err(io)?;
        self.forget(&to);
        for node in self.nodes.iter_mut().filter(|node| node.starts_with(&from)) {
            let rest = node.strip_prefix(&from).map_err(|_| Errno::IO)?.to_owned();
            *node = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
        }
        Ok(Vec::new())
    }

    /// The name at a place of the request, in a directory that the asker may change.
    fn child(&self, request: &Request<'_>, directory: &Path, at: usize) -> Result<PathBuf, Errno> {
        permit(request, &fs::symlink_metadata(directory).map_err(io)?, WRITE | SEARCH)?;
        let name = request.body.get(at..).and_then(|rest| rest.split(|byte| *byte == 0).next());
        Ok(directory.join(OsStr::from_bytes(name.ok_or(Errno::INVAL)?)))
    }

    /// Gives what was made to who asked; fuse_entry_out.
    fn entered(&mut self, request: &Request<'_>, child: PathBuf) -> Answer {
        chown(&child, Some(squashed(request.uid)), Some(squashed(request.gid))).map_err(io)?;
        let of = fs::symlink_metadata(&child).map_err(io)?;
        let node = self.node(child);
        let head: Vec<u8> = [node, 0, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
        Ok([head, attributes(node, &of)].concat())
    }

    /// A later file of this name is another one.
    fn forget(&mut self, path: &Path) {
        self.nodes.iter_mut().filter(|node| *node == path).for_each(|node| *node = PathBuf::from("/gone"));
    }
}

/// Bytes of the files in a directory.
fn used(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|of| of.is_file()).map(|of| of.len()).sum()
}

/// Opens a file as the asker wants it, who may.
pub(super) fn open(path: &Path, flags: u32) -> Result<File, Errno> {
    OpenOptions::new().read(true).write(flags & 3 != 0).open(path).map_err(io)
}
