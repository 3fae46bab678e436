//! Sparse files in the four ways that tar has for them (GNU tar manual, "Storing Sparse Files"): maps of old
//! GNU headers and of pax versions 0.0, 0.1 and 1.0, all brought to one form and checked. A file whose map
//! contradicts its sizes is refused: readers would disagree on its content.

use crate::error::{Fault, Rule};

/// A piece of a sparse file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it lies in the file.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) bytes: u64,
}

/// Checks that a map is ordered, fits a file of `size` bytes and takes exactly `stored` bytes of data.
pub(crate) fn check_map(map: &[Segment], size: u64, stored: u64) -> Result<(), Fault> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in map {
        // All numbers are below 2^63 by their parsers, so neither sum can wrap unnoticed.
        if segment.offset < end {
            return Err(Fault::SparseMap);
        }
        end = segment.offset.saturating_add(segment.bytes);
        sum = sum.saturating_add(segment.bytes);
    }
    if end > size || sum != stored { Err(Fault::SparseMap) } else { Ok(()) }
}

/// The `GNU.sparse.…` records of one pax header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// The file's name; the entry's own is made up.
    pub(crate) name: Option<Vec<u8>>,
    version: (Option<u64>, Option<u64>),
    size: Option<u64>,
    segments: Option<u64>,
    map: Vec<Segment>,
    /// A segment of version 0.0 whose size is still to come.
    offset: Option<u64>,
    /// The first key, to name the format in a refusal.
    key: Option<String>,
    is_unknown: bool,
}

/// What the records of a pax header make of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// No sparse file.
    Plain,
    /// Versions 0.0 and 0.1: map and size.
    Mapped(Vec<Segment>, u64),
    /// Version 1.0: the map stands before the data; the size.
    MapInData(u64),
}

impl Records {
    /// Takes one record; `key` is what follows `GNU.sparse.`. `None` if its value is malformed.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8], number: fn(&[u8]) -> Option<u64>) -> Option<()> {
        self.key.get_or_insert_with(|| format!("GNU.sparse.{}", crate::name::shown(key)));
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.version.0 = Some(number(value)?),
            b"minor" => self.version.1 = Some(number(value)?),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"numblocks" => self.segments = Some(number(value)?),
            b"offset" if self.offset.is_none() => self.offset = Some(number(value)?),
            b"numbytes" => {
                let segment = Segment { offset: self.offset.take()?, bytes: number(value)? };
                self.map.push(segment);
            }
            b"map" => {
                self.map.clear();
                let mut numbers = value.split(|&byte| byte == b',').filter(|_| !value.is_empty());
                while let Some(offset) = numbers.next() {
                    let segment = Segment { offset: number(offset)?, bytes: number(numbers.next()?)? };
                    self.map.push(segment);
                }
            }
            b"offset" => return None,
            _ => self.is_unknown = true,
        }
        Some(())
    }

    /// What all records together say; `is_file` tells whether the entry is a regular file.
    pub(crate) fn form(self, is_file: bool) -> Result<Form, Rule> {
        let Some(key) = self.key else { return Ok(Form::Plain) };
        let has_map = self.segments == Some(self.map.len() as u64) && self.offset.is_none();
        match (self.version, self.size) {
            _ if self.is_unknown || !is_file => Err(Rule::PaxSparse(key)),
            ((Some(1), Some(0)), Some(size)) if self.map.is_empty() => Ok(Form::MapInData(size)),
            ((None, None) | (Some(0), Some(0 | 1)), Some(size)) if has_map => {
                Ok(Form::Mapped(self.map, size))
            }
            _ => Err(Rule::PaxSparse(key)),
        }
    }
}

/// Reads the map in front of the data of a version 1.0 file: decimal numbers, each with a newline, first how
/// many segments, then offset and size of each; then blanks up to the end of a block.
pub(crate) struct MapReader {
    most_segments: usize,
    number: Option<u64>,
    wanted: Option<u64>,
    offset: Option<u64>,
    map: Vec<Segment>,
}

impl MapReader {
    pub(crate) fn new(most_segments: usize) -> Self {
        Self { most_segments, number: None, wanted: None, offset: None, map: Vec::new() }
    }

    /// Takes one block; returns the map once it is complete.
    pub(crate) fn take(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, Fault> {
        for &byte in block {
            match (byte, self.number) {
                (b'0'..=b'9', number) => {
                    let number = number.unwrap_or(0).checked_mul(10);
                    let number = number.and_then(|number| number.checked_add(u64::from(byte - b'0')));
                    self.number = number.filter(|&number| i64::try_from(number).is_ok());
                    if self.number.is_none() {
                        return Err(Fault::SparseMap);
                    }
                }
                (b'\n', Some(number)) => {
                    self.number = None;
                    self.take_number(number)?;
                    if self.wanted == Some(self.map.len() as u64) {
                        return Ok(Some(std::mem::take(&mut self.map)));
                    }
                }
                _ => return Err(Fault::SparseMap),
            }
        }
        Ok(None)
    }

    fn take_number(&mut self, number: u64) -> Result<(), Fault> {
        match (self.wanted, self.offset) {
            (None, _) if number > self.most_segments as u64 => return Err(Fault::SparseMap),
            (None, _) => self.wanted = Some(number),
            (_, None) => self.offset = Some(number),
            (_, Some(offset)) => {
                self.map.push(Segment { offset, bytes: number });
                self.offset = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_in_front_of_data_are_read_over_block_borders() {
        let seg = |offset, bytes| Segment { offset, bytes };
        type Case<'a> = (&'a [&'a [u8]], Result<Option<Vec<Segment>>, Fault>);
        let table: &[Case<'_>] = &[
            (&[b"0\n\0\0"], Ok(Some(vec![]))),
            (&[b"1\n512\n", b"100\n\0"], Ok(Some(vec![seg(512, 100)]))),
            (&[b"2\n0\n1\n5", b"12\n0\n\0"], Ok(Some(vec![seg(0, 1), seg(512, 0)]))),
            (&[b"1\n512\n"], Ok(None)),
            (&[b"9\n"], Err(Fault::SparseMap)),
            (&[b"\n"], Err(Fault::SparseMap)),
            (&[b"1\n-1\n"], Err(Fault::SparseMap)),
            (&[b"1\n9223372036854775808\n"], Err(Fault::SparseMap)),
        ];
        for (blocks, expected) in table {
            let mut reader = MapReader::new(8);
            let mut found = Ok(None);
            for block in *blocks {
                found = reader.take(block);
            }
            assert_eq!(found, *expected, "{blocks:?}");
        }
    }
}
