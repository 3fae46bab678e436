//! A file system that refuses root: a FUSE view of a directory whose server, like one for NFS with
//! `root_squash`, takes uid 0 for nobody and asks everybody else for the permissions of the files.
//!
//! Who asks is the kernel's file-system uid (`uid` in fuse.h's fuse_in_header), so `setfsuid` counts here as it does
//! for NFS; what was opened once can be read by whoever holds it, as with NFS's open contexts. A FUSE mount without
//! `allow_other` would be no such thing: it wants real, effective and saved ids. It can have a quota. Deliberately
//! missing: extended attributes, supplementary groups (a FUSE request does not carry them).

mod changes;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::sandbox::Sandbox;

/// The uid and gid root has here.
const NOBODY: u32 = 65534;
const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// A mounted view; [`RootSquashed::remove`] belongs to it.
#[derive(Debug)]
pub struct RootSquashed {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What it shows, where root can prepare files.
    pub behind: PathBuf,
    quota: Arc<Mutex<Option<u64>>>,
    server: JoinHandle<Result<()>>,
}

impl Sandbox {
    /// Mounts such a view of a new, empty directory.
    pub fn root_squashed(&mut self) -> Result<RootSquashed> {
        let (behind, path) = (self.new_directory("exported")?, self.new_directory("squashed")?);
        let device = "/dev/fuse";
        let device = OpenOptions::new().read(true).write(true).open(device).context("open /dev/fuse")?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("squashed", &path, "fuse", flags, Some(options.as_c_str()))
            .context("mount a FUSE file system")?;
        let (nodes, quota) = (vec![behind.clone()], Arc::new(Mutex::new(None)));
        let limit = quota.clone();
        let server =
            std::thread::spawn(move || Server { device, nodes, open: Vec::new(), quota: limit }.serve());
        Ok(RootSquashed { path, behind, quota, server })
    }
}

impl RootSquashed {
    /// Most bytes that the files of a directory may have together, from now on.
    pub fn set_quota(&self, bytes: Option<u64>) {
        *self.quota.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bytes;
    }

    /// Unmounts it, once the kernel has let go of loop devices on its files.
    pub fn remove(self) -> Result<()> {
        let begin = Instant::now();
        loop {
            match unmount(&self.path, UnmountFlags::empty()) {
                Ok(()) => break,
                Err(Errno::BUSY) if begin.elapsed() < Duration::from_secs(5) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error).context("unmount the FUSE file system"),
            }
        }
        self.server.join().map_err(|_| anyhow!("the FUSE server panicked"))?
    }
}

/// The other end of the mount. A node's number is its index plus one, so the root is 1 (FUSE_ROOT_ID).
struct Server {
    device: File,
    nodes: Vec<PathBuf>,
    open: Vec<File>,
    quota: Arc<Mutex<Option<u64>>>,
}

/// What fuse.h's fuse_in_header says of a request.
struct Request<'a> {
    node: u64,
    uid: u32,
    gid: u32,
    body: &'a [u8],
}

type Answer = std::result::Result<Vec<u8>, Errno>;

impl Server {
    fn serve(mut self) -> Result<()> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
                // A request may be withdrawn while it is read.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("read a FUSE request"),
            };
            let message = buffer.get(..length).context("a FUSE request longer than asked for")?;
            let (opcode, unique) = (u32_at(message, 4), u64_at(message, 8));
            let request = Request {
                node: u64_at(message, 16),
                uid: u32_at(message, 24),
                gid: u32_at(message, 28),
                body: message.get(40..).unwrap_or_default(),
            };
            // FORGET, INTERRUPT and BATCH_FORGET have no answer.
            if matches!(opcode, 2 | 36 | 42) {
                continue;
            }
            let (code, body) = match self.answer(opcode, &request) {
                Ok(body) => (0, body),
                Err(errno) => (-errno.raw_os_error(), Vec::new()),
            };
            let mut reply = Vec::new();
            reply.extend((16 + body.len() as u32).to_ne_bytes());
            reply.extend(code.to_ne_bytes());
            reply.extend(unique.to_ne_bytes());
            reply.extend(body);
            match self.device.write(&reply) {
                // Whoever asked is gone.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                other => drop(other.context("answer a FUSE request")?),
            }
        }
    }

    /// The structures are those of linux/fuse.h, version 7.31.
    fn answer(&mut self, opcode: u32, request: &Request<'_>) -> Answer {
        let path = self.path(request.node)?;
        if let Some(answer) = self.change(opcode, request, &path) {
            return answer;
        }
        let status = || fs::symlink_metadata(&path).map_err(|_| Errno::NOENT);
        match opcode {
            1 => {
                permit(request, &status()?, SEARCH)?;
                let name = request.body.split(|byte| *byte == 0).next().unwrap_or_default();
                let child = path.join(std::ffi::OsStr::from_bytes(name));
                let of = fs::symlink_metadata(&child).map_err(|_| Errno::NOENT)?;
                let node = self.node(child);
                // Nothing is kept: every look-up is asked anew, by whoever makes it.
                let head: Vec<u8> = [node, 0, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
                Ok([head, attributes(node, &of)].concat())
            }
            3 => Ok([vec![0; 16], attributes(request.node, &status()?)].concat()),
            5 => Ok(fs::read_link(&path).map_err(|_| Errno::INVAL)?.into_os_string().into_vec()),
            14 | 27 => {
                let flags = u32_at(request.body, 0);
                let wanted = [READ, WRITE, READ | WRITE][(flags & 3).min(2) as usize];
                permit(request, &status()?, wanted)?;
                self.open.push(changes::open(&path, flags)?);
                let handle = self.open.len() as u64 - 1;
                Ok([handle, 0].into_iter().flat_map(u64::to_ne_bytes).collect())
            }
            15 => {
                let [handle, offset] = [u64_at(request.body, 0), u64_at(request.body, 8)];
                let file = self.open.get(handle as usize).ok_or(Errno::BADF)?;
                let mut bytes = vec![0; u32_at(request.body, 16) as usize];
                let mut filled = 0;
                while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset + filled as u64).map_err(|_| Errno::IO)? {
                        0 => break,
                        more => filled += more,
                    }
                }
                bytes.truncate(filled);
                Ok(bytes)
            }
            28 => self.entries(&path, u64_at(request.body, 8), u32_at(request.body, 16) as usize),
            17 => Ok([vec![0; 40], 4096u32.to_ne_bytes().into(), 255u32.to_ne_bytes().into(), vec![0; 32]]
                .concat()),
            18 | 25 | 29 | 38 => Ok(Vec::new()),
            26 => {
                let numbers = [7, 31, 0, 0, 0, 1 << 17, 1, 0].into_iter().flat_map(u32::to_ne_bytes);
                Ok(numbers.chain([0; 32]).collect())
            }
            34 => permit(request, &status()?, u32_at(request.body, 0)).map(|()| Vec::new()),
            _ => Err(Errno::NOSYS),
        }
    }

    /// As many entries from `offset` on as fit, as fuse_dirent structures.
    fn entries(&mut self, path: &Path, offset: u64, size: usize) -> Answer {
        let mut names: Vec<_> = fs::read_dir(path)
            .and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<_>>()
            })
            .map_err(|_| Errno::IO)?;
        names.sort();
        let mut bytes = Vec::new();
        for (index, name) in names.iter().enumerate().skip(offset as usize) {
            let node = self.node(path.join(name));
            let mut entry: Vec<u8> =
                [node, index as u64 + 1].into_iter().flat_map(u64::to_ne_bytes).collect();
            entry.extend((name.len() as u32).to_ne_bytes());
            entry.extend(0u32.to_ne_bytes()); // type unknown
            entry.extend(name.as_bytes());
            entry.resize(entry.len().next_multiple_of(8), 0);
            if bytes.len() + entry.len() > size {
                break;
            }
            bytes.extend(entry);
        }
        Ok(bytes)
    }

    fn path(&self, node: u64) -> std::result::Result<PathBuf, Errno> {
        // INIT and DESTROY name no node.
        self.nodes.get(node.saturating_sub(1) as usize).cloned().ok_or(Errno::STALE)
    }

    fn node(&mut self, path: PathBuf) -> u64 {
        let known = self.nodes.iter().position(|node| *node == path);
        let index = known.unwrap_or_else(|| {
            self.nodes.push(path);
            self.nodes.len() - 1
        });
        index as u64 + 1
    }
}

/// What a server with `root_squash` does: uid 0 has no rights but everybody's.
fn permit(request: &Request<'_>, of: &Metadata, wanted: u32) -> std::result::Result<(), Errno> {
    let squash = |id| if id == 0 { NOBODY } else { id };
    let class = if squash(request.uid) == of.uid() {
        6
    } else if squash(request.gid) == of.gid() {
        3
    } else {
        0
    };
    if (of.mode() >> class) & wanted == wanted { Ok(()) } else { Err(Errno::ACCESS) }
}

/// fuse_attr.
fn attributes(node: u64, of: &Metadata) -> Vec<u8> {
    let times = [of.atime(), of.mtime(), of.ctime()].map(|time| time as u64);
    let long = [node, of.size(), of.blocks()].into_iter().chain(times).flat_map(u64::to_ne_bytes);
    let nanoseconds = [of.atime_nsec(), of.mtime_nsec(), of.ctime_nsec()].map(|time| time as u32);
    let rest = [of.mode(), of.nlink() as u32, of.uid(), of.gid(), 0, 4096, 0];
    long.chain(nanoseconds.into_iter().chain(rest).flat_map(u32::to_ne_bytes)).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
