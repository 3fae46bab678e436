//! What a layer's archive says besides the data of its files, in a form that can be kept: written entry by
//! entry while the archive is read, and read instead of it when the layer comes again.
//!
//! Entries are recorded as the archive's reader gives them, before anything judges them. So everything else
//! (names, limits, whiteouts, links) is judged anew, by the same code, and a record that lies can do no more
//! than an archive that lies. Whether a record is that of the layer is for its keeper to know.
//!
//! ```text
//! entry: kind u8 | mode u16 | mtime u32 | uid u32 | gid u32 | size u64 | device u32 |
//!        name (bytes u32, text) | link (likewise) | attributes u32, each (name, value)
//! end:   255 | bytes of the uncompressed archive u64
//! ```
//!
//! Numbers are little-endian.

use std::io::{self, Read, Write};

use shifter_core::digest::Digest;

use crate::archive::{Entry, Kind};
use crate::error::{MergeError, Near, Rule};
use crate::limits::Limits;
use crate::name::shown;
use crate::sink::{Device, Xattr};

/// Raised whenever records take another form, or another record would be made of the same archive.
pub const RECORDS_VERSION: u32 = 1;

const END: u8 = 255;

/// Most attributes of an entry that are believed.
const MOST_XATTRS: u32 = 1 << 16;

/// Records one entry.
pub(crate) fn write_entry(entry: &Entry, buffer: &mut Vec<u8>, out: &mut dyn Write) -> io::Result<()> {
    let (kind, device) = match entry.kind {
        Kind::File => (0, 0),
        Kind::Directory => (1, 0),
        Kind::Symlink => (2, 0),
        Kind::HardLink => (3, 0),
        Kind::BlockDevice(device) => (4, device.encoded()),
        Kind::CharDevice(device) => (5, device.encoded()),
        Kind::Fifo => (6, 0),
        Kind::LeftOut => (7, 0),
    };
    buffer.clear();
    buffer.push(kind);
    buffer.extend(entry.mode.to_le_bytes());
    for number in [entry.mtime, entry.owner.0, entry.owner.1] {
        buffer.extend(number.to_le_bytes());
    }
    buffer.extend(entry.size.to_le_bytes());
    buffer.extend(device.to_le_bytes());
    put_text(buffer, &entry.raw_name);
    put_text(buffer, &entry.link);
    buffer.extend(length(entry.xattrs.len()));
    for (name, value) in &entry.xattrs {
        put_text(buffer, name);
        put_text(buffer, value);
    }
    out.write_all(buffer)
}

/// Records the end of an archive of this many uncompressed bytes.
pub(crate) fn write_end(bytes: u64, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[END])?;
    out.write_all(&bytes.to_le_bytes())
}

fn put_text(buffer: &mut Vec<u8>, text: &[u8]) {
    buffer.extend(length(text.len()));
    buffer.extend_from_slice(text);
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// A layer's records, read in place of its archive.
pub(crate) struct Records<'a> {
    layer: Digest,
    input: Box<dyn Read + 'a>,
    longest_text: u64,
    /// Bytes that the archive may have had.
    budget: u64,
    /// Bytes that it had, once the end was read.
    bytes: Option<u64>,
    limit: u64,
    /// The last entry's name.
    last: Vec<u8>,
}

impl<'a> Records<'a> {
    pub(crate) fn new(layer: &Digest, input: Box<dyn Read + 'a>, limits: &Limits, budget: u64) -> Self {
        Self {
            layer: layer.clone(),
            input,
            // What an archive can say in one extension header, or in the header itself.
            longest_text: limits.extension_bytes.max(512),
            budget,
            bytes: None,
            limit: limits.uncompressed_bytes,
            last: Vec::new(),
        }
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, MergeError> {
        let damaged = |source| MergeError::Records { layer: self.layer.clone(), source };
        match read_item(&mut self.input, self.longest_text).map_err(damaged)? {
            Item::Entry(entry) => {
                self.last.clone_from(&entry.raw_name);
                Ok(Some(*entry))
            }
            // Sizes of single entries are not recorded as they were archived.
            Item::End(bytes) if bytes > self.budget => {
                let (layer, near) = (self.layer.clone(), Near::Behind(shown(&self.last)));
                Err(MergeError::TooManyBytes { layer, near, limit: self.limit })
            }
            Item::End(bytes) => {
                self.bytes = Some(bytes);
                Ok(None)
            }
        }
    }

    /// Bytes of the uncompressed archive, at the end.
    pub(crate) fn position(&self) -> u64 {
        self.bytes.unwrap_or(0)
    }

    pub(crate) fn refuse(&self, raw_name: &[u8], rule: Rule) -> MergeError {
        MergeError::Entry { layer: self.layer.clone(), entry: shown(raw_name), rule }
    }
}

enum Item {
    Entry(Box<Entry>),
    End(u64),
}

fn read_item(input: &mut dyn Read, longest_text: u64) -> io::Result<Item> {
    let kind = u8::from_le_bytes(array(input)?);
    if kind == END {
        return Ok(Item::End(u64::from_le_bytes(array(input)?)));
    }
    let mode = u16::from_le_bytes(array(input)?);
    let mtime = number(input)?;
    let owner = (number(input)?, number(input)?);
    let size = u64::from_le_bytes(array(input)?);
    let device = Device::decoded(number(input)?);
    let kind = match kind {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Symlink,
        3 => Kind::HardLink,
        4 => Kind::BlockDevice(device),
        5 => Kind::CharDevice(device),
        6 => Kind::Fifo,
        7 => Kind::LeftOut,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    // Also from a record, nothing has more bits, or a larger size, than an archive can say.
    if mode > 0o7777 || i64::try_from(size).is_err() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let raw_name = text(input, longest_text)?;
    let link = text(input, longest_text)?;
    let count = number(input)?;
    if count > MOST_XATTRS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut xattrs: Vec<Xattr> = Vec::new();
    let mut left = longest_text;
    for _ in 0..count {
        let (name, value) = (text(input, left)?, text(input, left)?);
        left = left.saturating_sub((name.len() + value.len()) as u64);
        xattrs.push((name.into(), value.into()));
    }
    Ok(Item::Entry(Box::new(Entry {
        raw_name,
        link,
        kind,
        mode,
        mtime,
        owner,
        xattrs,
        size,
        segments: None,
    })))
}

fn array<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(input: &mut dyn Read) -> io::Result<u32> {
    array(input).map(u32::from_le_bytes)
}

fn text(input: &mut dyn Read, longest: u64) -> io::Result<Vec<u8>> {
    let length = u64::from(number(input)?);
    if length > longest {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    input.take(length).read_to_end(&mut text)?;
    match text.len() as u64 == length {
        true => Ok(text),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entries() -> Vec<Entry> {
        let device = Device { major: 8, minor: 0x1_2345 };
        let kinds = [
            Kind::File,
            Kind::Directory,
            Kind::Symlink,
            Kind::HardLink,
            Kind::BlockDevice(device),
            Kind::CharDevice(device),
            Kind::Fifo,
            Kind::LeftOut,
        ];
        let entry = |(number, kind): (usize, &Kind)| Entry {
            raw_name: vec![b'n'; number * 100],
            link: vec![0xff; number],
            kind: *kind,
            mode: 0o4755,
            mtime: u32::MAX - 1,
            owner: (1, 70_000),
            xattrs: (0..number).map(|n| ([b'x', n as u8].into(), Box::from([7_u8; 9]))).collect(),
            size: u64::MAX >> 1,
            segments: None,
        };
        kinds.iter().enumerate().map(entry).collect()
    }

    fn written() -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), Vec::new());
        for entry in entries() {
            write_entry(&entry, &mut buffer, &mut bytes).unwrap();
        }
        write_end(77, &mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Entry>, u64), MergeError> {
        let layer = Digest::sha256_from_hex(&"a".repeat(64)).unwrap();
        let mut records = Records::new(&layer, Box::new(bytes), &Limits::default(), 1000);
        let mut entries = Vec::new();
        while let Some(entry) = records.next_entry()? {
            entries.push(entry);
        }
        Ok((entries, records.position()))
    }

    #[test]
    fn what_was_recorded_is_read() {
        let (found, bytes) = read(&written()).unwrap();
        assert_eq!(bytes, 77);
        assert_eq!(found.len(), entries().len());
        for (found, entry) in found.iter().zip(entries()) {
            assert_eq!((&found.raw_name, &found.link), (&entry.raw_name, &entry.link));
            assert_eq!((found.kind, found.mode, found.mtime), (entry.kind, entry.mode, entry.mtime));
            assert_eq!((found.owner, found.size), (entry.owner, entry.size));
            assert_eq!(found.xattrs, entry.xattrs);
        }
    }

    #[test]
    fn a_record_cut_short_or_with_absurd_numbers_is_an_error_and_takes_no_memory() {
        let whole = written();
        for length in 0..whole.len() {
            assert!(matches!(read(&whole[..length]), Err(MergeError::Records { .. })), "{length}");
        }
        for (at, byte) in [(0, 99), (2, 0xff), (22, 0xff), (30, 0xff), (34, 0xff), (38, 0xff)] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            assert!(read(&bytes).is_err(), "byte {at}");
        }
        let mut long = whole;
        let at = long.len() - 4;
        long[at] = 1;
        assert!(matches!(read(&long), Err(MergeError::TooManyBytes { .. })));
    }
}
