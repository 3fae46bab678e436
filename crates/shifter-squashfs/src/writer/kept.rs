//! A segment whose data is in an image written before: where it lies there is written down when a segment
//! ends, and next time its blocks are taken from there as they are stored.
//!
//! What a kept segment puts into the image is, byte for byte, what the layer's files would have put there:
//! the same runs and fragments are wanted, in the same order, by the same code, since that needs digests
//! and lengths only. Each block is read once, by the threads that compress otherwise, hashed in memory and
//! written from there. So what was checked is what is written, which a `copy_file_range(2)` beside a check
//! would not give, and it would not read less. A block that does not have its digest, or that the image
//! written before had left out, ends the writing with [`WriteError::Kept`].
//!
//! ```text
//! files:     for each: bytes u64
//!            | if it has full blocks: 0 u8 (left out), or 1 u8, start u64, digest, size words u32
//!            | if it has a tail: digest of the tail
//! fragments: count u32, for each: 0 u8 (left out), or 1 u8, start u64, size word u32, digest
//! ```
//!
//! What is read here may be damaged or made up; it is bounded and never believed beyond the image that it
//! makes. That it belongs to the layer is for its keeper to know.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use super::block_pool::{KeptBlock, UNCOMPRESSED};
use super::duplicates::Digest;
use super::error::WriteError;
use super::store::{Fragment, Store, number};
use super::{Data, FileData, NONE, Segment, Writer};

/// Raised whenever segments are described in another way.
pub const KEPT_VERSION: u32 = 1;

/// The description of a segment, being read, and the image that has its data.
pub struct KeptSegment {
    image: Arc<File>,
    files: Box<dyn Read>,
    fragments: Vec<Option<Fragment>>,
    /// Full blocks of masked files, which a later hard link may want.
    masked: Vec<(Data, Option<KeptRun>)>,
}

/// The full blocks of a masked file.
struct KeptRun {
    start: u64,
    digest: Digest,
    words: Vec<u32>,
}

/// How large a description is, and what it lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Bytes of the description of files.
    pub files: u64,
    /// Bytes of the description of fragments.
    pub fragments: u64,
    /// Uncompressed bytes that were left out of the image, fragments counted as full.
    pub left_out: u64,
}

impl KeptSegment {
    /// Reads `fragments` now, and `files` as files come. `image` need not be what it was.
    pub fn open(
        image: Arc<File>,
        fragments: &mut dyn Read,
        files: impl Read + 'static,
    ) -> Result<Self, WriteError> {
        let fragments = read_fragments(fragments).map_err(unreadable)?;
        Ok(Self { image, files: Box::new(files), fragments, masked: Vec::new() })
    }

    /// The start and digest of a file's full blocks, unless they were left out.
    fn run(&mut self) -> Result<Option<(u64, Digest)>, WriteError> {
        read_run(&mut self.files).map_err(unreadable)
    }

    fn word(&mut self) -> Result<u32, WriteError> {
        array(&mut self.files).map(u32::from_le_bytes).map_err(unreadable)
    }
}

/// The fragments of a kept segment.
pub(super) struct KeptFragments {
    image: Arc<File>,
    fragments: Vec<Option<Fragment>>,
}

impl KeptFragments {
    /// Has the fragment, which holds `length` bytes of tails, taken over under the packer's `number`.
    pub(super) fn submit(
        &self,
        place: usize,
        number: u32,
        length: usize,
        store: &mut Store,
    ) -> Result<(), WriteError> {
        let fragment = self.fragments.get(place).and_then(Option::as_ref);
        let fragment =
            fragment.ok_or_else(|| WriteError::Kept("a fragment was left out there".to_owned()))?;
        let block = block(&self.image, fragment.start, fragment.word, length)?;
        store.kept_fragment(number, block, fragment.digest)
    }

    pub(super) fn count(&self) -> usize {
        self.fragments.len()
    }
}

impl Writer {
    /// Describes a segment that was just closed, for [`KeptSegment::open`].
    pub fn describe(&self, segment: &Segment, out: &mut dyn Write) -> io::Result<Described> {
        let mut described = Described::default();
        let mut put = |bytes: &[u8], length: &mut u64| {
            *length += bytes.len() as u64;
            out.write_all(bytes)
        };
        let block_size = u64::from(self.settings.encoder.block_size);
        for file in segment.files.clone() {
            let Some(layout) = self.layout(Data(file)) else { return Err(ErrorKind::NotFound.into()) };
            put(&layout.size.to_le_bytes(), &mut described.files)?;
            match &layout.blocks {
                _ if layout.size < block_size => {}
                None => {
                    described.left_out += layout.size / block_size * block_size;
                    put(&[0], &mut described.files)?;
                }
                Some(blocks) => {
                    put(&[1], &mut described.files)?;
                    put(&blocks.start.to_le_bytes(), &mut described.files)?;
                    put(&blocks.digest, &mut described.files)?;
                    for word in blocks.words {
                        put(&word.to_le_bytes(), &mut described.files)?;
                    }
                }
            }
            if let Some(tail) = &layout.tail {
                put(&tail.digest, &mut described.files)?;
            }
        }
        let count = segment.fragments.end.saturating_sub(segment.fragments.start);
        put(&count.to_le_bytes(), &mut described.fragments)?;
        for fragment in segment.fragments.clone() {
            match self.fragment(fragment) {
                None => {
                    described.left_out += block_size;
                    put(&[0], &mut described.fragments)?;
                }
                Some(fragment) => {
                    put(&[1], &mut described.fragments)?;
                    put(&fragment.start.to_le_bytes(), &mut described.fragments)?;
                    put(&fragment.word.to_le_bytes(), &mut described.fragments)?;
                    put(&fragment.digest, &mut described.fragments)?;
                }
            }
        }
        Ok(described)
    }

    /// Opens the segment of the next older layer, whose files all come by [`kept_file`](Self::kept_file).
    pub fn begin_kept_segment(&mut self, segment: KeptSegment) -> Result<(), WriteError> {
        self.begin_segment()?;
        let KeptSegment { image, files, mut fragments, masked } = segment;
        let taken = std::mem::take(&mut fragments);
        self.tails.keep(KeptFragments { image: Arc::clone(&image), fragments: taken });
        if let Some(open) = &mut self.open {
            open.kept = Some(KeptSegment { image, files, fragments, masked });
        }
        Ok(())
    }

    /// As [`file`](Self::file), with the data of the description's next file, which must have this size.
    pub fn kept_file(&mut self, size: u64, live: bool) -> Result<Data, WriteError> {
        let kept = self.open.as_mut().ok_or(WriteError::NoSegment)?.kept.take();
        let mut kept =
            kept.ok_or_else(|| WriteError::Kept("the segment is none that was kept".to_owned()))?;
        let described = array(&mut kept.files).map(u64::from_le_bytes).map_err(unreadable)?;
        if described != size {
            let wrong = format!("a file of {size} bytes was described as one of {described}");
            return Err(WriteError::Kept(wrong));
        }
        let file = Data(number(self.files.len(), "files")?);
        let blocks = self.full_blocks(size)?;
        let run = match blocks {
            0 => NONE,
            blocks => self.store.add_run(blocks)?,
        };
        if blocks > 0 {
            match (kept.run()?, live) {
                (Some((start, digest)), true) => {
                    let image = Arc::clone(&kept.image);
                    let mut words = || kept.word();
                    self.keep_run(&image, (run, size, blocks), start, digest, &mut words)?;
                }
                (Some((start, digest)), false) => {
                    // No room is made for what is announced; the description is as long as it is.
                    let words = (0..blocks).map(|_| kept.word()).collect::<Result<Vec<_>, _>>()?;
                    kept.masked.push((file, Some(KeptRun { start, digest, words })));
                }
                (None, true) => return Err(left_out()),
                (None, false) => kept.masked.push((file, None)),
            }
        }
        let block_size = u64::from(self.settings.encoder.block_size);
        let tail = match usize::try_from(size % block_size).unwrap_or(0) {
            0 => NONE,
            bytes => {
                let digest = array(&mut kept.files).map_err(unreadable)?;
                self.tails.add_kept(digest, bytes, &mut self.store, &self.spool)?
            }
        };
        if live {
            self.tails.use_more(tail, true);
        }
        self.files.push(FileData { size, run, tail });
        if let Some(open) = &mut self.open {
            open.live.push(live);
            open.kept = Some(kept);
        }
        Ok(file)
    }

    /// Takes over the full blocks of masked files that are live now. `first` is the segment's first file.
    pub(super) fn keep_revived(
        &mut self,
        kept: KeptSegment,
        first: u32,
        live: &[bool],
    ) -> Result<(), WriteError> {
        for (data, run) in kept.masked {
            if live.get(data.0.wrapping_sub(first) as usize) == Some(&true)
                && let Some(file) = self.files.get(data.0 as usize)
            {
                let (number, size) = (file.run, file.size);
                let KeptRun { start, digest, words } = run.ok_or_else(left_out)?;
                let blocks = u32::try_from(words.len()).unwrap_or(u32::MAX);
                let mut words = words.into_iter();
                let mut next = || words.next().ok_or_else(left_out);
                self.keep_run(&kept.image, (number, size, blocks), start, digest, &mut next)?;
            }
        }
        Ok(())
    }

    fn keep_run(
        &mut self,
        image: &Arc<File>,
        (run, size, blocks): (u32, u64, u32),
        mut start: u64,
        digest: Digest,
        words: &mut dyn FnMut() -> Result<u32, WriteError>,
    ) -> Result<(), WriteError> {
        let block_size = self.settings.encoder.block_size as usize;
        self.store.begin_run(run, size);
        for number in 1..=blocks {
            let word = words()?;
            let kept = match word {
                0 => None,
                word => Some(block(image, start, word, block_size)?),
            };
            start = start.saturating_add(u64::from(word & !UNCOMPRESSED));
            self.store.kept_run_block(run, (number == blocks).then_some(digest), kept)?;
        }
        Ok(())
    }
}

/// A stored block that holds `length` bytes of data.
fn block(image: &Arc<File>, start: u64, word: u32, length: usize) -> Result<KeptBlock, WriteError> {
    let stored = (word & !UNCOMPRESSED) as usize;
    let is_possible = match word & UNCOMPRESSED {
        0 => stored > 0 && stored < length,
        _ => stored == length,
    };
    match is_possible {
        true => Ok(KeptBlock { image: Arc::clone(image), start, word }),
        false => Err(WriteError::Kept(format!("a block of {length} bytes cannot be stored in {stored}"))),
    }
}

fn left_out() -> WriteError {
    WriteError::Kept("a file's blocks were left out there".to_owned())
}

fn unreadable(error: io::Error) -> WriteError {
    WriteError::Kept(format!("the description cannot be read: {error}"))
}

fn array<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_run(input: &mut dyn Read) -> io::Result<Option<(u64, Digest)>> {
    match array::<1>(input)? {
        [0] => Ok(None),
        [1] => Ok(Some((u64::from_le_bytes(array(input)?), array(input)?))),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn read_fragments(input: &mut dyn Read) -> io::Result<Vec<Option<Fragment>>> {
    let mut fragments = Vec::new();
    for _ in 0..u32::from_le_bytes(array(input)?) {
        fragments.push(match array::<1>(input)? {
            [0] => None,
            [1] => Some(Fragment {
                start: u64::from_le_bytes(array(input)?),
                word: u32::from_le_bytes(array(input)?),
                digest: array(input)?,
            }),
            _ => return Err(ErrorKind::InvalidData.into()),
        });
    }
    Ok(fragments)
}
