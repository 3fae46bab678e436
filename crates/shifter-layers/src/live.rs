//! Which files the image can still need, decided while layers are read, newest first. What is told must
//! never be too little: a file given up here cannot come back. It may be too much: where an older layer,
//! not read yet, decides, a file counts as needed, and at worst the image holds data that nothing names.
//!
//! A file is *given up* if a newer layer hides its path. That is certain only if the file lies where its
//! name says, and it does not if an older layer has a symlink on the way
//! ([`resolve`](crate::resolve)). A directory entry replaces such a link, so a file is *sure* of its place
//! when its layer has an entry for each directory above it, as nearly all builders make them. What newer
//! layers hide may be taken by name even if *they* are not sure: where a link leads their entry elsewhere,
//! the place below the link does not exist for older layers either.
//!
//! Hard links keep files that are hidden. One to a sure entry of its own layer is as good as that entry's
//! name. Any other may lead to an older layer, by whatever way, but its last component stays: all files with
//! that last component, in this layer and all older ones, are needed.

use std::collections::HashSet;

use crate::paths::{NOWHERE, PathId, Paths, ROOT};
use crate::stock::{Kind, Record};

/// Newer layers have something other than a directory here, or hide what is here.
const HIDDEN: u8 = 1;
/// Newer layers have a directory here.
const DIRECTORY: u8 = 2;
/// Newer layers hide everything below.
const OPAQUE: u8 = 4;

/// In place of a file's number: a directory, or a leaf that is no file.
const A_DIRECTORY: u32 = u32::MAX;
const NO_FILE: u32 = u32::MAX - 1;

/// What the layer being read has at a path that is sure.
#[derive(Clone, Copy)]
struct Own {
    layer: u32,
    file: u32,
}

/// See the module.
pub(crate) struct Liveness {
    /// By path: what newer layers did.
    above: Vec<u8>,
    own: Vec<Own>,
    /// Last components of hard links' targets.
    linked: HashSet<Box<[u8]>>,
    /// Counts layers from 1.
    layer: u32,
    /// No older layer follows: every place is sure.
    is_oldest: bool,
    /// Something in this layer makes it uncertain which of its own entries a hard link means.
    is_doubtful: bool,
    /// Sure names of this layer's files, earlier ones included.
    names: Vec<(PathId, u32)>,
    /// Number of this layer's first file.
    first_file: u32,
    /// What the sink was told of each.
    told: Vec<bool>,
    /// Files needed whatever else is true.
    kept: Vec<bool>,
}

impl Liveness {
    /// Everything below `emptied` is hidden from the beginning.
    pub(crate) fn new(emptied: PathId) -> Self {
        let mut above = vec![0; emptied as usize + 1];
        if let Some(flags) = above.get_mut(emptied as usize) {
            *flags = DIRECTORY | OPAQUE;
        }
        Self {
            above,
            own: Vec::new(),
            linked: HashSet::new(),
            layer: 0,
            is_oldest: false,
            is_doubtful: false,
            names: Vec::new(),
            first_file: 0,
            told: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// The next older layer begins; its first file will have this number.
    pub(crate) fn begin_layer(&mut self, first_file: u32, is_oldest: bool) {
        self.layer += 1;
        (self.is_oldest, self.is_doubtful, self.first_file) = (is_oldest, false, first_file);
        self.names.clear();
        self.told.clear();
        self.kept.clear();
    }

    /// An entry for a directory.
    pub(crate) fn directory(&mut self, paths: &Paths, path: PathId) {
        if path == ROOT {
            return;
        }
        match self.is_sure(paths, path) {
            true => self.set_own(paths, path, A_DIRECTORY),
            false => self.is_doubtful = true,
        }
    }

    /// Whether a file about to be added is live.
    pub(crate) fn is_file_live(&self, paths: &Paths, path: PathId) -> bool {
        !self.is_sure(paths, path) || self.is_needed(paths, path)
    }

    /// The file was added; `told` is what the sink was told.
    pub(crate) fn file(&mut self, paths: &Paths, path: PathId, file: u32, told: bool) {
        self.told.push(told);
        self.kept.push(false);
        self.name(paths, path, file);
    }

    /// A file that aufs parked: whether a hard link leads to it is not followed here.
    pub(crate) fn parked(&mut self) {
        self.told.push(true);
        self.kept.push(true);
    }

    /// An entry that is neither file nor directory.
    pub(crate) fn other(&mut self, paths: &Paths, path: PathId) {
        self.name(paths, path, NO_FILE);
    }

    /// A hard link.
    pub(crate) fn link(&mut self, paths: &Paths, path: PathId, target: PathId) {
        let own = self.own(target).filter(|file| *file != A_DIRECTORY);
        if own.is_none() || self.is_doubtful {
            self.linked.insert(paths.name(target).into());
        }
        self.name(paths, path, own.unwrap_or(NO_FILE));
    }

    /// At the layer's end: its files, and whether each is needed and what the sink was told.
    pub(crate) fn verdicts(&mut self, paths: &Paths) -> impl Iterator<Item = (u32, bool, bool)> {
        for (path, file) in std::mem::take(&mut self.names) {
            let is_current = self.own(path) == Some(file);
            let is_needed = (is_current && self.is_needed(paths, path)) || self.is_linked(paths, path);
            if is_needed {
                self.keep(file);
            }
        }
        let needed_and_told = self.kept.iter().copied().zip(self.told.iter().copied());
        (self.first_file..).zip(needed_and_told).map(|(file, (needed, told))| (file, needed, told))
    }

    /// What these entries of the layer that ended hide of older ones.
    pub(crate) fn end_layer(&mut self, paths: &Paths, records: &[Record]) {
        self.above.resize(paths.count(), 0);
        for record in records {
            let (mark, holder) = match record.kind {
                Kind::Directory => (DIRECTORY, record.path),
                Kind::Opaque => (OPAQUE, record.path),
                Kind::Whiteout => (HIDDEN, ROOT),
                Kind::Parked => continue,
                _ => (HIDDEN, paths.parent(record.path)),
            };
            let holds = !matches!(record.kind, Kind::Whiteout);
            for above in paths.upwards(holder).take_while(|_| holds) {
                match self.above.get_mut(above as usize) {
                    Some(flags) if *flags & DIRECTORY == 0 => *flags |= DIRECTORY,
                    _ => break,
                }
            }
            if let Some(flags) = self.above.get_mut(record.path as usize) {
                *flags |= mark;
            }
        }
    }

    fn name(&mut self, paths: &Paths, path: PathId, file: u32) {
        if !self.is_sure(paths, path) {
            self.is_doubtful = true;
            self.keep(file);
            return;
        }
        // What lay in the directory is gone, but its entries still look like this layer's own.
        self.is_doubtful |= self.own(path) == Some(A_DIRECTORY);
        self.set_own(paths, path, file);
        if file != NO_FILE {
            self.names.push((path, file));
        }
    }

    fn keep(&mut self, file: u32) {
        let place = file.checked_sub(self.first_file).map(|place| place as usize);
        if let Some(kept) = place.and_then(|place| self.kept.get_mut(place)) {
            *kept = true;
        }
    }

    /// Whether an entry lies where its name says, whatever older layers hold.
    fn is_sure(&self, paths: &Paths, path: PathId) -> bool {
        let parent = paths.parent(path);
        self.is_oldest || parent == ROOT || self.own(parent) == Some(A_DIRECTORY)
    }

    fn is_needed(&self, paths: &Paths, path: PathId) -> bool {
        !self.is_hidden(paths, path) || self.is_linked(paths, path)
    }

    fn is_linked(&self, paths: &Paths, path: PathId) -> bool {
        !self.linked.is_empty() && self.linked.contains(paths.name(path))
    }

    fn is_hidden(&self, paths: &Paths, path: PathId) -> bool {
        let flags = |path: PathId| self.above.get(path as usize).copied().unwrap_or(0);
        flags(path) & (HIDDEN | DIRECTORY) != 0
            || paths
                .upwards(paths.parent(path))
                .chain([ROOT])
                .any(|path| flags(path) & (HIDDEN | OPAQUE) != 0)
    }

    fn own(&self, path: PathId) -> Option<u32> {
        self.own.get(path as usize).filter(|own| own.layer == self.layer).map(|own| own.file)
    }

    fn set_own(&mut self, paths: &Paths, path: PathId, file: u32) {
        if self.own.len() < paths.count() {
            self.own.resize(paths.count(), Own { layer: 0, file: NOWHERE });
        }
        if let Some(own) = self.own.get_mut(path as usize) {
            *own = Own { layer: self.layer, file };
        }
    }
}
