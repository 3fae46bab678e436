//! Images from files: what `doimport` and `upload` bring.
//!
//! A user's file is never handed to a kernel. It is copied into scratch space first, so that nobody can change it while
//! it is looked at; then a confined child reads it whole with our own reader and writes it anew. Archives are layers, and
//! are converted as a pull's. The identifier stays the original's (fasthash of the file), which says little, so the
//! file's whole digest is kept beside it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use shifter_core::fasthash::sample_offsets;
use shifter_squashfs::reader::{Image, Limits};

use self::source::Form;
use self::tree::{Tree, TreeError};
use self::watched::Watched;
use crate::confine::Reach;
use crate::convert::{self, Converters, answer, read_job, sentence, shut_in};

pub(crate) mod erofs;
mod rewrite;
pub(crate) mod source;
pub(crate) mod tree;
pub(crate) mod watched;

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RewriteJob {
    pub(crate) source: PathBuf,
    pub(crate) form: Form,
    /// The image; an empty file.
    pub(crate) output: PathBuf,
    /// Where temporary files may be.
    pub(crate) scratch: PathBuf,
    pub(crate) converters: Converters,
    /// All that the child may touch.
    pub(crate) reach: Reach,
}

/// The child: reads the job, rewrites the image, answers. Returns the exit status.
pub(crate) fn child() -> u8 {
    answer(read_job().and_then(|job| rewrite_image(&job)))
}

fn rewrite_image(job: &RewriteJob) -> Result<(u64, u64), String> {
    shut_in(&job.reach)?;
    let policy = job.converters.policy()?;
    let failed = |path: &Path, error: io::Error| format!("opening {} failed: {error}", path.display());
    let file = File::open(&job.source).map_err(|error| failed(&job.source, error))?;
    let output = File::options().read(true).write(true).create(true).truncate(false).open(&job.output);
    let output = output.map_err(|error| failed(&job.output, error))?;
    let window = source::find(file, job.form)?;
    let image = Image::open(window, &Limits::default()).map_err(|error| sentence(&error))?;
    let encoder = convert::encoder(&job.converters)?;
    let mut report = |bytes| convert::tell_bytes(bytes);
    let done = rewrite::rewrite(&image, &policy, encoder, output, &job.scratch, &mut report)?;
    Ok((done.entries, done.bytes))
}

/// A file that was copied, and what is known of it since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes.
    pub(crate) size: u64,
    /// Of all of it, hex.
    pub(crate) sha256: String,
    /// Its identifier: the digest of its samples, hex.
    pub(crate) id: String,
    /// Its first bytes.
    pub(crate) start: Vec<u8>,
}

/// Copies a file, at most so many bytes of it.
///
/// # Errors
/// What reading and writing give; `FileTooLarge` where there is more.
pub(crate) fn copy(from: &mut dyn Read, to: &mut File, limit: u64) -> io::Result<Copied> {
    let mut whole = Context::new(&SHA256);
    let mut buffer = vec![0; 256 << 10];
    let (mut size, mut start) = (0_u64, Vec::new());
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        size += count as u64;
        if size > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        start.extend(bytes.iter().take(8_usize.saturating_sub(start.len())));
        whole.update(bytes);
        to.write_all(bytes)?;
    }
    to.flush()?;
    Ok(Copied { size, sha256: hex(whole), id: fasthash(to, size)?, start })
}

/// Archives a directory. Its identifier is the archive's whole digest: no original ever gave it another.
///
/// # Errors
/// [`TreeError`]; an error of its writing where nobody waits for it any more.
pub(crate) fn copy_tree(
    tree: &Tree,
    to: &mut File,
    limit: u64,
    waited: &Watched<()>,
) -> Result<Copied, TreeError> {
    let to = WithHoles { to, size: 0 };
    let mut to = Archive { to, hash: Context::new(&SHA256), start: Vec::new(), waited };
    tree::archive(tree, limit, &mut to)?;
    let size = to.to.finish().map_err(|error| TreeError::Write(error.to_string()))?;
    let sha256 = hex(to.hash);
    Ok(Copied { size, id: sha256.clone(), sha256, start: to.start })
}

/// Zeros that are not written, as many bytes at a time.
const HOLE: usize = 64 << 10;

/// An empty file in which long runs of zeros are left out, and take no room.
struct WithHoles<'a> {
    to: &'a mut File,
    size: u64,
}

impl WithHoles<'_> {
    /// How long the file is, also where it ends in a hole.
    fn finish(&mut self) -> io::Result<u64> {
        self.to.set_len(self.size).map(|()| self.size)
    }
}

impl Write for WithHoles<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match bytes.len() >= HOLE && bytes.iter().all(|byte| *byte == 0) {
            true => self.to.seek(SeekFrom::Current(bytes.len() as i64)).map(|_| bytes.len())?,
            false => self.to.write(bytes)?,
        };
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

struct Archive<'a> {
    to: WithHoles<'a>,
    hash: Context,
    start: Vec<u8>,
    waited: &'a Watched<()>,
}

impl Write for Archive<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waited.go_on()?;
        let count = self.to.write(bytes)?;
        let bytes = bytes.get(..count).unwrap_or_default();
        self.start.extend(bytes.iter().take(8_usize.saturating_sub(self.start.len())));
        self.hash.update(bytes);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The identifier that the original gives to a file.
fn fasthash(file: &File, size: u64) -> io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    let mut hash = Context::new(&SHA256);
    for (offset, length) in sample_offsets(size) {
        let mut sample = vec![0; length];
        file.read_exact_at(&mut sample, offset)?;
        hash.update(&sample);
    }
    Ok(hex(hash))
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::watched::Waiting;
    use super::*;

    #[test]
    fn holes_of_a_directory_s_files_take_no_room_in_scratch_space() {
        use std::os::unix::fs::MetadataExt as _;
        let home = tempfile::tempdir().unwrap();
        let file = File::create(home.path().join("large")).unwrap();
        file.set_len(200 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"middle", 100 << 20).unwrap();
        let tree = Tree {
            directory: File::open(home.path()).unwrap(),
            path: home.path().to_owned(),
            asker: shifter_fasthash::open::Asker { uid: 0, gids: vec![] },
            forbidden: vec![],
        };
        let mut to = tempfile::tempfile().unwrap();
        let waiting = Waiting::default();
        let waited = waiting.watch(());
        let copied = copy_tree(&tree, &mut to, 1 << 30, &waited).unwrap();
        let found = to.metadata().unwrap();
        assert!(found.blocks() * 512 < 4 << 20, "{}", found.blocks());
        // Header, directory's header, data, end.
        assert_eq!((found.len(), copied.size), ((200 << 20) + 4 * 512, found.len()));
        to.rewind().unwrap();
        let again = copy(&mut to, &mut tempfile::tempfile().unwrap(), 1 << 30).unwrap();
        assert_eq!(copied.id, again.sha256);
        drop(waiting);
        let ended = copy_tree(&tree, &mut to, 1 << 30, &waited);
        assert!(matches!(ended, Err(TreeError::Write(why)) if why.contains("nobody waits")));
    }

    #[test]
    fn a_copy_knows_the_file_s_digests_and_ends_at_the_limit() {
        let mut to = tempfile::tempfile().unwrap();
        let copied = copy(&mut &b"blah blah hash"[..], &mut to, 14).unwrap();
        let digest = "ff68165577eb209adcfa2f793476a25da637142283409d6f4d8d61ee042c5e63";
        assert_eq!((copied.size, &*copied.sha256, &*copied.id), (14, digest, digest));
        assert_eq!(copied.start, b"blah bla");
        let zeros = vec![0; (1 << 20) + 1];
        let copied = copy(&mut &*zeros, &mut tempfile::tempfile().unwrap(), 1 << 30).unwrap();
        assert_eq!(copied.id, "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58");
        assert_ne!(copied.id, copied.sha256);
        let error = copy(&mut &*zeros, &mut tempfile::tempfile().unwrap(), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
}
