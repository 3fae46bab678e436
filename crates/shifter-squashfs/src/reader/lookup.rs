//! A table found by number: entries of one size in metadata blocks, and behind them the blocks' places, eight
//! bytes each. Ids, fragments, extended attributes and exported inodes are kept so.

use super::cursor::{Cursor, Position};
use super::error::{Part, Place, Problem, ReadError};
use super::source::Source;
use super::store::{METADATA_BLOCK, Region, Store};

/// Places of a table's blocks, checked.
pub(super) struct Lookup {
    region: Region,
    blocks: Vec<u64>,
    entry_bytes: u64,
    count: u64,
}

impl Lookup {
    /// Reads the places at `start`, and checks that they and the blocks lie between `floor` and `ceiling`. The
    /// caller has bounded `count`.
    pub(super) fn open<S: Source>(
        store: &Store<S>,
        part: Part,
        (start, floor, ceiling): (u64, u64, u64),
        count: u64,
        entry_bytes: u64,
    ) -> Result<Self, ReadError> {
        let place = Place::at(part, start);
        let number = count.saturating_mul(entry_bytes).div_ceil(METADATA_BLOCK as u64);
        let end = start.saturating_add(number.saturating_mul(8));
        if start < floor || end > ceiling {
            let what = "the list of the table's blocks";
            return Err(ReadError::new(
                place,
                Problem::Outside { what, start, end, from: floor, to: ceiling },
            ));
        }
        let mut blocks = Vec::new();
        let mut least = floor;
        for at in (start..end).step_by(8) {
            let mut bytes = [0; 8];
            store.read(place, &mut bytes, at)?;
            let block = u64::from_le_bytes(bytes);
            // The shortest block takes three bytes, two of them its header.
            let next = block.saturating_add(3);
            if block < least || next > start {
                let what = "a block of the table";
                let problem = Problem::Outside { what, start: block, end: next, from: least, to: start };
                return Err(ReadError::new(Place::at(part, at), problem));
            }
            blocks.push(block);
            least = next;
        }
        let first = blocks.first().copied().unwrap_or(start);
        Ok(Self { region: Region { part, start: first, end: start }, blocks, entry_bytes, count })
    }

    /// Where the table's first block begins: what is before it cannot reach further.
    pub(super) fn first_block(&self) -> u64 {
        self.region.start
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// At an entry, if there is one of that number.
    pub(super) fn entry<'a, S: Source>(
        &self,
        store: &'a Store<S>,
        number: u64,
    ) -> Result<Option<Cursor<'a, S>>, ReadError> {
        if number >= self.count {
            return Ok(None);
        }
        let byte = number.saturating_mul(self.entry_bytes);
        let (index, within) =
            (byte.checked_div(METADATA_BLOCK as u64), byte.checked_rem(METADATA_BLOCK as u64));
        let block = index.and_then(|index| self.blocks.get(usize::try_from(index).ok()?).copied());
        let position = block.zip(within.and_then(|within| usize::try_from(within).ok()));
        position
            .map(|(block, within)| Cursor::new(store, self.region, Position { block, within }))
            .transpose()
    }
}
