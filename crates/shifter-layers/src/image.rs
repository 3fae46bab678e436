//! The merged image: the tree that all layers make, and how it is written down. Every order here is that of
//! names, so the result depends on nothing but the layers and the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::Summary;
use crate::error::MergeError;
use crate::paths::{PathId, ROOT};
use crate::policy;
use crate::scan::write_output;
use crate::sink::{Attributes, Device, Sink, Special, Tables};
use crate::stock::{Kind, Owner, Record, RecordId, Stock};
use crate::tree::{Stand, Tree};

/// What [`read_layers`](crate::read_layers) made of the layers: all of the image but the data of its files,
/// which the sink has.
pub struct Image<D> {
    stock: Stock<D>,
    tree: Tree,
    /// Files that have a name under which content is withheld.
    shadows: BTreeSet<RecordId>,
    /// Data of an empty file, for those.
    nothing: Option<D>,
    summary: Summary,
}

impl<D: Copy> Image<D> {
    /// Counts names, and finds out which files are emptied. All layers have been read, the sink is open.
    pub(crate) fn new<S: Sink<Data = D>>(
        stock: Stock<D>,
        tree: Tree,
        summary: Summary,
        sink: &mut S,
    ) -> Result<Self, MergeError> {
        let mut image = Self { stock, tree, shadows: BTreeSet::new(), nothing: None, summary };
        let mut has_data = false;
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            for path in image.tree.children(directory).filter(|path| *path != image.stock.emptied) {
                match image.tree.at(path) {
                    Stand::Nothing => {}
                    Stand::Implied | Stand::Directory(_) => directories.push(path),
                    Stand::Leaf(id) => {
                        let Some(record) = image.stock.record(id).copied() else { continue };
                        if !is_file(record.kind) {
                            continue;
                        }
                        if image.stock.shadows.contains(&path) || record.kind == Kind::Shadow {
                            has_data |= record.kind != Kind::Shadow;
                            image.shadows.insert(id);
                        }
                        if let Some(file) = image.stock.files.get_mut(record.value as usize) {
                            file.names += 1;
                        }
                    }
                }
            }
        }
        if has_data {
            // A file that came under such a name by a link only. Rare, so not worth a place in each segment.
            sink.begin_segment().map_err(write_output)?;
            image.nothing = Some(sink.file(0, true, &mut io::empty()).map_err(write_output)?);
            sink.end_segment().map_err(write_output)?;
        }
        Ok(image)
    }

    /// Writes the tree; returns its root and what was written.
    pub fn write<T: Tables<Data = D>>(&self, tables: &mut T) -> Result<(T::Inode, Summary), MergeError> {
        let mut writing =
            Writing { image: self, tables, last_number: 0, shared: BTreeMap::new(), summary: self.summary };
        let root = writing.directory(ROOT, None, true)?;
        Ok((root, writing.summary))
    }

    fn attributes(&self, record: &Record) -> Attributes<'_> {
        let (uid, gid, xattrs) = match self.stock.owners.get(record.owner) {
            Some(Owner { uid, gid, xattrs }) => (*uid, *gid, xattrs.as_slice()),
            None => (0, 0, Default::default()),
        };
        Attributes { mode: record.mode, uid, gid, mtime: record.mtime, xattrs }
    }

    fn count_names(&self, path: PathId) -> u64 {
        let mut paths = vec![path];
        let mut names = 0;
        while let Some(path) = paths.pop() {
            names += u64::from(self.tree.at(path) != Stand::Nothing);
            paths.extend(self.tree.children(path));
        }
        names
    }
}

fn is_file(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Shadow | Kind::Parked)
}

struct Writing<'a, T: Tables> {
    image: &'a Image<T::Data>,
    tables: &'a mut T,
    last_number: u32,
    /// Files with several names that have been written.
    shared: BTreeMap<RecordId, T::Inode>,
    summary: Summary,
}

impl<'a, T: Tables> Writing<'a, T> {
    fn next_number(&mut self) -> u32 {
        self.last_number += 1;
        self.last_number
    }

    /// Writes a directory after everything in it. As deep as [`Limits::depth`](crate::Limits) allows names.
    fn directory(
        &mut self,
        path: PathId,
        parent: Option<u32>,
        with_entries: bool,
    ) -> Result<T::Inode, MergeError> {
        let image = self.image;
        let number = self.next_number();
        let mut entries: Vec<(&'a [u8], T::Inode)> = Vec::new();
        for child in image.tree.sorted(&image.stock.paths, path) {
            let inode = match image.tree.at(child) {
                _ if !with_entries => {
                    self.summary.names_left_out += image.count_names(child);
                    None
                }
                Stand::Nothing => None,
                // Whatever the image has as /dev, nodes need a directory to mount theirs on.
                Stand::Leaf(_) if child == image.stock.emptied => {
                    Some(self.directory(child, Some(number), false)?)
                }
                Stand::Leaf(id) => self.leaf(id)?,
                Stand::Implied | Stand::Directory(_) => {
                    Some(self.directory(child, Some(number), child != image.stock.emptied)?)
                }
            };
            entries.extend(inode.map(|inode| (image.stock.paths.name(child), inode)));
        }
        let record = match image.tree.at(path) {
            Stand::Directory(id) => image.stock.record(id),
            _ => None,
        };
        let attributes = match record {
            Some(record) => image.attributes(record),
            None => {
                Attributes { mode: policy::IMPLIED_DIRECTORY_MODE, uid: 0, gid: 0, mtime: 0, xattrs: &[] }
            }
        };
        self.summary.directories += 1;
        self.tables.directory(number, parent.unwrap_or(number), &attributes, &entries).map_err(write_output)
    }

    fn leaf(&mut self, id: RecordId) -> Result<Option<T::Inode>, MergeError> {
        let image = self.image;
        let Some(record) = image.stock.record(id) else { return Ok(None) };
        let attributes = image.attributes(record);
        let device = Device::decoded(record.value);
        let special = match record.kind {
            Kind::Symlink => {
                self.summary.symlinks += 1;
                let (number, target) = (self.next_number(), image.stock.paths.text(record.value));
                return self.tables.symlink(number, target, &attributes).map(Some).map_err(write_output);
            }
            kind if is_file(kind) => return self.file(id, record, attributes).map(Some),
            Kind::BlockDevice => Special::BlockDevice(device),
            Kind::CharDevice => Special::CharDevice(device),
            Kind::Fifo => Special::Fifo,
            _ => {
                self.summary.names_left_out += 1;
                return Ok(None);
            }
        };
        self.summary.specials += 1;
        let number = self.next_number();
        self.tables.special(number, special, &attributes).map(Some).map_err(write_output)
    }

    fn file(
        &mut self,
        id: RecordId,
        record: &Record,
        mut attributes: Attributes<'_>,
    ) -> Result<T::Inode, MergeError> {
        if let Some(inode) = self.shared.get(&id) {
            self.summary.hard_links += 1;
            return Ok(*inode);
        }
        let image = self.image;
        let lost = || write_output(io::Error::other("the merge lost track of a file; this is a defect"));
        let file = image.stock.files.get(record.value as usize).ok_or_else(lost)?;
        let (mut data, mut size) = (file.data, file.size);
        if image.shadows.contains(&id) {
            attributes.mode = policy::SHADOW_MODE;
            size = 0;
            if let (Some(nothing), true) = (image.nothing, record.kind != Kind::Shadow) {
                data = nothing;
            }
        }
        let number = self.next_number();
        let inode = self.tables.file(number, data, &attributes, file.names).map_err(write_output)?;
        if file.names > 1 {
            self.shared.insert(id, inode);
        }
        self.summary.files += 1;
        self.summary.file_bytes += size;
        Ok(inode)
    }
}
