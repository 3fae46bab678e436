//! A strict reader of one layer's tar stream: ustar, GNU and pax, with sparse files of every kind.
//!
//! Own code and not the `tar` crate's reader, because that one keeps a long name of any length in memory,
//! takes pax sparse files for plain ones and stops at the first zero block whatever follows. Names come out
//! as they stand in the archive; judging them is the caller's work.

use crate::content::Content;
use crate::error::{Fault, MergeError, Rule};
use crate::header::{BLOCK, RawHeader, continued_segments};
use crate::limits::Limits;
use crate::name::shown;
use crate::pax;
use crate::policy::{Policy, is_storable_xattr};
use crate::sink::{Device, Xattr};
use crate::sparse::{Form, MapReader, Segment, check_map};
use crate::stream::LayerStream;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    BlockDevice(Device),
    CharDevice(Device),
    Fifo,
    /// A device or fifo that policy drops.
    LeftOut,
}

/// One entry, its extension headers applied.
pub(crate) struct Entry {
    /// The name as archived.
    pub(crate) raw_name: Vec<u8>,
    /// The target of a link, as archived.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, with setuid, setgid and sticky, as archived.
    pub(crate) mode: u16,
    /// Seconds since 1970, clamped to what squashfs can store.
    pub(crate) mtime: u32,
    /// Owner and group; root's unless policy keeps them.
    pub(crate) owner: (u32, u32),
    /// As policy keeps them.
    pub(crate) xattrs: Vec<Xattr>,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    /// The pieces of a sparse file.
    pub(crate) segments: Option<Vec<Segment>>,
}

/// A layer's archive, read entry by entry.
pub(crate) struct Archive {
    stream: LayerStream,
    limits: Limits,
    policy: Policy,
    /// Data of the current entry not yet read, then padding.
    data_left: u64,
    padding: u64,
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
    pub(crate) fn new(stream: LayerStream, vouched: bool, limits: &Limits, policy: &Policy) -> Self {
        Self { stream, limits: *limits, policy: *policy, data_left: 0, padding: 0, vouched }
    }

    /// The stream below, at the end of the archive for its digest.
    pub(crate) fn stream(&self) -> &LayerStream {
        &self.stream
    }

    /// The next entry; `None` once the whole stream has been read and found right.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, MergeError> {
        let mut extensions = Extensions::default();
        loop {
            self.pass_over_data()?;
            self.stream.leave();
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

    /// The current entry's content, holes filled. `entry` is what `next_entry` just gave.
    pub(crate) fn content<'a>(&'a mut self, entry: &'a Entry) -> Content<'a> {
        Content::new(self, entry)
    }

    /// Reads data of the current entry.
    pub(crate) fn read_data(&mut self, block: &mut [u8]) -> Result<usize, MergeError> {
        let most = usize::try_from(self.data_left).unwrap_or(block.len()).min(block.len());
        let count = self.stream.read_some(block.get_mut(..most).unwrap_or_default())?;
        if count == 0 && most > 0 {
            return Err(self.fault(Fault::Truncated));
        }
        self.data_left -= count as u64;
        Ok(count)
    }

    fn entry(&mut self, header: &RawHeader, extensions: Extensions) -> Result<Entry, MergeError> {
        let Extensions { mut pax, gnu_name, gnu_link, .. } = extensions;
        let raw_name = pax.sparse.name.take().or(gnu_name).or(pax.path);
        let raw_name = raw_name.unwrap_or_else(|| header.name());
        self.stream.enter(&raw_name);
        let form = pax.sparse.form(matches!(header.kind(), 0 | b'0' | b'7'));
        let form = form.map_err(|rule| self.refuse(&raw_name, rule))?;
        let with_data = |archive: &Self| match pax.size {
            Some(size) => Ok(size),
            None => header.size().map_err(|fault| archive.fault(fault)),
        };
        let (mut segments, mut size) = (None, 0);
        // As Go reads them, entries other than files have no data, whatever their size field says.
        let kind = match header.kind() {
            0 | b'0' | b'7' => {
                self.expect_data(with_data(self)?);
                (segments, size) = self.pax_form(form)?;
                // Archives older than the directory type, which is older than '0', mark one by the slash.
                if header.kind() == 0 && raw_name.ends_with(b"/") { Kind::Directory } else { Kind::File }
            }
            b'S' if header.is_gnu() => {
                let stored = with_data(self)?;
                let map = self.gnu_map(header)?;
                size = header.sparse_real_size().map_err(|fault| self.fault(fault))?;
                check_map(&map, size, stored).map_err(|fault| self.fault(fault))?;
                self.expect_data(stored);
                segments = Some(map);
                Kind::File
            }
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' if self.policy.devices => Kind::CharDevice(self.device(header, &raw_name)?),
            b'4' if self.policy.devices => Kind::BlockDevice(self.device(header, &raw_name)?),
            b'6' if self.policy.fifos => Kind::Fifo,
            b'3' | b'4' | b'6' => Kind::LeftOut,
            b'5' => Kind::Directory,
            other => {
                let rule = Rule::UnknownType(char::from(other).escape_default().to_string());
                return Err(self.refuse(&raw_name, rule));
            }
        };
        let owner = self.owner(header, pax.uid.as_deref(), pax.gid.as_deref())?;
        let xattrs = if self.policy.xattrs { kept_xattrs(pax.xattrs) } else { Vec::new() };
        let link = gnu_link.or(pax.link_path).unwrap_or_else(|| header.link_name());
        let mode = header.mode().map_err(|fault| self.fault(fault))?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => header.mtime().map_err(|fault| self.fault(fault))?,
        };
        let mtime = u32::try_from(mtime.clamp(0, i64::from(u32::MAX))).unwrap_or(u32::MAX);
        Ok(Entry { raw_name, link, kind, mode, mtime, owner, xattrs, size, segments })
    }

    /// Map and size of a regular file, whose stored bytes are expected.
    fn pax_form(&mut self, form: Form) -> Result<(Option<Vec<Segment>>, u64), MergeError> {
        let (map, size) = match form {
            Form::Plain => return Ok((None, self.data_left)),
            Form::Mapped(map, size) => (map, size),
            Form::MapInData(size) => (self.map_in_data()?, size),
        };
        if map.len() > self.limits.sparse_segments {
            return Err(self.fault(Fault::SparseMap));
        }
        check_map(&map, size, self.data_left).map_err(|fault| self.fault(fault))?;
        Ok((Some(map), size))
    }

    fn map_in_data(&mut self) -> Result<Vec<Segment>, MergeError> {
        let mut reader = MapReader::new(self.limits.sparse_segments);
        loop {
            let mut block = [0; BLOCK];
            if self.data_left < BLOCK as u64 {
                return Err(self.fault(Fault::SparseMap));
            }
            if self.stream.read_up_to(&mut block)? < BLOCK {
                return Err(self.fault(Fault::Truncated));
            }
            self.data_left -= BLOCK as u64;
            if let Some(map) = reader.take(&block).map_err(|fault| self.fault(fault))? {
                return Ok(map);
            }
        }
    }

    /// The segments of an old GNU sparse file; the blocks that continue the map are read.
    fn gnu_map(&mut self, header: &RawHeader) -> Result<Vec<Segment>, MergeError> {
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
        Ok(map)
    }

    fn device(&self, header: &RawHeader, raw_name: &[u8]) -> Result<Device, MergeError> {
        let (major, minor) = header.device().map_err(|fault| self.fault(fault))?;
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(major @ 0..=0xfff), Ok(minor @ 0..=0xf_ffff)) => Ok(Device { major, minor }),
            _ => Err(self.refuse(raw_name, Rule::BadDevice(major, minor))),
        }
    }

    fn owner(
        &self,
        header: &RawHeader,
        uid: Option<&[u8]>,
        gid: Option<&[u8]>,
    ) -> Result<(u32, u32), MergeError> {
        if !self.policy.owners {
            return Ok((0, 0));
        }
        let number = |text: &[u8], key: &str| {
            let number = pax::decimal(text).and_then(|id| u32::try_from(id).ok());
            number.ok_or_else(|| self.fault(Fault::Pax(key.to_owned())))
        };
        match (uid, gid) {
            (Some(uid), Some(gid)) => Ok((number(uid, "uid")?, number(gid, "gid")?)),
            _ => {
                let (user, group) = header.owner().map_err(|fault| self.fault(fault))?;
                Ok((
                    uid.map_or(Ok(user), |uid| number(uid, "uid"))?,
                    gid.map_or(Ok(group), |gid| number(gid, "gid"))?,
                ))
            }
        }
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
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += self.read_data(rest)?;
        }
        Ok(data)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, MergeError> {
        let mut name = self.extension_data(size)?;
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn fault(&self, fault: Fault) -> MergeError {
        let (layer, offset, near) = (self.stream.layer().clone(), self.stream.position(), self.stream.near());
        MergeError::Archive { layer, offset, near, fault }
    }

    /// An error for the entry with this archived name.
    pub(crate) fn refuse(&self, raw_name: &[u8], rule: Rule) -> MergeError {
        MergeError::Entry { layer: self.stream.layer().clone(), entry: shown(raw_name), rule }
    }
}

/// Those that squashfs can hold, sorted by name; of several with one name the last.
fn kept_xattrs(found: Vec<Xattr>) -> Vec<Xattr> {
    let sorted: std::collections::BTreeMap<_, _> =
        found.into_iter().filter(|(name, _)| is_storable_xattr(name)).collect();
    sorted.into_iter().collect()
}
