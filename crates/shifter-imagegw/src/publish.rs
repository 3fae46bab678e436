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
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use rand::Rng;
use ring::digest::{Context, SHA256};
use rustix::fs::{CWD, Mode, OFlags, openat};

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

    /// Flushes and reads what it has now.
    pub(crate) fn complete(self) -> Result<Complete, PublishError> {
        let NewImage { part, target } = self;
        let io = |operation, source| PublishError::Io { operation, path: part.path.clone(), source };
        let mut input = File::open(&part.path).map_err(|source| io("opening", source))?;
        let written = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        if written(&input).ok() != written(&part.file).ok() {
            let replaced = io::Error::other("it was replaced while it was written");
            return Err(io("opening", replaced));
        }
        part.flush("the image")?;
        let (size, sha256) = size_and_sha256(&mut input).map_err(|source| io("reading", source))?;
        Ok(Complete { part, target, file: input, published: Published { size, sha256 } })
    }
}

/// An image on disk that has everything but its name.
pub(crate) struct Complete {
    part: Part,
    target: PathBuf,
    /// Open for reading.
    pub(crate) file: File,
    pub(crate) published: Published,
}

impl Complete {
    /// Gives it its name.
    pub(crate) fn publish(self) -> Result<Published, PublishError> {
        self.part.publish(&self.target, "the image")?;
        Ok(self.published)
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
    Ok((size, hex(hash.finish().as_ref())))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file of at most 8 MiB; none where there is none.
pub(crate) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, PublishError> {
    const MOST: u64 = 8 << 20;
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PublishError::Io { operation: "reading", path: path.to_owned(), source }),
    }
}

/// Removes published files, in this order; what is not there is no failure.
pub(crate) fn remove_published(directory: &Path, names: &[String]) -> Result<(), PublishError> {
    for name in names {
        let path = directory.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(PublishError::Io { operation: "removing", path, source });
            }
            _ => {}
        }
    }
    Ok(())
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
        // The directory itself is locked: nothing in it can be lost before the rest, nor taken away by who works there.
        // Best effort, as for parts: without locks, leftovers are told by age.
        let locked = File::open(&path).inspect(|directory| drop(directory.try_lock()));
        match locked {
            Ok(directory) => Ok(Scratch { path, _lock: directory }),
            Err(source) => {
                let _ = std::fs::remove_dir(&path);
                Err(failed("opening", &path, parent, "a scratch directory", source))
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

/// Removes parts and scratch directories whose writer is dead; returns how many there were. Locks tell only of this
/// host's writers: what another host began is told by its age.
pub(crate) fn remove_leftovers(directory: &Path) -> io::Result<usize> {
    let leftovers = leftovers(directory)?;
    for path in &leftovers {
        discard(path, std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()));
    }
    Ok(leftovers.len())
}

/// Parts and scratch directories whose writer is dead.
pub(crate) fn leftovers(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut leftovers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_part_name(name)) else { continue };
        let path = entry.path();
        let is_ours = name.rsplit('.').next().is_some_and(|random| random.starts_with(host_mark()));
        let is_dead = match File::open(&path).map(|part| part.try_lock()) {
            Ok(Ok(())) => is_ours || is_old(&entry),
            Ok(Err(TryLockError::WouldBlock)) => false,
            // Not to be opened, or a file system without locks: only age can tell.
            Ok(Err(TryLockError::Error(_))) | Err(_) => is_old(&entry),
        };
        if is_dead {
            leftovers.push(path);
        }
    }
    Ok(leftovers)
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

/// The end of the name is half this host's, half random.
fn part_name(id: &str) -> String {
    part_name_of(id, &format!("{}{:08x}", host_mark(), rand::rng().random::<u32>()))
}

/// The same with 16 hexadecimal digits of the caller's.
pub(crate) fn part_name_of(id: &str, digits: &str) -> String {
    format!(".{id}.partial.{digits}")
}

/// Eight hexadecimal digits that parts of this host have in their names.
fn host_mark() -> &'static str {
    static MARK: LazyLock<String> = LazyLock::new(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let host = read("/etc/machine-id") + &read("/proc/sys/kernel/hostname");
        let hash = ring::digest::digest(&SHA256, host.as_bytes());
        hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    });
    &MARK
}

/// `.ID.partial.` and 16 digits, and nothing else: the directory also holds what is not ours.
pub(crate) fn is_part_name(name: &str) -> bool {
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

    fn flush(&self, what: &str) -> Result<(), PublishError> {
        let flushed =
            self.file.set_permissions(PermissionsExt::from_mode(0o600)).and_then(|()| self.file.sync_all());
        flushed.map_err(|source| failed("flushing", &self.path, &self.directory, what, source))
    }

    fn publish(mut self, path: &Path, what: &str) -> Result<(), PublishError> {
        self.flush(what)?;
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
        let published = image.complete().unwrap().publish().unwrap();
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
        assert!(image.complete().is_err(), "a file that is not the one made here");
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
        // As far as its removal came.
        std::fs::write(dead.join("image"), b"").unwrap();
        // Another host's writer may well live: its locks do not reach us.
        std::fs::write(dir.path().join(format!(".{ID}.partial.0011223344556677")), b"elsewhere").unwrap();
        for foreign in
            [".nfs0001", ".x.partial.0011223344556677", &format!(".{ID}.partial.short"), "a.squashfs"]
        {
            std::fs::write(dir.path().join(foreign), b"").unwrap();
        }
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()).len(), 7);
        drop((alive, scratch));
        assert_eq!(names(dir.path()).len(), 5);
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
