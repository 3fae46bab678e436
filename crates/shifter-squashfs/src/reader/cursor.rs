//! A position in a run of metadata blocks, read on from there as if they were one.

use std::rc::Rc;

use super::error::{Place, Problem, ReadError};
use super::source::Source;
use super::store::{Block, Region, Store};

/// A place to come back to: a metadata block's first byte in the file, and a byte in it once decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) block: u64,
    pub(super) within: usize,
}

/// Reads forward from a position.
pub(super) struct Cursor<'a, S> {
    store: &'a Store<S>,
    region: Region,
    at: u64,
    within: usize,
    block: Rc<Block>,
}

impl<'a, S: Source> Cursor<'a, S> {
    pub(super) fn new(store: &'a Store<S>, region: Region, position: Position) -> Result<Self, ReadError> {
        let block = store.metadata(region, position.block)?;
        let cursor = Self { store, region, at: position.block, within: position.within, block };
        let length = cursor.block.bytes.len();
        if position.within > length {
            let (field, other) = ("a byte referred to in the block", "the block's length");
            let (found, expected) = (position.within as u64, length as u64);
            return Err(cursor.refuse(Problem::Disagrees { field, found, other, expected }));
        }
        Ok(cursor)
    }

    /// From a table's first byte: a block's distance and a byte in it.
    pub(super) fn from_reference(
        store: &'a Store<S>,
        region: Region,
        distance: u64,
        within: u16,
    ) -> Result<Self, ReadError> {
        // A distance beyond all files lies outside of the region, which `new` says.
        let block = region.start.saturating_add(distance);
        Self::new(store, region, Position { block, within: usize::from(within) })
    }

    pub(super) fn position(&self) -> Position {
        Position { block: self.at, within: self.within }
    }

    pub(super) fn place(&self) -> Place {
        Place { part: self.region.part, byte: Some(self.at), within: Some(self.within as u64) }
    }

    /// An error about what was read last.
    pub(super) fn refuse(&self, problem: Problem) -> ReadError {
        ReadError::new(self.place(), problem)
    }

    /// Fills the buffer from here, over the blocks' borders.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.store.count(Place::at(self.region.part, self.at), buffer.len())?;
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let here = self.block.bytes.get(self.within..).unwrap_or_default();
            if here.is_empty() {
                let next = self.block.next;
                self.block = self.store.metadata(self.region, next)?;
                (self.at, self.within) = (next, 0);
                continue;
            }
            let length = here.len().min(rest.len());
            rest.iter_mut().zip(here).for_each(|(to, from)| *to = *from);
            filled = filled.saturating_add(length);
            self.within = self.within.saturating_add(length);
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ReadError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, ReadError> {
        Ok(i16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ReadError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes whose number the caller has bounded.
    pub(super) fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(bytes)
    }
}
