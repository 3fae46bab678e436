//! One file's content, block by block: holes told apart, every block exactly as long as the file's size demands.

use std::io;

use super::cursor::Cursor;
use super::error::{Part, Place, Problem, ReadError};
use super::image::Image;
use super::inode::FileLayout;
use super::source::Source;
use super::store::Extent;

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// These bytes, at least one and at most a block.
    Data(&'a [u8]),
    /// So many zeros, which the image does not store.
    Hole(u64),
}

/// A regular file's content from its beginning, as [`Chunk`]s or through [`io::Read`]; one block in memory.
pub struct FileData<'a, S> {
    image: &'a Image<S>,
    path: Vec<u8>,
    layout: FileLayout,
    blocks: Cursor<'a, S>,
    blocks_left: u64,
    tail: usize,
    /// Where the next block is.
    start: u64,
    /// Bytes not yet given.
    left: u64,
    buffer: Vec<u8>,
    /// Of the last chunk, for those who read: bytes of the buffer given, zeros not given.
    given: usize,
    zeros: u64,
}

impl<'a, S: Source> FileData<'a, S> {
    pub(super) fn new(image: &'a Image<S>, path: &[u8], layout: FileLayout) -> Result<Self, ReadError> {
        let (blocks_left, tail) = image.shape(layout);
        Ok(Self {
            image,
            path: path.to_vec(),
            layout,
            blocks: Cursor::new(&image.store, image.inodes, layout.blocks)?,
            blocks_left,
            tail,
            start: layout.start,
            left: layout.size,
            buffer: Vec::new(),
            given: 0,
            zeros: 0,
        })
    }

    /// The next piece, or nothing behind the last.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, ReadError> {
        match self.advance()? {
            0 => Ok(None),
            length if self.buffer.is_empty() => Ok(Some(Chunk::Hole(length))),
            _ => Ok(Some(Chunk::Data(&self.buffer))),
        }
    }

    /// The next piece's length; its bytes are in the buffer, or none if it is a hole.
    fn advance(&mut self) -> Result<u64, ReadError> {
        self.unpack_next().map_err(|error| error.of(&self.path))
    }

    fn unpack_next(&mut self) -> Result<u64, ReadError> {
        self.buffer.clear();
        let length = self.left.min(u64::from(self.image.superblock.block_size));
        if length == 0 {
            return Ok(0);
        }
        let due = usize::try_from(length).unwrap_or(usize::MAX);
        if let Some(left) = self.blocks_left.checked_sub(1) {
            if let Some(extent) = next_extent(self.image, &mut self.blocks, &mut self.start)? {
                self.image.store.unpack(extent, due, &mut self.buffer)?;
                if self.buffer.len() != due {
                    return Err(too_short(extent, self.buffer.len(), length));
                }
            }
            self.blocks_left = left;
        } else {
            let (extent, begin, end) = tail(self.image, self.layout, &self.blocks, self.tail)?;
            let block_size = self.image.superblock.block_size as usize;
            let fragment = self.image.store.fragment(extent, block_size)?;
            let bytes =
                fragment.get(begin..end).ok_or_else(|| too_short(extent, fragment.len(), end as u64))?;
            self.buffer.extend_from_slice(bytes);
        }
        self.left = self.left.saturating_sub(length);
        Ok(length)
    }
}

impl<S: Source> io::Read for FileData<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.zeros == 0 && self.given >= self.buffer.len() {
            let length = self.advance()?;
            self.given = 0;
            self.zeros = if self.buffer.is_empty() { length } else { 0 };
        }
        if self.zeros > 0 {
            let length = out.len().min(usize::try_from(self.zeros).unwrap_or(usize::MAX));
            out.iter_mut().take(length).for_each(|byte| *byte = 0);
            self.zeros = self.zeros.saturating_sub(length as u64);
            return Ok(length);
        }
        let mut rest = self.buffer.get(self.given..).unwrap_or_default();
        let length = rest.read(out)?;
        self.given = self.given.saturating_add(length);
        Ok(length)
    }
}

/// Goes through a file's list of blocks without reading them, and gives the bytes it holds without its holes.
pub(super) fn examine<S: Source>(image: &Image<S>, layout: FileLayout) -> Result<u64, ReadError> {
    let block_size = u64::from(image.superblock.block_size);
    let (blocks, tail_bytes) = image.shape(layout);
    let mut list = Cursor::new(&image.store, image.inodes, layout.blocks)?;
    let (mut start, mut left, mut held) = (layout.start, layout.size, 0_u64);
    for _ in 0..blocks {
        let length = left.min(block_size);
        if next_extent(image, &mut list, &mut start)?.is_some() {
            held = held.saturating_add(length);
        }
        left = left.saturating_sub(length);
    }
    if tail_bytes > 0 {
        tail(image, layout, &list, tail_bytes)?;
        held = held.saturating_add(tail_bytes as u64);
    }
    Ok(held)
}

fn next_extent<S: Source>(
    image: &Image<S>,
    list: &mut Cursor<'_, S>,
    start: &mut u64,
) -> Result<Option<Extent>, ReadError> {
    let word = list.u32()?;
    let extent = image.extent(list.place(), Part::Data, *start, word)?;
    *start = start.saturating_add(extent.map_or(0, |extent| u64::from(extent.bytes)));
    Ok(extent)
}

/// The fragment that holds a file's tail, and from where to where in it.
fn tail<S: Source>(
    image: &Image<S>,
    layout: FileLayout,
    list: &Cursor<'_, S>,
    length: usize,
) -> Result<(Extent, usize, usize), ReadError> {
    let number = layout.fragment.unwrap_or(u32::MAX);
    let extent = image.fragment(list.place(), number)?;
    let begin = layout.within_fragment as usize;
    let end = begin.saturating_add(length);
    if end > image.superblock.block_size as usize {
        let (field, other) = ("the end of the file's tail in its fragment", "the most a fragment holds");
        let (found, expected) = (end as u64, u64::from(image.superblock.block_size));
        return Err(list.refuse(Problem::Disagrees { field, found, other, expected }));
    }
    Ok((extent, begin, end))
}

fn too_short(extent: Extent, found: usize, expected: u64) -> ReadError {
    let (field, other) = ("the block's length", "what the file needs of it");
    let problem = Problem::Disagrees { field, found: found as u64, other, expected };
    ReadError::new(Place::at(extent.part, extent.start), problem)
}
