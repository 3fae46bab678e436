//! An EROFS image as an archive, which is then converted as a layer. `fsck.erofs` of erofs-utils unpacks the data of its
//! files, below a child that is shut in; names, owners, modes and links are read by our own code (`format`), which judges
//! before the tool begins how much there is, and afterwards takes from the tool nothing but bytes of files.
//!
//! So no byte of a user's image reaches a kernel's file system code. Extended attributes are not taken over.

mod format;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};
use shifter_fasthash::hash;
use shifter_layers::{Attributes, Device, Limits, Special, TarWriter};

use self::format::{Erofs, Inode, Kind};
use super::WithHoles;
use crate::confine::Reach;
use crate::convert::{answer, read_job, sentence, shut_in};
use crate::erofs::{PLACES, find_program};
use crate::examine::LastWords;
use crate::offspring;

const PROGRAM: &str = "fsck.erofs";

/// How long what it said may take to be read to its end when all are gone.
const READING: Duration = Duration::from_secs(10);

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnpackJob {
    /// The copy of the user's file.
    pub(crate) image: PathBuf,
    /// Where the tool unpacks; nothing is there.
    pub(crate) tree: PathBuf,
    /// The archive; nothing is there.
    pub(crate) archive: PathBuf,
    /// Bytes of files at most.
    pub(crate) bytes: u64,
    /// All that the child may touch, besides the system's programs.
    pub(crate) reach: Reach,
}

/// The child: reads the job, unpacks, archives, answers. Returns the exit status.
pub(crate) fn child() -> u8 {
    answer(read_job().and_then(|job| run(&job)))
}

fn run(job: &UnpackJob) -> Result<(u64, u64), String> {
    let program = find_program(PROGRAM).ok_or_else(|| {
        format!(
            "{PROGRAM} is in none of {}; EROFS images are imported where erofs-utils is installed",
            PLACES.join(", ")
        )
    })?;
    let mut reach = job.reach.clone();
    reach.add_programs();
    // Where its descendants are looked for.
    reach.read.push(PathBuf::from("/proc"));
    offspring::adopt()?;
    shut_in(&reach)?;
    let opening = |error: io::Error| format!("opening {} failed: {error}", job.image.display());
    let file = File::open(&job.image).map_err(opening)?;
    let image = Erofs::open(&file)?;
    let limits = limits(job.bytes, file.metadata().map_err(opening)?.len());
    let found = Walk::new(&image, &limits).run(&mut |_, _, _| Ok(()))?;
    unpack(&program, job)?;
    let making = |error: io::Error| format!("writing {} failed: {error}", job.archive.display());
    let mut archive = File::options().write(true).create_new(true).open(&job.archive).map_err(making)?;
    write(&image, &limits, &job.tree, &mut archive)?;
    Ok(found)
}

/// What an image of this many bytes may unpack to, as for squashfs: small ones compress to almost nothing.
fn limits(most: u64, length: u64) -> Limits {
    let usual = Limits::default();
    let unpacked = length.saturating_mul(usual.ratio).saturating_add(usual.ratio_free_bytes);
    Limits { uncompressed_bytes: most.min(unpacked), ..usual }
}

fn unpack(program: &Path, job: &UnpackJob) -> Result<(), String> {
    let start = |error: io::Error| format!("running {} failed: {error}", program.display());
    let mut command = Command::new(program);
    let mut extract = std::ffi::OsString::from("--extract=");
    extract.push(&job.tree);
    // Without rights to give files away or to change their modes, all are this account's, and it may read them.
    command.args(["-d1", "--no-preserve"]).arg(extract).arg(&job.image).env_clear();
    command.env("PATH", crate::convert::PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut tool = command.spawn().map_err(start)?;
    let words = LastWords::listen(tool.stderr.take());
    let status = tool.wait().map_err(start)?;
    // Nobody may write to the tree once it is read.
    offspring::end_all()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} failed ({status}): {}", program.display(), words.text(READING))),
    }
}

/// Archives what the image holds, with the data that was unpacked.
fn write(image: &Erofs<'_>, limits: &Limits, tree: &Path, archive: &mut File) -> Result<(), String> {
    let failed = |error: shifter_layers::MergeError| sentence(&error);
    let mut archive = WithHoles { to: archive, size: 0 };
    let mut out = TarWriter::new(&mut archive);
    let mut names: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut unpacked = Unpacked { tree, open: Vec::new() };
    Walk::new(image, limits).run(&mut |path, depth, inode| {
        let attributes = attributes(inode);
        match inode.kind {
            Kind::Directory => {
                unpacked.enter(path, depth)?;
                out.directory(path, &attributes).map_err(failed)
            }
            Kind::File => {
                if let Some(first) = names.get(&inode.number) {
                    return out.hard_link(path, first, &attributes).map_err(failed);
                }
                names.insert(inode.number, path.to_vec());
                let mut file = unpacked.file(path, depth, inode.size)?;
                out.file(path, &attributes, inode.size).map_err(failed)?;
                let copied = hash::copy(&mut file, out.data(), inode.size);
                copied.map_err(|error| format!("copying {} failed: {error}", path.escape_ascii()))?;
                out.end_data(inode.size).map_err(failed)
            }
            Kind::Symlink => out.symlink(path, &image.target(inode)?, &attributes).map_err(failed),
            Kind::Character => {
                out.special(path, Special::CharDevice(device(inode)), &attributes).map_err(failed)
            }
            Kind::Block => {
                out.special(path, Special::BlockDevice(device(inode)), &attributes).map_err(failed)
            }
            Kind::Fifo => out.special(path, Special::Fifo, &attributes).map_err(failed),
            Kind::Socket => Ok(()),
        }
    })?;
    out.finish().map_err(failed)?;
    archive.finish().map(drop).map_err(|error| format!("writing the archive failed: {error}"))
}

/// Hears of an entry: its path, in how many directories it is, and what it is.
type Visit<'v> = dyn FnMut(&[u8], usize, &Inode) -> Result<(), String> + 'v;

/// All entries, directories before what they hold, in the order of names; within limits, and each directory once.
struct Walk<'a> {
    image: &'a Erofs<'a>,
    limits: &'a Limits,
    directories: HashSet<u64>,
    entries: u64,
    names: u64,
    bytes: u64,
}

impl<'a> Walk<'a> {
    fn new(image: &'a Erofs<'a>, limits: &'a Limits) -> Walk<'a> {
        Walk { image, limits, directories: HashSet::new(), entries: 0, names: 0, bytes: 0 }
    }

    /// Entries, and bytes of files by name: a tool that knows no hard links writes as much.
    fn run(mut self, visit: &mut Visit<'_>) -> Result<(u64, u64), String> {
        let root = self.image.root()?;
        if root.kind != Kind::Directory {
            return Err("the EROFS image is broken: its root is no directory".to_owned());
        }
        self.below(&root, &mut Vec::new(), 0, visit)?;
        Ok((self.entries, self.bytes))
    }

    fn below(
        &mut self,
        inode: &Inode,
        path: &mut Vec<u8>,
        depth: usize,
        visit: &mut Visit<'_>,
    ) -> Result<(), String> {
        self.entries += 1;
        self.names += path.len() as u64;
        let said = || format!("/{}", path.escape_ascii());
        if self.entries > self.limits.entries
            || self.names > self.limits.all_names_bytes
            || depth > self.limits.depth
            || path.len() > self.limits.name_bytes
        {
            return Err(format!(
                "the EROFS image has more or deeper directories than an image may have ({})",
                said()
            ));
        }
        if inode.kind == Kind::File {
            self.bytes = self.bytes.saturating_add(inode.size);
            if self.bytes > self.limits.uncompressed_bytes {
                let most = self.limits.uncompressed_bytes;
                return Err(format!(
                    "the EROFS image unpacks to more than {most} bytes (reached at {})",
                    said()
                ));
            }
        }
        visit(path, depth, inode)?;
        if inode.kind != Kind::Directory {
            return Ok(());
        }
        if !self.directories.insert(inode.number) {
            return Err(format!("the EROFS image is broken: the directory {} has two names", said()));
        }
        for (name, number) in self.image.entries(inode)? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if name.starts_with(b".wh.") {
                return Err(format!("/{} means in a layer that a file is removed", path.escape_ascii()));
            }
            let inode = self.image.inode(number)?;
            self.below(&inode, path, depth + 1, visit)?;
            path.truncate(length);
        }
        Ok(())
    }
}

/// What the tool has unpacked, looked at by descriptor.
struct Unpacked<'a> {
    tree: &'a Path,
    /// The directory that is walked, and those above it.
    open: Vec<OwnedFd>,
}

impl Unpacked<'_> {
    fn enter(&mut self, path: &[u8], depth: usize) -> Result<(), String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match depth.checked_sub(1) {
            None => openat(CWD, self.tree, flags, Mode::empty()),
            Some(above) => {
                self.open.truncate(depth);
                openat(self.at(above)?, name(path), flags, Mode::empty())
            }
        };
        let opened = opened.map_err(|error| lacks(path, &error))?;
        self.open.push(opened);
        Ok(())
    }

    fn file(&self, path: &[u8], depth: usize, size: u64) -> Result<File, String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let above = self.at(depth.saturating_sub(1))?;
        let opened = openat(above, name(path), flags, Mode::empty()).map_err(|error| lacks(path, &error))?;
        let found = fstat(&opened).map_err(|error| lacks(path, &error))?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if !is_file || u64::try_from(found.st_size) != Ok(size) {
            return Err(lacks(path, &"it made something else"));
        }
        Ok(File::from(opened))
    }

    fn at(&self, depth: usize) -> Result<BorrowedFd<'_>, String> {
        let found = self.open.get(depth).ok_or("a directory was left too early; this is a defect")?;
        Ok(found.as_fd())
    }
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn lacks(path: &[u8], why: &dyn std::fmt::Display) -> String {
    format!("{PROGRAM} did not unpack /{} as the image has it: {why}", path.escape_ascii())
}

fn attributes(inode: &Inode) -> Attributes<'static> {
    let mtime = u32::try_from(inode.modified).unwrap_or(u32::MAX);
    Attributes { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime, xattrs: &[] }
}

fn device(inode: &Inode) -> Device {
    Device::decoded(inode.device)
}

#[cfg(test)]
mod tests;
