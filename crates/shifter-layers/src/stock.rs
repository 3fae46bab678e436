//! What all layers hold, entry by entry, in as little memory as it takes: 20 bytes for each entry, 16 more for
//! a file, and what its path takes if no other entry has it.

use std::collections::HashMap;
use std::ops::Range;

use crate::name::components;
use crate::paths::{PathId, Paths, ROOT};
use crate::policy;
use crate::sink::Xattr;

/// Number of an entry, in the order of reading: newest layer first.
pub(crate) type RecordId = u32;

/// What an entry is, and what its value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Value: its number in [`Stock::files`].
    File,
    /// A file whose content policy withholds; its value is that of an empty file.
    Shadow,
    Directory,
    /// Value: its target's text.
    Symlink,
    /// Value: its target's text, as archived.
    HardLink,
    /// Value: the device's packed numbers.
    BlockDevice,
    CharDevice,
    Fifo,
    /// A device or fifo that is dropped: it hides what was there, and is not written.
    LeftOut,
    /// Hides what older layers have at this path.
    Whiteout,
    /// Hides what older layers have in this directory.
    Opaque,
    /// A file that aufs parked below `.wh..wh.plnk`: not part of the image, but hard links lead to it.
    Parked,
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// The path as archived, before links of older layers are followed.
    pub(crate) path: PathId,
    pub(crate) value: u32,
    pub(crate) mtime: u32,
    pub(crate) owner: u32,
    /// Policy applied.
    pub(crate) mode: u16,
    pub(crate) kind: Kind,
}

/// A regular file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<D> {
    pub(crate) size: u64,
    pub(crate) data: D,
    /// Names that it has in the image; counted when all layers are known.
    pub(crate) names: u32,
}

/// Everything read so far.
pub(crate) struct Stock<D> {
    pub(crate) paths: Paths,
    pub(crate) records: Vec<Record>,
    pub(crate) files: Vec<File<D>>,
    pub(crate) owners: Owners,
    /// The records of each layer, newest first.
    pub(crate) layers: Vec<Range<usize>>,
    /// Where policy empties files.
    pub(crate) shadows: [PathId; 4],
    /// What policy empties of everything.
    pub(crate) emptied: PathId,
}

impl<D: Copy> Stock<D> {
    pub(crate) fn new() -> Self {
        let mut paths = Paths::new();
        let shadows = policy::SHADOWS.map(|name| paths.walk(ROOT, components(name)));
        let emptied = paths.walk(ROOT, components(policy::EMPTIED_DIRECTORY));
        Self {
            paths,
            records: Vec::new(),
            files: Vec::new(),
            owners: Owners::default(),
            layers: Vec::new(),
            shadows,
            emptied,
        }
    }

    /// Adds a file; returns its number.
    pub(crate) fn add_file(&mut self, size: u64, data: D) -> u32 {
        self.files.push(File { size, data, names: 0 });
        u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn record(&self, id: RecordId) -> Option<&Record> {
        self.records.get(id as usize)
    }
}

/// Owner, group and extended attributes, each combination stored once.
#[derive(Default)]
pub(crate) struct Owners {
    list: Vec<Owner>,
    numbers: HashMap<Owner, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) xattrs: Vec<Xattr>,
}

impl Owners {
    /// The number of this combination.
    pub(crate) fn number(&mut self, owner: Owner) -> u32 {
        if let Some(number) = self.numbers.get(&owner) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(owner.clone());
        self.numbers.insert(owner, number);
        number
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Owner> {
        self.list.get(number as usize)
    }
}
