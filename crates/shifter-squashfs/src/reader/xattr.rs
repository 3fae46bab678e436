//! Extended attributes: sets of names and values, found by number; a value may stand elsewhere, shared.

use super::cursor::Cursor;
use super::error::{Part, Place, Problem, ReadError};
use super::image::Image;
use super::limits::Limits;
use super::lookup::Lookup;
use super::source::Source;
use super::store::{Region, Store};

/// Bytes before the list of the table's blocks.
const HEADER_BYTES: u64 = 16;
const SET_BYTES: u64 = 16;
/// In an attribute's type: the value is a reference to one elsewhere.
const ELSEWHERE: u16 = 0x100;
/// A value elsewhere is referred to by eight bytes.
const REFERENCE_BYTES: u32 = 8;

/// A name with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// With its prefix: `user.`, `trusted.` or `security.`.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// Where sets and their names and values are.
pub(super) struct XattrTable {
    sets: Lookup,
    values: Region,
}

impl XattrTable {
    pub(super) fn open<S: Source>(
        store: &Store<S>,
        start: u64,
        floor: u64,
        ceiling: u64,
        limits: &Limits,
    ) -> Result<Self, ReadError> {
        let place = Place::at(Part::XattrTable, start);
        let list = start.saturating_add(HEADER_BYTES);
        if start < floor || list > ceiling {
            let (what, end) = ("the table's header", list);
            return Err(ReadError::new(
                place,
                Problem::Outside { what, start, end, from: floor, to: ceiling },
            ));
        }
        let mut first = [0; 8];
        store.read(place, &mut first, start)?;
        let mut count = [0; 4];
        store.read(place, &mut count, start.saturating_add(8))?;
        let (first, count) = (u64::from_le_bytes(first), u64::from(u32::from_le_bytes(count)));
        if count > limits.entries {
            let what = "sets of extended attributes";
            return Err(ReadError::new(place, Problem::Limit { what, found: count, limit: limits.entries }));
        }
        let sets = Lookup::open(store, Part::XattrTable, (list, floor, ceiling), count, SET_BYTES)?;
        // Without sets there is no block before the header, which then is where everything ends.
        let end = sets.first_block().min(start);
        if first < floor || first > end {
            let what = "the part with names and values";
            let problem = Problem::Outside { what, start: first, end, from: floor, to: end };
            return Err(ReadError::new(place, problem));
        }
        Ok(Self { sets, values: Region { part: Part::XattrTable, start: first, end } })
    }

    pub(super) fn count(&self) -> u64 {
        self.sets.count()
    }

    /// Where the table begins in the file.
    pub(super) fn start(&self) -> u64 {
        self.values.start
    }
}

pub(super) fn read<S: Source>(image: &Image<S>, number: u32) -> Result<Vec<Xattr>, ReadError> {
    let table = image.xattrs.as_ref();
    let set = match table {
        Some(table) => table.sets.entry(&image.store, u64::from(number))?.map(|set| (table, set)),
        None => None,
    };
    let Some((table, mut set)) = set else {
        let problem = Problem::Misused("there is no set of extended attributes of this number");
        return Err(ReadError::new(Place::somewhere(Part::XattrTable), problem));
    };
    let (reference, count) = (set.u64()?, set.u32()?);
    let mut cursor = at(image, table.values, reference)?;
    let mut left = image.limits.xattr_bytes;
    let mut found: Vec<Xattr> = Vec::new();
    for _ in 0..count {
        found.push(one(image, table.values, &mut cursor, &mut left)?);
    }
    let mut names: Vec<&[u8]> = found.iter().map(|xattr| xattr.name.as_slice()).collect();
    names.sort_unstable();
    if let Some(twice) = names.iter().zip(names.iter().skip(1)).find(|(name, next)| name == next) {
        let (what, text, rule) = ("xattr name", twice.0.to_vec(), "comes twice");
        return Err(cursor.refuse(Problem::Text { what, text, rule }));
    }
    Ok(found)
}

fn at<S: Source>(image: &Image<S>, values: Region, reference: u64) -> Result<Cursor<'_, S>, ReadError> {
    let within = u16::from_le_bytes(reference.to_le_bytes().first_chunk().copied().unwrap_or_default());
    Cursor::from_reference(&image.store, values, reference >> 16, within)
}

fn one<'a, S: Source>(
    image: &'a Image<S>,
    values: Region,
    cursor: &mut Cursor<'a, S>,
    left: &mut u64,
) -> Result<Xattr, ReadError> {
    let (kind, length) = (cursor.u16()?, cursor.u16()?);
    let prefix: &[u8] = match kind & !ELSEWHERE {
        0 => b"user.",
        1 => b"trusted.",
        2 => b"security.",
        _ => {
            let (field, found) = ("an xattr's type", u64::from(kind));
            let rule = "squashfs 4.0 knows 0 to 2, and 256 more for values elsewhere";
            return Err(cursor.refuse(Problem::Field { field, found, rule }));
        }
    };
    take(cursor, left, image, u32::from(length))?;
    let mut name = prefix.to_vec();
    name.extend(cursor.bytes(usize::from(length))?);
    let rule = match name.contains(&0) {
        _ if length == 0 => Some("has nothing behind its prefix"),
        true => Some("holds a NUL byte"),
        // XATTR_NAME_MAX (linux/limits.h).
        _ if name.len() > 255 => Some("is longer than 255 bytes"),
        false => None,
    };
    if let Some(rule) = rule {
        return Err(cursor.refuse(Problem::Text { what: "xattr name", text: name, rule }));
    }
    let length = cursor.u32()?;
    let value = if kind & ELSEWHERE == 0 {
        take(cursor, left, image, length)?;
        cursor.bytes(length as usize)?
    } else {
        if length != REFERENCE_BYTES {
            let (field, rule) = ("the size of a reference to an xattr's value", "it has 8 bytes");
            return Err(cursor.refuse(Problem::Field { field, found: u64::from(length), rule }));
        }
        let mut elsewhere = at(image, values, cursor.u64()?)?;
        let length = elsewhere.u32()?;
        take(&elsewhere, left, image, length)?;
        elsewhere.bytes(length as usize)?
    };
    Ok(Xattr { name, value })
}

fn take<S: Source>(
    cursor: &Cursor<'_, S>,
    left: &mut u64,
    image: &Image<S>,
    bytes: u32,
) -> Result<(), ReadError> {
    // At least one for each, so that none is free.
    *left = left.checked_sub(u64::from(bytes).max(1)).ok_or_else(|| {
        let (what, limit) = ("bytes of an inode's extended attributes", image.limits.xattr_bytes);
        cursor.refuse(Problem::Limit { what, found: limit.saturating_add(1), limit })
    })?;
    Ok(())
}
