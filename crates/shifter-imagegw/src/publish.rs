//! Publishing: files appear in an image directory whole, durable and mode 0600, or not at all.
//!
//! A file is written under `.ID.partial.RANDOM` in the directory itself, flushed, renamed, and the
//! directory flushed: a rename never crosses file systems and readers never see a part. The image
//! goes first and `.meta` second, so a `.meta` never promises what is not there. A part holds a lock
//! while its writer lives; parts without one are leftovers and are removed at the next start.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::Rng;
use ring::digest::{Context, SHA256};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::config::{Access, Platform};

/// Why a file could not be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("no space is left in {} while writing {what}; nothing was left behind, free some space and pull again", .directory.display())]
    NoSpace { directory: PathBuf, what: String },
    #[error("{operation} {} failed: {source}", .path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Bytes.
    pub(crate) size: u64,
    /// Hex, of the bytes as they were written.
    pub(crate) sha256: String,
}

/// Where image files of an id and format are.
pub(crate) fn image_path(directory: &Path, id: &str, format: &str) -> PathBuf {
    directory.join(format!("{id}.{format}"))
}

/// Whether the image file is there, regular and of the size that was published.
pub(crate) fn is_published(directory: &Path, id: &str, format: &str, size: u64) -> bool {
    std::fs::symlink_metadata(image_path(directory, id, format))
        .is_ok_and(|found| found.is_file() && found.len() == size)
}

/// An image file being written in its directory by somebody else, the converter.
pub(crate) struct NewImage {
    part: Part,
    target: PathBuf,
}

impl NewImage {
    /// An empty file for the image of this id.
    pub(crate) fn create(directory: &Path, id: &str, format: &str) -> Result<NewImage, PublishError> {
        Ok(NewImage { part: Part::create(directory, id)?, target: image_path(directory, id, format) })
    }

    /// Where it is to be written.
    pub(crate) fn path(&self) -> &Path {
        &self.part.path
    }

    /// Gives it its name, with what it has now.
    pub(crate) fn publish(self) -> Result<Published, PublishError> {
        let io = |operation, source| PublishError::Io { operation, path: self.part.path.clone(), source };
        let mut input = File::open(&self.part.path).map_err(|source| io("opening", source))?;
        let written = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        if written(&input).ok() != written(&self.part.file).ok() {
            let replaced = io::Error::other("it was replaced while it was written");
            return Err(io("opening", replaced));
        }
        let (size, sha256) = size_and_sha256(&mut input).map_err(|source| io("reading", source))?;
        self.part.publish(&self.target, "the image")?;
        Ok(Published { size, sha256 })
    }
}

fn size_and_sha256(file: &mut File) -> io::Result<(u64, String)> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((size, hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Writes `.meta`, unless it says the same already.
pub(crate) fn publish_meta(directory: &Path, id: &str, text: &str) -> Result<(), PublishError> {
    let path = directory.join(format!("{id}.meta"));
    if std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() == text.len() as u64)
        && std::fs::read(&path).is_ok_and(|old| old == text.as_bytes())
    {
        return Ok(());
    }
    let mut part = Part::create(directory, id)?;
    part.write(text.as_bytes(), "the image's metadata")?;
    part.publish(&path, "the image's metadata")
}

/// Removes an image's files from a system, `.meta` first; those that are not there count as removed.
pub(crate) fn remove(platform: &Platform, id: &str, format: &str) -> Result<(), PublishError> {
    remove_meta(platform, id)?;
    unlink(platform, &image_path(&platform.image_dir, id, format))
}

/// Removes `.meta` alone: nodes then take the image for one that is not there.
pub(crate) fn remove_meta(platform: &Platform, id: &str) -> Result<(), PublishError> {
    unlink(platform, &platform.image_dir.join(format!("{id}.meta")))
}

fn unlink(platform: &Platform, path: &Path) -> Result<(), PublishError> {
    let removed = match platform.access {
        Access::Local => std::fs::remove_file(path),
        // What has this name here is somebody else's.
        Access::Remote => {
            Err(io::Error::other("it is on a remote system, which this version does not serve"))
        }
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => {
            result.map_err(|source| PublishError::Io { operation: "removing", path: path.to_owned(), source })
        }
    }
}

/// A scratch directory that leaves with its value; in `ExpandDirectory`, under the name of a part.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    pub(crate) fn create(parent: &Path, id: &str) -> Result<Scratch, PublishError> {
        let path = parent.join(part_name(id));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| failed("creating", &path, parent, "a scratch directory", source))?;
        let lock = path.join("lock");
        let locked = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
        // Best effort, as for parts: without locks, leftovers are told by age.
        let locked = locked.inspect(|file| drop(file.try_lock()));
        match locked {
            Ok(file) => Ok(Scratch { path, _lock: file }),
            Err(source) => {
                let _ = std::fs::remove_dir_all(&path);
                Err(failed("creating", &lock, parent, "a scratch directory", source))
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        discard(&self.path, true);
    }
}

/// Removes parts and scratch directories whose writer is dead; returns how many there were.
pub(crate) fn remove_leftovers(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_part_name) {
            continue;
        }
        let path = entry.path();
        let is_directory = entry.file_type()?.is_dir();
        let lock = if is_directory { path.join("lock") } else { path.clone() };
        let is_dead = match File::open(&lock).map(|file| file.try_lock()) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            // No lock file, or a file system without locks: only age can tell.
            Ok(Err(TryLockError::Error(_))) | Err(_) => is_old(&entry),
        };
        if is_dead {
            discard(&path, is_directory);
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    const DAY: Duration = Duration::from_secs(86_400);
    let modified = entry.metadata().and_then(|m| m.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > DAY))
}

fn discard(path: &Path, is_directory: bool) {
    let result = match is_directory {
        true => std::fs::remove_dir_all(path).or_else(|error| match error.kind() {
            ErrorKind::PermissionDenied => open_up(path).and_then(|()| std::fs::remove_dir_all(path)),
            _ => Err(error),
        }),
        false => std::fs::remove_file(path),
    };
    if let Err(error) = result
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "removing a partial file failed");
    }
}

/// A directory itself, without the right to look into it.
const WHERE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Takes back the right to empty directories, which an examiner may have taken from us. Never through a symlink: should
/// somebody be alive who puts one where a directory was, it is not followed.
fn open_up(directory: &Path) -> io::Result<()> {
    open_below(openat(CWD, directory, WHERE, Mode::empty())?)
}

fn open_below(directory: OwnedFd) -> io::Result<()> {
    // What was opened, whatever stands under its name by now; fchmod(2) refuses descriptors that only name.
    let itself = format!("/proc/self/fd/{}", directory.as_raw_fd());
    std::fs::set_permissions(&itself, PermissionsExt::from_mode(0o700))?;
    for entry in std::fs::read_dir(&itself)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_below(openat(&directory, entry.file_name(), WHERE, Mode::empty())?)?;
        }
    }
    Ok(())
}

fn part_name(id: &str) -> String {
    format!(".{id}.partial.{:016x}", rand::rng().random::<u64>())
}

/// `.ID.partial.RANDOM`, and nothing else: the directory also holds what is not ours.
fn is_part_name(name: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    name.strip_prefix('.')
        .and_then(|rest| rest.split_once(".partial."))
        .is_some_and(|(id, random)| id.len() == 64 && hex(id) && random.len() == 16 && hex(random))
}

fn failed(
    operation: &'static str,
    path: &Path,
    directory: &Path,
    what: &str,
    source: io::Error,
) -> PublishError {
    if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        PublishError::NoSpace { directory: directory.to_owned(), what: what.to_owned() }
    } else {
        PublishError::Io { operation, path: path.to_owned(), source }
    }
}

/// A file being written; removed when dropped, unless it was published.
struct Part {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    is_published: bool,
}

impl Part {
    fn create(directory: &Path, id: &str) -> Result<Part, PublishError> {
        let path = directory.join(part_name(id));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("creating", &path, directory, "a file", source))?;
        // Best effort: without locks, leftovers are told by age.
        let _ = file.try_lock();
        Ok(Part { directory: directory.to_owned(), path, file, is_published: false })
    }

    fn write(&mut self, bytes: &[u8], what: &str) -> Result<(), PublishError> {
        self.file
            .write_all(bytes)
            .map_err(|source| failed("writing", &self.path, &self.directory, what, source))
    }

    fn publish(mut self, path: &Path, what: &str) -> Result<(), PublishError> {
        let flushed =
            self.file.set_permissions(PermissionsExt::from_mode(0o600)).and_then(|()| self.file.sync_all());
        flushed.map_err(|source| failed("flushing", &self.path, &self.directory, what, source))?;
        std::fs::rename(&self.path, path)
            .map_err(|source| failed("renaming a part to", path, &self.directory, what, source))?;
        self.is_published = true;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| failed("flushing", &self.directory, &self.directory, what, source))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_published {
            discard(&self.path, false);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_whole_private_and_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let image = NewImage::create(&images, ID, "squashfs").unwrap();
        std::fs::write(image.path(), b"blah blah hash").unwrap();
        let published = image.publish().unwrap();
        assert_eq!(published.size, 14);
        assert_eq!(published.sha256, "ff68165577eb209adcfa2f793476a25da637142283409d6f4d8d61ee042c5e63");
        publish_meta(&images, ID, "FORMAT: squashfs\n").unwrap();
        publish_meta(&images, ID, "FORMAT: squashfs\nENV: A=1\n").unwrap();
        assert_eq!(names(&images), [format!("{ID}.meta"), format!("{ID}.squashfs")]);
        for name in names(&images) {
            let metadata = std::fs::metadata(images.join(&name)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{name}");
        }
        assert!(is_published(&images, ID, "squashfs", 14));
        assert!(!is_published(&images, ID, "squashfs", 15));
        let meta = std::fs::read_to_string(images.join(format!("{ID}.meta"))).unwrap();
        assert_eq!(meta, "FORMAT: squashfs\nENV: A=1\n");
    }

    #[test]
    fn an_unchanged_meta_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let inode = || std::fs::metadata(dir.path().join(format!("{ID}.meta"))).unwrap().ino();
        publish_meta(dir.path(), ID, "a\n").unwrap();
        let first = inode();
        publish_meta(dir.path(), ID, "a\n").unwrap();
        assert_eq!(inode(), first);
        publish_meta(dir.path(), ID, "b\n").unwrap();
        assert_ne!(inode(), first);
    }

    #[test]
    fn failures_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let image = NewImage::create(&images, ID, "squashfs").unwrap();
        std::fs::remove_file(image.path()).unwrap();
        std::fs::write(image.path(), b"another").unwrap();
        assert!(image.publish().is_err(), "a file that is not the one made here");
        drop(NewImage::create(&images, ID, "squashfs").unwrap());
        // The name is taken by a directory: the rename fails after all was written.
        std::fs::create_dir(images.join(format!("{ID}.meta"))).unwrap();
        assert!(publish_meta(&images, ID, "x").is_err());
        assert_eq!(names(&images), [format!("{ID}.meta")]);
        let scratch = Scratch::create(&images, ID).unwrap();
        std::fs::write(scratch.path().join("image"), b"x").unwrap();
        drop(scratch);
        assert_eq!(names(&images), [format!("{ID}.meta")]);
    }

    #[test]
    fn a_scratch_directory_goes_whatever_was_made_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path(), ID).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let deep = scratch.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), b"").unwrap();
        std::os::unix::fs::symlink(&outside, deep.join("link")).unwrap();
        for path in [&deep, &scratch.path().join("a")] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o0)).unwrap();
        }
        std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o500)).unwrap();
        open_up(scratch.path()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&outside), 0o500, "what a symlink leads to is left alone");
        let way = dir.path().join("way");
        std::os::unix::fs::symlink(&outside, &way).unwrap();
        assert!(open_up(&way).is_err());
        assert_eq!(mode(&outside), 0o500, "nor what one that took a directory's place leads to");
        std::fs::remove_file(way).unwrap();
        drop(scratch);
        assert_eq!(names(dir.path()), ["outside"]);
    }

    #[test]
    fn only_parts_of_dead_writers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let alive = Part::create(dir.path(), ID).unwrap();
        let scratch = Scratch::create(dir.path(), ID).unwrap();
        std::fs::write(dir.path().join(part_name(ID)), b"dead").unwrap();
        let dead = dir.path().join(part_name(ID));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("lock"), b"").unwrap();
        for foreign in
            [".nfs0001", ".x.partial.0011223344556677", &format!(".{ID}.partial.short"), "a.squashfs"]
        {
            std::fs::write(dir.path().join(foreign), b"").unwrap();
        }
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()).len(), 6);
        drop((alive, scratch));
        assert_eq!(names(dir.path()).len(), 4);
    }

    #[test]
    fn a_full_disk_is_a_sentence() {
        let full = io::Error::from(ErrorKind::StorageFull);
        let error = failed("writing", Path::new("/images/.x"), Path::new("/images"), "the image", full);
        assert!(
            error.to_string().starts_with("no space is left in /images while writing the image"),
            "{error}"
        );
    }
}
