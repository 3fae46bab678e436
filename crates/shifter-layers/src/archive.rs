//! A strict reader of one layer's tar stream: ustar, GNU and pax, with old GNU sparse files.
//!
//! Own code and not the `tar` crate's reader, because that one keeps a long name of any length in memory,
//! takes pax sparse files for plain ones and stops at the first zero block whatever follows. Names come out
//! as they stand in the archive; judging them is the caller's work.

use std::io::Write;

use crate::error::{Fault, MergeError, Rule};
use crate::header::{BLOCK, RawHeader, Segment, continued_segments};
use crate::limits::Limits;
use crate::name::shown;
use crate::pax;
use crate::stream::LayerStream;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// Device nodes and fifos.
    Special,
}

/// One entry, its extension headers applied.
pub(crate) struct Entry {
    /// The name as archived.
    pub(crate) raw_name: Vec<u8>,
    /// The target of a link, as archived.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u16,
    /// Seconds since 1970, clamped to what squashfs can store.
    pub(crate) mtime: u32,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    /// Counts entries from 0.
    pub(crate) ordinal: u32,
    /// The pieces of a sparse file.
    segments: Option<Vec<Segment>>,
}

/// A layer's archive, read entry by entry.
pub(crate) struct Archive {
    stream: LayerStream,
    limits: Limits,
    /// Data of the current entry not yet read, then padding.
    data_left: u64,
    padding: u64,
    next_ordinal: u32,
    /// Whether a diff_id proves the stream whole, so that the end marker may be missing.
    vouched: bool,
}

#[derive(Default)]
struct Extensions {
    pax: pax::Records,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pending: bool,
}

impl Archive {
    /// Reads `stream`, the uncompressed layer.
    pub(crate) fn new(stream: LayerStream, vouched: bool, limits: &Limits) -> Self {
        Self { stream, limits: *limits, data_left: 0, padding: 0, next_ordinal: 0, vouched }
    }

    /// The stream below, at the end of the archive for its digest.
    pub(crate) fn stream_mut(&mut self) -> &mut LayerStream {
        &mut self.stream
    }

    /// The next entry; `None` once the whole stream has been read and found right.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, MergeError> {
        let mut extensions = Extensions::default();
        loop {
            self.pass_over_data()?;
            let Some(header) = self.next_header()? else {
                return match extensions.pending {
                    true => Err(self.fault(Fault::DanglingExtension)),
                    false => Ok(None),
                };
            };
            let size = header.size().map_err(|fault| self.fault(fault));
            match header.kind() {
                b'x' => {
                    let data = self.extension_data(size?)?;
                    extensions.pax = pax::parse(&data).map_err(|fault| self.fault(fault))?;
                    extensions.pending = true;
                }
                b'L' => {
                    extensions.gnu_name = Some(self.long_name(size?)?);
                    extensions.pending = true;
                }
                b'K' => {
                    extensions.gnu_link = Some(self.long_name(size?)?);
                    extensions.pending = true;
                }
                // Global records and volume labels: nothing in them that images may depend on.
                b'g' | b'V' => self.expect_data(size?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Writes the current entry's content, holes filled. `entry` is what `next_entry` just gave.
    pub(crate) fn copy_data(&mut self, entry: &Entry, out: &mut dyn Write) -> Result<(), MergeError> {
        let Some(segments) = &entry.segments else {
            return self.copy_bytes(entry.size, out);
        };
        let mut at = 0;
        for segment in segments {
            write_zeros(segment.offset - at, out)?;
            self.copy_bytes(segment.bytes, out)?;
            at = segment.offset + segment.bytes;
        }
        write_zeros(entry.size - at, out)
    }

    fn entry(&mut self, header: &RawHeader, extensions: Extensions) -> Result<Entry, MergeError> {
        let Extensions { pax, gnu_name, gnu_link, .. } = extensions;
        let raw_name = gnu_name.or(pax.path).unwrap_or_else(|| header.name());
        let refused = |archive: &Self, rule| archive.refuse(&raw_name, rule);
        if let Some(key) = pax.sparse_key {
            return Err(refused(self, Rule::PaxSparse(key)));
        }
        let with_data = |archive: &Self| match pax.size {
            Some(size) => Ok(size),
            None => header.size().map_err(|fault| archive.fault(fault)),
        };
        let mut segments = None;
        // As Go reads them, entries other than files have no data, whatever their size field says.
        let (kind, size) = match header.kind() {
            0 | b'0' | b'7' => {
                let size = with_data(self)?;
                self.expect_data(size);
                // Archives older than the directory type mark one by the slash.
                let kind = if raw_name.ends_with(b"/") { Kind::Directory } else { Kind::File };
                (kind, size)
            }
            b'S' if header.is_gnu() => {
                let stored = with_data(self)?;
                let (map, size) = self.sparse_map(header, stored)?;
                self.expect_data(stored);
                segments = Some(map);
                (Kind::File, size)
            }
            b'1' => (Kind::HardLink, 0),
            b'2' => (Kind::Symlink, 0),
            b'3' | b'4' | b'6' => (Kind::Special, 0),
            b'5' => (Kind::Directory, 0),
            other => {
                return Err(refused(self, Rule::UnknownType(char::from(other).escape_default().to_string())));
            }
        };
        let link = gnu_link.or(pax.link_path).unwrap_or_else(|| header.link_name());
        let mode = header.mode().map_err(|fault| self.fault(fault))?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => header.mtime().map_err(|fault| self.fault(fault))?,
        };
        let mtime = u32::try_from(mtime.clamp(0, i64::from(u32::MAX))).unwrap_or(u32::MAX);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        Ok(Entry { raw_name, link, kind, mode, mtime, size, ordinal, segments })
    }

    /// The header at the next block; `None` after the end marker, when nothing but zeros followed.
    fn next_header(&mut self) -> Result<Option<RawHeader>, MergeError> {
        let mut block = [0; BLOCK];
        match self.stream.read_up_to(&mut block)? {
            0 if self.vouched => return Ok(None),
            0 => return Err(self.fault(Fault::NoEndMarker)),
            BLOCK => {}
            _ => return Err(self.fault(Fault::Truncated)),
        }
        if block != [0; BLOCK] {
            return RawHeader::new(block).map(Some).map_err(|fault| self.fault(fault));
        }
        loop {
            let chunk = self.stream.chunk()?;
            let there = chunk.len();
            let zeros = chunk.iter().take_while(|&&byte| byte == 0).count();
            self.stream.consume(zeros);
            if there == 0 {
                return Ok(None);
            }
            if zeros < there {
                return Err(self.fault(Fault::TrailingData));
            }
        }
    }

    fn expect_data(&mut self, size: u64) {
        let block = BLOCK as u64;
        self.data_left = size;
        self.padding = (block - size % block) % block;
    }

    fn pass_over_data(&mut self) -> Result<(), MergeError> {
        for count in [self.data_left, self.padding] {
            if self.stream.skip(count)? < count {
                return Err(self.fault(Fault::Truncated));
            }
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    fn extension_data(&mut self, size: u64) -> Result<Vec<u8>, MergeError> {
        if size > self.limits.extension_bytes {
            return Err(self.fault(Fault::ExtensionTooLarge(size)));
        }
        self.expect_data(size);
        let mut data = Vec::new();
        self.copy_bytes(size, &mut data)?;
        Ok(data)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, MergeError> {
        let mut name = self.extension_data(size)?;
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    /// The segments of an old GNU sparse file and its size; the blocks that continue the map are read.
    fn sparse_map(&mut self, header: &RawHeader, stored: u64) -> Result<(Vec<Segment>, u64), MergeError> {
        let size = header.sparse_real_size().map_err(|fault| self.fault(fault))?;
        let (mut map, mut more) = header.sparse_segments().map_err(|fault| self.fault(fault))?;
        while more {
            let mut block = [0; BLOCK];
            if self.stream.read_up_to(&mut block)? < BLOCK {
                return Err(self.fault(Fault::Truncated));
            }
            let (segments, another) = continued_segments(&block).map_err(|fault| self.fault(fault))?;
            map.extend(segments);
            more = another;
            if map.len() > self.limits.sparse_segments {
                return Err(self.fault(Fault::SparseMap));
            }
        }
        let (mut end, mut sum) = (0_u64, 0_u64);
        for segment in &map {
            // Both are below 2^63 by their parser, so neither sum can wrap.
            if segment.offset < end {
                return Err(self.fault(Fault::SparseMap));
            }
            end = segment.offset + segment.bytes;
            sum = sum.saturating_add(segment.bytes);
        }
        if end > size || sum != stored {
            return Err(self.fault(Fault::SparseMap));
        }
        Ok((map, size))
    }

    fn copy_bytes(&mut self, count: u64, out: &mut dyn Write) -> Result<(), MergeError> {
        let mut left = count;
        while left > 0 {
            let chunk = self.stream.chunk()?;
            let step = usize::try_from(left).unwrap_or(chunk.len()).min(chunk.len());
            if step == 0 {
                return Err(self.fault(Fault::Truncated));
            }
            out.write_all(chunk.get(..step).unwrap_or_default())
                .map_err(|source| MergeError::WriteOutput { source })?;
            self.stream.consume(step);
            left -= step as u64;
            self.data_left -= step as u64;
        }
        Ok(())
    }

    fn fault(&self, fault: Fault) -> MergeError {
        MergeError::Archive { layer: self.stream.layer().clone(), offset: self.stream.position(), fault }
    }

    /// An error for the entry with this archived name.
    pub(crate) fn refuse(&self, raw_name: &[u8], rule: Rule) -> MergeError {
        MergeError::Entry { layer: self.stream.layer().clone(), entry: shown(raw_name), rule }
    }
}

fn write_zeros(mut count: u64, out: &mut dyn Write) -> Result<(), MergeError> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while count > 0 {
        let step = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
        out.write_all(ZEROS.get(..step).unwrap_or(&ZEROS))
            .map_err(|source| MergeError::WriteOutput { source })?;
        count -= step as u64;
    }
    Ok(())
}
