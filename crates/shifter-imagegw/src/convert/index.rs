//! What is remembered of a converted layer, in one file: its entries, where their data lies in the image that was
//! made, and about which layer and image it speaks. The child writes and reads it; the gateway, which decides what is
//! used and kept, reads only the last part. See `pull/reuse.rs` for where these files are and how long.
//!
//! ```text
//! magic | records of entries | description of files | description of fragments | About as JSON | its bytes u32 | BLAKE3 of all before
//! ```
//!
//! A file that was damaged has another digest and is not used. One that somebody made up is judged like a layer that
//! somebody made up: bounded in size, and its entries pass the same rules. Only the gateway's own account can write
//! here, and that account may publish whatever image it likes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shifter_layers::{Policy, RECORDS_VERSION};
use shifter_squashfs::writer::{Encoder, KEPT_VERSION, KeptSegment, Segment, WriteError, Writer};

const MAGIC: &[u8; 16] = b"shifter-layer 1\n";

/// Bytes of the digest and of the number in front of it.
const END_BYTES: u64 = 36;

/// Longest [`About`], and longest file, bytes: a million entries take about 200 MiB.
const LONGEST_ABOUT: u64 = 16 << 10;
const LONGEST: u64 = 512 << 20;

/// Everything that decides about bytes besides the layer: what was remembered under another key is of no use.
pub(crate) fn key(encoder: &Encoder, policy: &Policy) -> String {
    let Policy { owners, setuid, devices, fifos, xattrs } = *policy;
    let kept: String =
        [owners, setuid, devices, fifos, xattrs].iter().map(|kept| if *kept { '1' } else { '0' }).collect();
    format!("{encoder}-r{RECORDS_VERSION}-k{KEPT_VERSION}-p{kept}")
}

/// What an index speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) key: String,
    /// The layer's own digest, how it was read, and the digest that its contents were found to have.
    pub(crate) layer: String,
    pub(crate) compression: String,
    pub(crate) diff_id: Option<String>,
    /// The published file that has the data.
    pub(crate) image: PathBuf,
    /// Bytes of the layer's data that the image has not, because newer layers hide it or have it, too.
    #[serde(default)]
    pub(crate) left_out: u64,
    #[serde(default)]
    records: u64,
    #[serde(default)]
    files: u64,
    #[serde(default)]
    fragments: u64,
}

impl About {
    /// A layer's, whose data will be in `image`.
    pub(crate) fn new(
        key: &str,
        layer: &str,
        compression: &str,
        diff_id: Option<&str>,
        image: &Path,
    ) -> Self {
        About {
            key: key.to_owned(),
            layer: layer.to_owned(),
            compression: compression.to_owned(),
            diff_id: diff_id.map(str::to_owned),
            image: image.to_owned(),
            left_out: 0,
            records: 0,
            files: 0,
            fragments: 0,
        }
    }

    /// Whether both speak of the same layer, read in the same way.
    pub(crate) fn fits(&self, other: &About) -> bool {
        let About { key, layer, compression, diff_id, .. } = other;
        (&self.key, &self.layer, &self.compression, &self.diff_id) == (key, layer, compression, diff_id)
    }

    /// Writes an index of a layer without entries, which lacks `left_out` bytes.
    #[cfg(test)]
    pub(crate) fn write(mut self, path: &Path, left_out: u64) {
        self.left_out = left_out;
        let text = serde_json::to_vec(&self).unwrap_or_default();
        let length = u32::try_from(text.len()).unwrap_or_default();
        let mut bytes = [MAGIC.as_slice(), &text, &length.to_le_bytes()].concat();
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        assert!(std::fs::write(path, bytes).is_ok(), "{}", path.display());
    }

    /// Reads the last part of an index; its digest is not looked at.
    pub(crate) fn read(path: &Path) -> io::Result<About> {
        read_about(&open(path)?).map(|(about, _)| about)
    }
}

/// Opens a regular file; what else has the name is not waited for.
fn open(path: &Path) -> io::Result<File> {
    match std::fs::symlink_metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(ErrorKind::InvalidInput.into()),
    }
}

/// What the file speaks of, and its length without the digest.
fn read_about(file: &File) -> io::Result<(About, u64)> {
    let wrong = || io::Error::from(ErrorKind::InvalidData);
    let length = file.metadata()?.len();
    let end = length.checked_sub(END_BYTES).filter(|_| length <= LONGEST).ok_or_else(wrong)?;
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, end)?;
    let about_bytes = u64::from(u32::from_le_bytes(bytes));
    let start = end.checked_sub(about_bytes).filter(|_| about_bytes <= LONGEST_ABOUT).ok_or_else(wrong)?;
    let mut text = vec![0; usize::try_from(about_bytes).map_err(|_| wrong())?];
    file.read_exact_at(&mut text, start)?;
    let about: About = serde_json::from_slice(&text)?;
    let parts = [about.records, about.files, about.fragments];
    let sum = parts.iter().try_fold(MAGIC.len() as u64, |sum, part| sum.checked_add(*part));
    match sum == Some(start) {
        true => Ok((about, end + 4)),
        false => Err(wrong()),
    }
}

/// An index that was found whole, and the image that it speaks of.
pub(super) struct Index {
    file: Arc<File>,
    about: About,
    image: Arc<File>,
}

impl Index {
    /// Reads all of the file once, to know that it is whole.
    pub(super) fn open(path: &Path, image: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let (about, hashed) = read_about(&file)?;
        let mut hasher = blake3::Hasher::new();
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0)?;
        let read = io::copy(&mut (&file).take(hashed), &mut hasher)?;
        let mut expected = [0; 32];
        file.read_exact_at(&mut expected, hashed)?;
        let found: [u8; 32] = hasher.finalize().into();
        if magic != *MAGIC || read != hashed || found != expected {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Self { file: Arc::new(file), about, image: Arc::new(open(image)?) })
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// The entries.
    pub(super) fn records(&self) -> BufReader<Part> {
        self.part(MAGIC.len() as u64, self.about.records)
    }

    /// The data.
    pub(super) fn segment(&self) -> Result<KeptSegment, WriteError> {
        let files = MAGIC.len() as u64 + self.about.records;
        let mut fragments = self.part(files + self.about.files, self.about.fragments);
        let files = self.part(files, self.about.files);
        KeptSegment::open(Arc::clone(&self.image), &mut fragments, files)
    }

    fn part(&self, start: u64, bytes: u64) -> BufReader<Part> {
        BufReader::new(Part { file: Arc::clone(&self.file), at: start, end: start.saturating_add(bytes) })
    }
}

/// A part of a file, read from its beginning to its end.
pub(super) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// An index being written. What goes wrong, goes wrong silently: there is no index then, and the next conversion
/// reads the layer.
pub(super) struct IndexWriter {
    path: PathBuf,
    /// Nothing once something went wrong.
    file: Option<Hashing>,
    about: About,
}

struct Hashing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    written: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        if self.written > LONGEST - LONGEST_ABOUT - END_BYTES {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl IndexWriter {
    pub(super) fn create(path: PathBuf, about: About) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map(|file| Hashing {
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
            written: 0,
        });
        let file = file.and_then(|mut file| file.write_all(MAGIC).map(|()| file));
        Self { path, file: file.ok(), about }
    }

    /// Ends it with the segment that was just closed.
    pub(super) fn finish(mut self, writer: &Writer, segment: &Segment) {
        let written = match self.file.take() {
            Some(file) => end(file, self.about.clone(), writer, segment),
            None => Err(ErrorKind::Other.into()),
        };
        if written.is_err() {
            let _nothing_to_lose = std::fs::remove_file(&self.path);
        }
    }
}

fn end(mut file: Hashing, mut about: About, writer: &Writer, segment: &Segment) -> io::Result<()> {
    about.records = file.written - MAGIC.len() as u64;
    let described = writer.describe(segment, &mut file)?;
    (about.files, about.fragments, about.left_out) =
        (described.files, described.fragments, described.left_out);
    let text = serde_json::to_vec(&about)?;
    let bytes = u32::try_from(text.len()).map_err(|_| ErrorKind::InvalidData)?;
    file.write_all(&text)?;
    file.write_all(&bytes.to_le_bytes())?;
    let Hashing { mut file, hasher, .. } = file;
    file.write_all(hasher.finalize().as_bytes())?;
    file.flush()
}

/// The entries go here.
impl Write for IndexWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_err()
        {
            self.file = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
