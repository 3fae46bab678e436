//! A directory's names, one after the other: each a name that a file can have, and behind the one before it.

use super::cursor::Cursor;
use super::error::{Problem, ReadError};
use super::image::Image;
use super::inode::DirectoryLayout;
use super::source::Source;

/// Names that one header may announce (SQUASHFS_DIR_COUNT).
const NAMES_PER_HEADER: u32 = 256;
const HEADER_BYTES: u32 = 12;
const ENTRY_BYTES: u32 = 8;

/// One name.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    /// Where the inode is.
    pub(super) reference: u64,
    /// Which number it has.
    pub(super) number: u32,
    /// Its (basic) type's number.
    pub(super) kind: u16,
}

/// Reads a directory's names in their order.
pub(super) struct Listing<'a, S> {
    /// None where there is nothing to read.
    cursor: Option<Cursor<'a, S>>,
    /// Bytes not yet read.
    left: u32,
    /// Names of the present header not yet read.
    announced: u32,
    start: u32,
    number: u32,
    last: Vec<u8>,
    name_bytes: usize,
}

impl<'a, S: Source> Listing<'a, S> {
    pub(super) fn new(image: &'a Image<S>, directory: DirectoryLayout) -> Result<Self, ReadError> {
        let cursor = match directory.bytes {
            0 => None,
            _ => Some(Cursor::from_reference(
                &image.store,
                image.directories,
                u64::from(directory.start),
                directory.within,
            )?),
        };
        let name_bytes = image.limits.name_bytes;
        Ok(Self {
            cursor,
            left: directory.bytes,
            announced: 0,
            start: 0,
            number: 0,
            last: Vec::new(),
            name_bytes,
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<Name>, ReadError> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        if self.announced == 0 {
            if self.left == 0 {
                return Ok(None);
            }
            take(cursor, &mut self.left, HEADER_BYTES)?;
            let count = cursor.u32()?;
            self.announced = count.saturating_add(1);
            if self.announced > NAMES_PER_HEADER {
                let (what, limit) = ("names behind one header", u64::from(NAMES_PER_HEADER));
                let found = u64::from(self.announced);
                return Err(cursor.refuse(Problem::Limit { what, found, limit }));
            }
            (self.start, self.number) = (cursor.u32()?, cursor.u32()?);
        }
        self.announced = self.announced.saturating_sub(1);
        take(cursor, &mut self.left, ENTRY_BYTES)?;
        let (within, delta) = (cursor.u16()?, cursor.i16()?);
        let (kind, length) = (cursor.u16()?, usize::from(cursor.u16()?).saturating_add(1));
        if length > self.name_bytes {
            let (what, limit) = ("bytes of a name", self.name_bytes as u64);
            return Err(cursor.refuse(Problem::Limit { what, found: length as u64, limit }));
        }
        take(cursor, &mut self.left, u32::try_from(length).unwrap_or(u32::MAX))?;
        let name = cursor.bytes(length)?;
        if let Some(rule) = broken_rule(&name, &self.last) {
            return Err(cursor.refuse(Problem::Text { what: "name", text: name, rule }));
        }
        self.last.clone_from(&name);
        // A number that wraps around is one that no inode has, which the walk says.
        let number = self.number.wrapping_add_signed(i32::from(delta));
        let reference = u64::from(self.start) << 16 | u64::from(within);
        Ok(Some(Name { name, reference, number, kind }))
    }
}

fn take<S: Source>(cursor: &Cursor<'_, S>, left: &mut u32, bytes: u32) -> Result<(), ReadError> {
    *left = left.checked_sub(bytes).ok_or_else(|| {
        let (field, other) = ("the next part of the directory", "what its size leaves for it");
        let (found, expected) = (u64::from(bytes), u64::from(*left));
        cursor.refuse(Problem::Disagrees { field, found, other, expected })
    })?;
    Ok(())
}

/// What is wrong with a name behind this other one; a listing is sorted, so that no name comes twice.
fn broken_rule(name: &[u8], last: &[u8]) -> Option<&'static str> {
    match name {
        b"." | b".." => Some("is the directory itself or the one above"),
        _ if name.contains(&b'/') => Some("holds a slash"),
        _ if name.contains(&0) => Some("holds a NUL byte"),
        _ if name == last => Some("comes twice"),
        _ if name < last => Some("comes behind a greater one: listings are sorted"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_or_hide_another_are_refused() {
        let table: [(&[u8], &[u8], bool); 10] = [
            (b"a", b"", true),
            (b"a", b"a", false),
            (b"a", b"b", false),
            (b"b", b"a", true),
            (b"\xff", b"a", true),
            (b".", b"", false),
            (b"..", b"", false),
            (b"...", b"", true),
            (b"a/b", b"", false),
            (b"a\0b", b"", false),
        ];
        for (name, last, good) in table {
            assert_eq!(broken_rule(name, last).is_none(), good, "{:?} after {:?}", name, last);
        }
    }
}
