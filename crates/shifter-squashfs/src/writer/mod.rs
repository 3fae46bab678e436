//! Our own writer of squashfs 4.0 images (Documentation/filesystems/squashfs.rst in the Linux source): file
//! data is streamed in, layer by layer, and compressed by threads; inodes and directories follow when the
//! tree is known. What it writes depends on the data and the [`Encoder`], never on threads or time.
//!
//! ```text
//! superblock | compressor options | segment of the newest layer | … of the oldest | inodes | directories |
//! fragment table | export table | id table | attributes | zeros up to 4 KiB
//! ```
//!
//! A segment holds the full blocks of its files, each alone, and fragment blocks into which the ends of
//! files are packed. Data of masked files is kept aside until the segment ends, since a later hard link may
//! want it, and is then left out, as is data that a newer segment has.
//!
//! What it deliberately does not do: choose names, owners and modes, read layers, or publish the image. The
//! file is only ever appended to, until the superblock is put in front; a file without one is no image.

mod block_pool;
mod directory;
mod duplicates;
mod encoder;
mod error;
mod image;
mod inode;
mod kept;
mod metadata;
mod spool;
mod store;
mod tables;
mod tails;
mod xattrs;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;

use block_pool::BlockPool;
pub use duplicates::content_digest;
pub use encoder::{Codec, ENCODER_VERSION, Encoder};
pub use error::WriteError;
use image::{Append, Image};
pub use inode::{Attributes, Inode, Special};
pub use kept::{Described, KEPT_VERSION, KeptSegment};
use metadata::uncompressed_block;
pub use spool::SpoolDir;
use spool::SpoolFile;
pub use store::Fragment;
use store::{Store, number};
pub use tables::{Summary, Tables};
use tails::Tails;

/// No run or no tail.
const NONE: u32 = u32::MAX;

/// How an image is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// How blocks are made.
    pub encoder: Encoder,
    /// Threads that compress; 0 is one per processor. Never changes the image.
    pub workers: usize,
    /// The superblock's time, in seconds since 1970.
    pub modified: u32,
}

/// The data of one file; a number that counts up from 0 with each call of [`Writer::file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Data(u32);

impl Data {
    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// What one layer put into the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its bytes in the image.
    pub bytes: Range<u64>,
    /// Its files, by [`Data::number`].
    pub files: Range<u32>,
    /// Its fragments, for [`Writer::fragment`].
    pub fragments: Range<u32>,
}

/// Where the data of a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout<'a> {
    /// Bytes of the file.
    pub size: u64,
    /// Its full blocks, if it has some and they are in the image.
    pub blocks: Option<Blocks<'a>>,
    /// Its end, if its size is no multiple of the block size.
    pub tail: Option<TailPlace>,
}

/// Full blocks in the image, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks<'a> {
    /// The first byte in the image. Not in the file's own segment if a newer one has equal blocks.
    pub start: u64,
    /// Each block's size word: bytes stored, bit 24 if not compressed; 0 is a block of zeros.
    pub words: &'a [u32],
    /// The digest over each block's size word (little-endian) and the [`content_digest`] of its stored bytes,
    /// which for a block of zeros is 32 zeros.
    pub digest: [u8; 32],
}

/// The end of a file in the fragments of its own segment, whether they are in the image or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailPlace {
    /// The fragment, for [`Writer::fragment`].
    pub fragment: u32,
    /// The first byte in the uncompressed fragment.
    pub offset: u32,
    /// The [`content_digest`] of the tail's bytes.
    pub digest: [u8; 32],
}

struct FileData {
    size: u64,
    run: u32,
    tail: u32,
}

/// The open segment.
struct Open {
    start: u64,
    first_file: u32,
    first_fragment: u32,
    /// Whether somebody wants the file, from the segment's first one on.
    live: Vec<bool>,
    /// Files whose full blocks are in the spool, and where there.
    masked: Vec<(Data, u64)>,
    spool: Option<SpoolFile>,
    /// Where the data of its files is, if not in what is handed over.
    kept: Option<KeptSegment>,
}

/// An image in its data phase.
pub struct Writer {
    settings: Settings,
    spool: SpoolDir,
    store: Store,
    tails: Tails,
    files: Vec<FileData>,
    open: Option<Open>,
    tail_buffer: Vec<u8>,
}

impl Writer {
    /// Starts an image in an empty file that is open for writing. Temporaries go to `spool`.
    pub fn create(image: File, spool: SpoolDir, settings: &Settings) -> Result<Self, WriteError> {
        settings.encoder.check()?;
        let mut image = Image::new(image)?;
        let options = settings.encoder.options();
        if !options.is_empty() {
            image.append(&uncompressed_block(&options))?;
        }
        let pool = BlockPool::start(&settings.encoder, settings.workers)?;
        Ok(Self {
            settings: *settings,
            store: Store::new(image, pool, &spool),
            spool,
            tails: Tails::new(settings.encoder.block_size as usize),
            files: Vec::new(),
            open: None,
            tail_buffer: Vec::new(),
        })
    }

    /// Opens the segment of the next older layer.
    pub fn begin_segment(&mut self) -> Result<(), WriteError> {
        if self.open.is_some() {
            return Err(WriteError::SegmentOpen);
        }
        self.open = Some(Open {
            start: self.store.image.position(),
            first_file: number(self.files.len(), "files")?,
            first_fragment: self.tails.next_fragment(),
            live: Vec::new(),
            masked: Vec::new(),
            spool: None,
            kept: None,
        });
        Ok(())
    }

    /// Takes over exactly `size` bytes of `data`. A file that is not live is masked by a newer layer; its
    /// data is kept aside until the segment ends.
    pub fn file(&mut self, size: u64, live: bool, data: &mut dyn Read) -> Result<Data, WriteError> {
        if self.open.is_none() {
            return Err(WriteError::NoSegment);
        }
        let file = Data(number(self.files.len(), "files")?);
        let block_size = u64::from(self.settings.encoder.block_size);
        let mut source = Source { data, size, got: 0 };
        let blocks = self.full_blocks(size)?;
        let run = match blocks {
            0 => NONE,
            blocks => self.store.add_run(blocks)?,
        };
        if blocks > 0 && live {
            self.write_run(run, blocks, &mut source)?;
        } else if blocks > 0 {
            self.spool_run(file, blocks, &mut source)?;
        }
        let tail = match usize::try_from(size % block_size).unwrap_or(0) {
            0 => NONE,
            bytes => {
                let mut buffer = std::mem::take(&mut self.tail_buffer);
                source.fill(&mut buffer, bytes)?;
                let tail = self.tails.add(&buffer, &mut self.store, &self.spool)?;
                self.tail_buffer = buffer;
                tail
            }
        };
        if live {
            self.tails.use_more(tail, true);
        }
        self.files.push(FileData { size, run, tail });
        if let Some(open) = &mut self.open {
            open.live.push(live);
        }
        Ok(file)
    }

    /// Somebody wants this file of the open segment after all.
    pub fn revive(&mut self, data: Data) -> Result<(), WriteError> {
        self.set_live(data, true)
    }

    /// Nobody wants this file of the open segment any more. What is in the image already stays there.
    pub fn kill(&mut self, data: Data) -> Result<(), WriteError> {
        self.set_live(data, false)
    }

    /// Closes the segment: what is wanted is now in the image, the rest is gone.
    pub fn end_segment(&mut self) -> Result<Segment, WriteError> {
        let Some(open) = self.open.take() else { return Err(WriteError::NoSegment) };
        for (data, offset) in &open.masked {
            if open.live.get(data.0.wrapping_sub(open.first_file) as usize) == Some(&true)
                && let (Some(file), Some(spool)) = (self.files.get(data.0 as usize), &open.spool)
            {
                let (run, size) = (file.run, file.size);
                let blocks = size / u64::from(self.settings.encoder.block_size);
                let mut reader = Spooled { file: spool, offset: *offset };
                let mut source = Source { data: &mut reader, size, got: 0 };
                self.write_run(run, u32::try_from(blocks).unwrap_or(0), &mut source)?;
            }
        }
        if let Some(kept) = open.kept {
            self.keep_revived(kept, open.first_file, &open.live)?;
        }
        self.tails.end_segment(&mut self.store, &self.spool)?;
        self.store.flush()?;
        Ok(Segment {
            bytes: open.start..self.store.image.position(),
            files: open.first_file..number(self.files.len(), "files")?,
            fragments: open.first_fragment..self.tails.next_fragment(),
        })
    }

    /// Where the data of a file is; complete once its segment is closed.
    pub fn layout(&self, data: Data) -> Option<Layout<'_>> {
        let file = self.files.get(data.0 as usize)?;
        let run = self.store.runs.get(file.run as usize).filter(|run| run.stored);
        let blocks = run.and_then(|run| {
            let words = self.store.words.get(run.first..run.first + run.count as usize)?;
            Some(Blocks { start: run.start, words, digest: run.digest })
        });
        let tail = self.tails.tails.get(file.tail as usize).map(|tail| TailPlace {
            fragment: tail.fragment,
            offset: tail.offset,
            digest: tail.digest,
        });
        Some(Layout { size: file.size, blocks, tail })
    }

    /// A fragment of a closed segment, unless it was left out.
    pub fn fragment(&self, number: u32) -> Option<&Fragment> {
        self.store.fragments.get(number as usize)?.as_ref()
    }

    /// Ends the data phase.
    pub fn tables(self) -> Result<Tables, WriteError> {
        if self.open.is_some() {
            return Err(WriteError::SegmentOpen);
        }
        Tables::new(self)
    }

    fn full_blocks(&self, size: u64) -> Result<u32, WriteError> {
        let block_size = u64::from(self.settings.encoder.block_size);
        let blocks = u32::try_from(size / block_size).ok().filter(|blocks| *blocks < u32::MAX);
        let limit = block_size * u64::from(u32::MAX - 1);
        blocks.ok_or(WriteError::Limit { what: "bytes in a file", limit })
    }

    fn set_live(&mut self, data: Data, now: bool) -> Result<(), WriteError> {
        let open = self.open.as_mut().ok_or(WriteError::SegmentClosed(data.0))?;
        let place = data.0.checked_sub(open.first_file).map(|place| place as usize);
        let live = place.and_then(|place| open.live.get_mut(place));
        let live = live.ok_or(WriteError::SegmentClosed(data.0))?;
        if *live != now
            && let Some(file) = self.files.get(data.0 as usize)
        {
            *live = now;
            self.tails.use_more(file.tail, now);
        }
        Ok(())
    }

    fn write_run(&mut self, run: u32, blocks: u32, source: &mut Source<'_>) -> Result<(), WriteError> {
        self.store.begin_run(run, source.size);
        for block in 1..=blocks {
            let mut buffer = self.store.pool.buffer();
            source.fill(&mut buffer, self.settings.encoder.block_size as usize)?;
            self.store.run_block(run, block == blocks, buffer)?;
        }
        Ok(())
    }

    fn spool_run(&mut self, file: Data, blocks: u32, source: &mut Source<'_>) -> Result<(), WriteError> {
        let Some(open) = &mut self.open else { return Err(WriteError::NoSegment) };
        let spool = match &mut open.spool {
            Some(spool) => spool,
            None => open.spool.insert(SpoolFile::create(&self.spool)?),
        };
        open.masked.push((file, spool.length()));
        let mut buffer = self.store.pool.buffer();
        for _ in 0..blocks {
            source.fill(&mut buffer, self.settings.encoder.block_size as usize)?;
            if store::is_zero(&buffer) {
                spool.append_hole(buffer.len() as u64);
            } else {
                spool.append(&buffer)?;
            }
        }
        self.store.pool.give_back(buffer);
        Ok(())
    }
}

/// A file's data being read.
struct Source<'a> {
    data: &'a mut dyn Read,
    size: u64,
    got: u64,
}

impl Source<'_> {
    /// Makes `buffer` hold the next `bytes` bytes.
    fn fill(&mut self, buffer: &mut Vec<u8>, bytes: usize) -> Result<(), WriteError> {
        buffer.resize(bytes, 0);
        let mut rest = buffer.as_mut_slice();
        while !rest.is_empty() {
            match self.data.read(rest) {
                Ok(0) => return Err(WriteError::Short { size: self.size, got: self.got }),
                Ok(count) => {
                    self.got += count as u64;
                    rest = rest.get_mut(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(WriteError::Read { size: self.size, got: self.got, source }),
            }
        }
        Ok(())
    }
}

/// Reads what was kept aside.
struct Spooled<'a> {
    file: &'a SpoolFile,
    offset: u64,
}

impl Read for Spooled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read_at(buffer, self.offset).map_err(std::io::Error::other)?;
        self.offset += buffer.len() as u64;
        Ok(buffer.len())
    }
}
