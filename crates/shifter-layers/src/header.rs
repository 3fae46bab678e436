//! One 512-byte tar header: checksum, fields, numbers (POSIX.1-2024 pax, "ustar Interchange Format";
//! GNU tar manual, "Basic Tar Format"). The layers' consumers in the field are written in Go; where the
//! formats leave room we read as Go's archive/tar does, so that nobody sees another image than we do.

use crate::error::Fault;
use crate::sparse::Segment;

/// The unit of a tar archive, in bytes.
pub(crate) const BLOCK: usize = 512;

/// A header as it stands in the archive.
pub(crate) struct RawHeader {
    bytes: [u8; BLOCK],
}

impl RawHeader {
    /// Checks the checksum, in both readings that exist (unsigned, and signed bytes of old tars).
    pub(crate) fn new(bytes: [u8; BLOCK]) -> Result<Self, Fault> {
        let header = Self { bytes };
        let stored = header.number(148..156, "checksum")?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in header.bytes.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored == unsigned || stored == signed { Ok(header) } else { Err(Fault::Checksum) }
    }

    /// The type flag.
    pub(crate) fn kind(&self) -> u8 {
        self.bytes.get(156).copied().unwrap_or(0)
    }

    /// Whether the fields behind the device numbers are GNU's (sparse maps) and not ustar's (prefix).
    pub(crate) fn is_gnu(&self) -> bool {
        self.field(257..265) == b"ustar  \0"
    }

    /// The name, with the ustar prefix where there is one.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(0..100));
        let prefix = until_nul(self.field(345..500));
        // Star's variant of ustar keeps times in the last bytes of the prefix field.
        let prefix = match self.field(257..263) {
            b"ustar\0" if self.field(508..512) == b"tar\0" => until_nul(self.field(345..476)),
            b"ustar\0" => prefix,
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The target of a link.
    pub(crate) fn link_name(&self) -> Vec<u8> {
        until_nul(self.field(157..257)).to_vec()
    }

    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) fn mode(&self) -> Result<u16, Fault> {
        let mode = self.number(100..108, "mode")?;
        // Old tars put the file type above the permissions.
        u16::try_from(mode & 0o7777).map_err(|_| Fault::Number("mode"))
    }

    /// Bytes of data behind the header.
    pub(crate) fn size(&self) -> Result<u64, Fault> {
        u64::try_from(self.number(124..136, "size")?).map_err(|_| Fault::Number("size"))
    }

    /// Seconds since 1970; may be negative.
    pub(crate) fn mtime(&self) -> Result<i64, Fault> {
        self.number(136..148, "mtime")
    }

    /// Numbers of owner and group.
    pub(crate) fn owner(&self) -> Result<(u32, u32), Fault> {
        let id = |range, name| {
            self.number(range, name).and_then(|id| u32::try_from(id).map_err(|_| Fault::Number(name)))
        };
        Ok((id(108..116, "uid")?, id(116..124, "gid")?))
    }

    /// Major and minor number of a device.
    pub(crate) fn device(&self) -> Result<(i64, i64), Fault> {
        Ok((self.number(329..337, "devmajor")?, self.number(337..345, "devminor")?))
    }

    /// Size of an old GNU sparse file with its holes.
    pub(crate) fn sparse_real_size(&self) -> Result<u64, Fault> {
        u64::try_from(self.number(483..495, "real size")?).map_err(|_| Fault::Number("real size"))
    }

    /// Segments of an old GNU sparse file, and whether a block with more follows.
    pub(crate) fn sparse_segments(&self) -> Result<(Vec<Segment>, bool), Fault> {
        Ok((segments(self.field(386..482))?, self.field(482..483) != [0]))
    }

    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    fn number(&self, range: std::ops::Range<usize>, name: &'static str) -> Result<i64, Fault> {
        number(self.field(range)).ok_or(Fault::Number(name))
    }
}

/// Segments of a block that continues an old GNU sparse map, and whether another follows.
pub(crate) fn continued_segments(block: &[u8; BLOCK]) -> Result<(Vec<Segment>, bool), Fault> {
    let (map, rest) = block.split_at(504);
    Ok((segments(map)?, rest.first() != Some(&0)))
}

fn segments(map: &[u8]) -> Result<Vec<Segment>, Fault> {
    let mut found = Vec::new();
    for slot in map.chunks_exact(24) {
        let (offset, bytes) = slot.split_at(12);
        if offset.first() == Some(&0) {
            break;
        }
        let natural = |field| number(field).and_then(|value| u64::try_from(value).ok());
        match (natural(offset), natural(bytes)) {
            (Some(offset), Some(bytes)) => found.push(Segment { offset, bytes }),
            _ => return Err(Fault::SparseMap),
        }
    }
    Ok(found)
}

/// Octal digits between blanks and NULs, or base-256 two's complement with the top bit set.
fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((&first, rest)) if first & 0x80 != 0 => {
            // Bit 6 of the first byte is the sign.
            let start = if first & 0x40 != 0 { -1 } else { 0 };
            let start = (start << 6) | i64::from(first & 0x3f);
            rest.iter().try_fold(start, |value, &byte| Some(value.checked_mul(256)? | i64::from(byte)))
        }
        _ => {
            let padding = |byte: &u8| matches!(byte, b' ' | 0);
            let text = field.get(field.iter().take_while(|byte| padding(byte)).count()..)?;
            let digits = until_nul(text).trim_ascii_end();
            digits.iter().try_fold(0_i64, |value, &digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_guessed() {
        let table: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"00000000017\0", Some(15)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\0 00017 \0", Some(15)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"0x1\0", None),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(2 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in table {
            assert_eq!(number(field), *expected, "{}", field.escape_ascii());
        }
    }
}
