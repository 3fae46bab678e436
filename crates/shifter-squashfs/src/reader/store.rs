//! Blocks out of the file: read within bounds, decompressed within bounds, counted, and the last ones kept.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::cache::Cache;
use super::codec::{Codec, Decompressor};
use super::error::{Part, Place, Problem, ReadError};
use super::limits::Limits;
use super::source::Source;

/// Bytes of a full metadata block.
pub(super) const METADATA_BLOCK: usize = 8192;
/// In the two bytes before a metadata block: it is stored as it is.
const STORED: u16 = 0x8000;
/// Metadata blocks kept: 1 MiB.
const METADATA_SLOTS: usize = 128;
/// Bytes of fragments kept, in blocks of any size.
const FRAGMENT_BYTES: u32 = 8 << 20;

/// A run of metadata blocks: what may refer into it, and where it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) part: Part,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A metadata block, decompressed.
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// Where in the file the next one begins.
    pub(super) next: u64,
}

/// Where a block of data lies: its first byte, how many, and whether they are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) part: Part,
    pub(super) start: u64,
    pub(super) bytes: u32,
    pub(super) compressed: bool,
}

/// The file and what is known of reading it.
pub(super) struct Store<S> {
    source: S,
    codec: Codec,
    decompressor: RefCell<Decompressor>,
    input: RefCell<Vec<u8>>,
    metadata: RefCell<Cache<u64, Rc<Block>>>,
    /// By all of the extent: what is read must not depend on what was read before.
    fragments: RefCell<Cache<Extent, Rc<Vec<u8>>>>,
    done: Cell<u64>,
    budget: u64,
}

impl<S: Source> Store<S> {
    pub(super) fn new(
        source: S,
        codec: Codec,
        block_size: u32,
        length: u64,
        limits: &Limits,
    ) -> Result<Self, ReadError> {
        let decompressor = Decompressor::new(codec)
            .map_err(|source| ReadError::new(Place::somewhere(Part::Superblock), Problem::Read(source)))?;
        let fragments = FRAGMENT_BYTES.checked_div(block_size).unwrap_or(0).clamp(8, 256);
        Ok(Self {
            source,
            codec,
            decompressor: RefCell::new(decompressor),
            input: RefCell::default(),
            metadata: RefCell::new(Cache::new(METADATA_SLOTS)),
            fragments: RefCell::new(Cache::new(fragments as usize)),
            done: Cell::new(0),
            budget: limits.work(length),
        })
    }

    pub(super) fn read(&self, place: Place, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let read = self.source.read_exact_at(buffer, offset);
        read.map_err(|source| ReadError::new(place, Problem::Read(source)))
    }

    /// Counts work that an image can ask for again and again.
    pub(super) fn count(&self, place: Place, bytes: usize) -> Result<(), ReadError> {
        let done = self.done.get().saturating_add(bytes as u64);
        self.done.set(done);
        if done > self.budget {
            let what = "bytes decompressed for an image of this size";
            return Err(ReadError::new(place, Problem::Limit { what, found: done, limit: self.budget }));
        }
        Ok(())
    }

    /// The metadata block at this byte of the file, which must lie in the region.
    pub(super) fn metadata(&self, region: Region, at: u64) -> Result<Rc<Block>, ReadError> {
        if let Some(block) = self.metadata.borrow_mut().get(at)
            && at >= region.start
            && block.next <= region.end
        {
            return Ok(block);
        }
        let block = Rc::new(self.metadata_anew(region, at)?);
        self.metadata.borrow_mut().put(at, Rc::clone(&block));
        Ok(block)
    }

    fn metadata_anew(&self, region: Region, at: u64) -> Result<Block, ReadError> {
        let place = Place::at(region.part, at);
        let outside = |end| Problem::Outside {
            what: "a metadata block",
            start: at,
            end,
            from: region.start,
            to: region.end,
        };
        let begin = at.checked_add(2).filter(|begin| at >= region.start && *begin <= region.end);
        let begin = begin.ok_or_else(|| ReadError::new(place, outside(at.saturating_add(2))))?;
        let mut header = [0; 2];
        self.read(place, &mut header, at)?;
        let header = u16::from_le_bytes(header);
        let (length, compressed) = (header & !STORED, header & STORED == 0);
        let next = begin.saturating_add(u64::from(length));
        if next > region.end {
            return Err(ReadError::new(place, outside(next)));
        }
        if length == 0 || usize::from(length) > METADATA_BLOCK {
            let rule = "metadata blocks hold 1 to 8192 bytes";
            let field = "its stored size";
            return Err(ReadError::new(place, Problem::Field { field, found: u64::from(length), rule }));
        }
        let extent = Extent { part: region.part, start: begin, bytes: u32::from(length), compressed };
        let mut bytes = Vec::new();
        self.unpack(extent, METADATA_BLOCK, &mut bytes)?;
        if bytes.is_empty() {
            let rule = "metadata blocks hold 1 to 8192 bytes";
            return Err(ReadError::new(place, Problem::Field { field: "its size", found: 0, rule }));
        }
        bytes.shrink_to_fit();
        Ok(Block { bytes, next })
    }

    /// A fragment's bytes, at most a block's.
    pub(super) fn fragment(&self, extent: Extent, block_size: usize) -> Result<Rc<Vec<u8>>, ReadError> {
        if let Some(bytes) = self.fragments.borrow_mut().get(extent) {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        self.unpack(extent, block_size, &mut bytes)?;
        bytes.shrink_to_fit();
        let bytes = Rc::new(bytes);
        self.fragments.borrow_mut().put(extent, Rc::clone(&bytes));
        Ok(bytes)
    }

    /// What a block holds, at most `capacity` bytes. The extent was checked to lie in the file and to be no
    /// longer than a block.
    pub(super) fn unpack(
        &self,
        extent: Extent,
        capacity: usize,
        output: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let place = Place::at(extent.part, extent.start);
        let stored = extent.bytes as usize;
        self.count(place, if extent.compressed { capacity } else { stored })?;
        let corrupt = || Problem::Corrupt { codec: self.codec, capacity: capacity as u64 };
        if !extent.compressed {
            if stored > capacity {
                let (field, other) = ("the block's size", "the most it may hold");
                let problem = Problem::Disagrees {
                    field,
                    found: u64::from(extent.bytes),
                    other,
                    expected: capacity as u64,
                };
                return Err(ReadError::new(place, problem));
            }
            output.resize(stored, 0);
            return self.read(place, output, extent.start);
        }
        let mut input = self.input.borrow_mut();
        input.resize(stored, 0);
        self.read(place, &mut input, extent.start)?;
        output.resize(capacity, 0);
        let length = self.decompressor.borrow_mut().decompress(&input, output);
        let length = length.filter(|length| *length <= capacity);
        output.truncate(length.ok_or_else(|| ReadError::new(place, corrupt()))?);
        Ok(())
    }
}
