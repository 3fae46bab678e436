//! The second half of an image: inodes, directories and the tables that lead to them. Inodes go straight to
//! the image, directories to a temporary, since they come behind all inodes.

use std::collections::HashMap;

use super::directory::write_listing;
use super::encoder::{Codec, Encoder};
use super::error::WriteError;
use super::image::{Image, SUPERBLOCK_BYTES};
use super::inode::{
    ABSENT, Attributes, DirectoryInode, FileInode, Head, Inode, Kind, Special, kind_of, put_directory,
    put_file, put_special, put_symlink,
};
use super::metadata::{MetadataWriter, append_table};
use super::spool::{SpoolDir, SpoolFile};
use super::store::{Fragment, Run, Store};
use super::tails::Tails;
use super::xattrs::Xattrs;
use super::{Data, FileData, NONE, Settings, Writer};

/// A table that the image does not have.
const NO_TABLE: u64 = u64::MAX;

/// Superblock flags (`squashfs_fs.h`).
mod flags {
    pub(super) const NOTHING_COMPRESSED: u16 = 1 | 1 << 1 | 1 << 3 | 1 << 8 | 1 << 11;
    pub(super) const ALWAYS_FRAGMENTS: u16 = 1 << 5;
    pub(super) const DUPLICATES_CHECKED: u16 = 1 << 6;
    pub(super) const EXPORT: u16 = 1 << 7;
    pub(super) const NO_XATTRS: u16 = 1 << 9;
    pub(super) const COMPRESSOR_OPTIONS: u16 = 1 << 10;
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image without padding.
    pub bytes_used: u64,
    /// Inodes, each counted once whatever its names.
    pub inodes: u32,
    /// Fragment blocks.
    pub fragments: u32,
}

/// An image in its table phase. Inodes come in any order that has a directory behind what it lists.
pub struct Tables {
    settings: Settings,
    spool: SpoolDir,
    files: Vec<FileData>,
    tails: Tails,
    runs: Vec<Run>,
    words: Vec<u32>,
    fragments: Vec<Fragment>,
    /// The image's number of a fragment by the packer's.
    fragment_numbers: Vec<u32>,
    inode_table_start: u64,
    inodes: MetadataWriter<Image>,
    directories: MetadataWriter<SpoolFile>,
    xattrs: Xattrs,
    ids: Vec<u32>,
    id_numbers: HashMap<u32, u16>,
    /// The reference of each inode number, or [`NO_TABLE`].
    export: Vec<u64>,
    bytes: Vec<u8>,
}

impl Tables {
    pub(super) fn new(writer: Writer) -> Result<Self, WriteError> {
        let Writer { settings, spool, store, tails, files, .. } = writer;
        let Store { image, runs, words, fragments, .. } = store;
        let mut fragment_numbers = vec![ABSENT; fragments.len()];
        let mut kept = Vec::new();
        for (fragment, number) in fragments.into_iter().zip(&mut fragment_numbers) {
            if let Some(fragment) = fragment {
                *number = super::number(kept.len(), "fragments")?;
                kept.push(fragment);
            }
        }
        Ok(Self {
            inode_table_start: image.position(),
            inodes: MetadataWriter::new(image, &settings.encoder)?,
            directories: MetadataWriter::new(SpoolFile::create(&spool)?, &settings.encoder)?,
            settings,
            spool,
            files,
            tails,
            runs,
            words,
            fragments: kept,
            fragment_numbers,
            xattrs: Xattrs::default(),
            ids: Vec::new(),
            id_numbers: HashMap::new(),
            export: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// A regular file with the data written before; `links` is how many names it will have.
    pub fn file(
        &mut self,
        number: u32,
        data: Data,
        attributes: &Attributes<'_>,
        links: u32,
    ) -> Result<Inode, WriteError> {
        let head = self.head(Kind::File, number, attributes)?;
        let missing = || WriteError::NotKept(data.number());
        let file = self.files.get(data.number() as usize).ok_or_else(missing)?;
        let mut inode =
            FileInode { start: 0, size: file.size, sparse: 0, links, fragment: ABSENT, offset: 0 };
        let mut words = 0..0;
        if file.run != NONE {
            let run = self.runs.get(file.run as usize).filter(|run| run.stored).ok_or_else(missing)?;
            inode.start = run.start;
            inode.sparse = u64::from(run.zeros) * u64::from(self.settings.encoder.block_size);
            words = run.first..run.first + run.count as usize;
        }
        if file.tail != NONE {
            let tail = self.tails.source(file.tail).ok_or_else(missing)?;
            let kept = self.fragment_numbers.get(tail.fragment as usize);
            inode.fragment = kept.copied().filter(|kept| *kept != ABSENT).ok_or_else(missing)?;
            inode.offset = tail.offset;
        }
        put_file(&mut self.bytes, &head, &inode);
        let words = self.words.get(words).unwrap_or_default();
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.write_inode(&head)
    }

    /// A symbolic link.
    pub fn symlink(
        &mut self,
        number: u32,
        target: &[u8],
        attributes: &Attributes<'_>,
        links: u32,
    ) -> Result<Inode, WriteError> {
        let head = self.head(Kind::Symlink, number, attributes)?;
        put_symlink(&mut self.bytes, &head, target, links)?;
        self.write_inode(&head)
    }

    /// A device, named pipe or socket.
    pub fn special(
        &mut self,
        number: u32,
        special: Special,
        attributes: &Attributes<'_>,
        links: u32,
    ) -> Result<Inode, WriteError> {
        let head = self.head(kind_of(special), number, attributes)?;
        put_special(&mut self.bytes, &head, special, links)?;
        self.write_inode(&head)
    }

    /// A directory with its entries, sorted by the bytes of their names. The root's `parent` is of no
    /// consequence; others' is what `..` shows.
    pub fn directory<N: AsRef<[u8]>>(
        &mut self,
        number: u32,
        parent: u32,
        attributes: &Attributes<'_>,
        entries: impl IntoIterator<Item = (N, Inode)>,
    ) -> Result<Inode, WriteError> {
        let head = self.head(Kind::Directory, number, attributes)?;
        let listing = write_listing(&mut self.directories, entries)?;
        let inode = DirectoryInode {
            place: listing.place,
            size: listing.size,
            links: listing.directories.saturating_add(2),
            parent,
            index: &listing.index,
            indexes: listing.indexes,
        };
        put_directory(&mut self.bytes, &head, &inode)?;
        self.write_inode(&head)
    }

    /// Writes everything that is left, the superblock last, and waits until all of it is on disk.
    pub fn finish(self, root: Inode) -> Result<Summary, WriteError> {
        if root.kind != Kind::Directory {
            return Err(WriteError::Root);
        }
        if let Some(missing) = self.export.iter().position(|reference| *reference == NO_TABLE) {
            return Err(WriteError::NumberMissing(u32::try_from(missing + 1).unwrap_or(u32::MAX)));
        }
        let encoder = &self.settings.encoder;
        let (mut image, _) = self.inodes.finish()?;
        let directory_table_start = image.position();
        let (mut directories, _) = self.directories.finish()?;
        directories.copy_to(&mut image)?;

        let entry = |fragment: &Fragment| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&fragment.start.to_le_bytes());
            bytes[8..12].copy_from_slice(&fragment.word.to_le_bytes());
            bytes
        };
        let fragments: Vec<u8> = self.fragments.iter().flat_map(entry).collect();
        let (image, fragment_table_start) = match fragments.is_empty() {
            true => (image, NO_TABLE),
            false => append_table(image, encoder, &fragments, &[])?,
        };
        let export: Vec<u8> = self.export.iter().flat_map(|reference| reference.to_le_bytes()).collect();
        let (image, export_table_start) = append_table(image, encoder, &export, &[])?;
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let (image, id_table_start) = append_table(image, encoder, &ids, &[])?;
        let (image, xattr_table_start) = self.xattrs.finish(image, encoder)?;

        let summary = Summary {
            bytes_used: image.position(),
            inodes: u32::try_from(self.export.len()).unwrap_or(u32::MAX),
            fragments: u32::try_from(self.fragments.len()).unwrap_or(u32::MAX),
        };
        let mut superblock = Superblock::default();
        superblock.put(b"hsqs");
        superblock.put_words(&[
            summary.inodes,
            self.settings.modified,
            encoder.block_size,
            summary.fragments,
        ]);
        let xattr_flag = if xattr_table_start.is_none() { flags::NO_XATTRS } else { 0 };
        superblock.put_halves(&[
            encoder.codec.number(),
            u16::try_from(encoder.block_size.trailing_zeros()).unwrap_or(u16::MAX),
            flags_of(encoder) | xattr_flag,
            u16::try_from(self.ids.len()).unwrap_or(u16::MAX),
        ]);
        superblock.put_halves(&[4, 0]);
        superblock.put_longs(&[
            root.reference,
            summary.bytes_used,
            id_table_start,
            xattr_table_start.unwrap_or(NO_TABLE),
            self.inode_table_start,
            directory_table_start,
            fragment_table_start,
            export_table_start,
        ]);
        image.finish(&superblock.bytes)?;
        Ok(summary)
    }

    fn head(&mut self, kind: Kind, number: u32, attributes: &Attributes<'_>) -> Result<Head, WriteError> {
        self.bytes.clear();
        let Attributes { mode, uid, gid, mtime, xattrs } = *attributes;
        let (uid, gid) = (self.id(uid)?, self.id(gid)?);
        let xattrs = self.xattrs.number(xattrs, &self.settings.encoder, &self.spool)?;
        Ok(Head { kind, mode, uid, gid, mtime, number, xattrs })
    }

    fn id(&mut self, id: u32) -> Result<u16, WriteError> {
        if let Some(number) = self.id_numbers.get(&id) {
            return Ok(*number);
        }
        let limit = u64::from(u16::MAX);
        let number = u16::try_from(self.ids.len()).ok().filter(|number| *number < u16::MAX);
        let number = number.ok_or(WriteError::Limit { what: "different owners", limit })?;
        self.ids.push(id);
        self.id_numbers.insert(id, number);
        Ok(number)
    }

    fn write_inode(&mut self, head: &Head) -> Result<Inode, WriteError> {
        let place = self.inodes.place();
        let reference = place.block << 16 | u64::from(place.offset);
        let Some(index) = head.number.checked_sub(1).map(|index| index as usize) else {
            return Err(WriteError::Number(0));
        };
        if self.export.len() <= index {
            self.export.resize(index + 1, NO_TABLE);
        }
        match self.export.get_mut(index) {
            Some(slot) if *slot == NO_TABLE => *slot = reference,
            _ => return Err(WriteError::Number(head.number)),
        }
        self.inodes.write(&self.bytes)?;
        Ok(Inode { reference, number: head.number, kind: head.kind })
    }
}

fn flags_of(encoder: &Encoder) -> u16 {
    let mut flags = flags::ALWAYS_FRAGMENTS | flags::DUPLICATES_CHECKED | flags::EXPORT;
    if encoder.codec == Codec::None {
        flags |= flags::NOTHING_COMPRESSED;
    }
    if !encoder.options().is_empty() {
        flags |= flags::COMPRESSOR_OPTIONS;
    }
    flags
}

/// The superblock, filled from front to back.
struct Superblock {
    bytes: [u8; SUPERBLOCK_BYTES],
    length: usize,
}

impl Default for Superblock {
    fn default() -> Self {
        Self { bytes: [0; SUPERBLOCK_BYTES], length: 0 }
    }
}

impl Superblock {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.length += bytes.len();
    }

    fn put_halves(&mut self, halves: &[u16]) {
        halves.iter().for_each(|half| self.put(&half.to_le_bytes()));
    }

    fn put_words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.put(&word.to_le_bytes()));
    }

    fn put_longs(&mut self, longs: &[u64]) {
        longs.iter().for_each(|long| self.put(&long.to_le_bytes()));
    }
}
