//! The first pass: every layer read once, oldest first, into a tree of names. All judging of untrusted
//! entries happens here; the second pass only copies what this one accepted.

use std::collections::BTreeMap;

use crate::archive::{Archive, Entry, Kind};
use crate::error::{MergeError, Rule};
use crate::limits::Limits;
use crate::name::{normalize, shown, split_last};
use crate::resolve::follow_older_links;
use crate::stream::{FileIdentity, LayerStream};
use crate::tree::{Attributes, Content, Directory, Found, Inode, InodeId, NotADirectory};
use crate::{Layer, Summary};

/// In front of a name that hides one of an older layer (image-spec layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// In front of the names that aufs kept for itself in old layers.
const AUFS: &[u8] = b".wh..wh.";
/// Marks a directory that hides all of its older contents.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the first pass found out.
#[derive(Default)]
pub(crate) struct Index {
    /// The image as the newest layer leaves it.
    pub(crate) root: Directory,
    /// By layer, then by order of entries.
    pub(crate) inodes: Vec<Inode>,
    /// The layer files, to be recognized in the second pass.
    pub(crate) identities: Vec<FileIdentity>,
    /// Entries read, and directories that they implied.
    entries: u64,
    /// Bytes of their names and targets.
    name_bytes: u64,
    /// Bytes of all regular files read, holes included.
    file_bytes: u64,
}

impl Index {
    /// Reads one more layer, newer than those before.
    pub(crate) fn add_layer(
        &mut self,
        number: usize,
        layer: &Layer,
        limits: &Limits,
        summary: &mut Summary,
    ) -> Result<(), MergeError> {
        let budget = limits.uncompressed_bytes.saturating_sub(summary.uncompressed_bytes);
        let algorithm = layer.diff_id.as_ref().map(|expected| expected.algorithm());
        let stream = LayerStream::open(layer, algorithm, budget, limits)?;
        self.identities.push(stream.identity());
        let mut archive = Archive::new(stream, algorithm.is_some(), limits);
        let (tree, aufs_links) = (Directory::default(), BTreeMap::new());
        let mut reading = LayerReading { index: self, number, limits, tree, aufs_links };
        while let Some(entry) = archive.next_entry()? {
            summary.entries_read += 1;
            reading.take(&entry).map_err(|rule| archive.refuse(&entry.raw_name, rule))?;
            reading.index.check_size(layer, limits)?;
        }
        let tree = reading.tree;
        let stream = archive.stream_mut();
        summary.uncompressed_bytes += stream.position();
        if let (Some(expected), Some(actual)) = (&layer.diff_id, stream.digest())
            && expected.to_string() != actual
        {
            let (layer, expected) = (layer.digest.clone(), expected.clone());
            return Err(MergeError::DiffId { layer, expected, actual });
        }
        self.root.cover_with(tree);
        Ok(())
    }

    fn check_size(&self, layer: &Layer, limits: &Limits) -> Result<(), MergeError> {
        let layer = || layer.digest.clone();
        if self.entries > limits.entries {
            return Err(MergeError::TooManyEntries { layer: layer(), limit: limits.entries });
        }
        if self.name_bytes > limits.all_names_bytes {
            return Err(MergeError::TooManyNameBytes { layer: layer(), limit: limits.all_names_bytes });
        }
        if self.file_bytes > limits.uncompressed_bytes {
            return Err(MergeError::TooManyBytes { layer: layer(), limit: limits.uncompressed_bytes });
        }
        Ok(())
    }
}

/// One layer on its way into the index.
struct LayerReading<'a> {
    index: &'a mut Index,
    number: usize,
    limits: &'a Limits,
    tree: Directory,
    /// Files that aufs parked below `.wh..wh.plnk`: not part of the image, but hard links lead to them.
    aufs_links: BTreeMap<Vec<u8>, InodeId>,
}

impl LayerReading<'_> {
    fn take(&mut self, entry: &Entry) -> Result<(), Rule> {
        let name = self.locate(normalize(&entry.raw_name, self.limits)?)?;
        let (parent, last) = split_last(&name);
        self.index.entries += 1 + self.tree.count_missing(parent);
        self.index.name_bytes += (name.len() + entry.link.len()) as u64;
        if name.split(|&byte| byte == b'/').any(|component| component.starts_with(AUFS)) {
            return self.take_aufs_name(entry, &name);
        }
        if parent.split(|&byte| byte == b'/').any(|component| component.starts_with(WHITEOUT)) {
            return Err(Rule::BadWhiteout);
        }
        // Whatever type a whiteout's entry has: some builders make it a hard link to another one.
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Rule::BadWhiteout);
            }
            return self.tree.put_whiteout(parent, hidden).map_err(not_a_directory);
        }
        if name.is_empty() && entry.kind != Kind::Directory {
            return Err(Rule::RootNotDirectory);
        }
        if entry.kind == Kind::Directory {
            let attributes = Attributes { mode: entry.mode, mtime: entry.mtime };
            return self.tree.put_directory(&name, attributes).map_err(not_a_directory);
        }
        let inode = self.inode(entry)?;
        self.tree.put_leaf(&name, inode).map_err(not_a_directory)
    }

    fn locate(&self, name: Vec<u8>) -> Result<Vec<u8>, Rule> {
        follow_older_links(name, &self.tree, &self.index.root, &self.index.inodes, self.limits)
    }

    fn take_aufs_name(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Rule> {
        let (parent, last) = split_last(name);
        if last == OPAQUE && !parent.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return self.tree.put_opaque(parent).map_err(not_a_directory);
        }
        if entry.kind == Kind::File {
            let inode = self.inode(entry)?;
            self.aufs_links.insert(name.to_vec(), inode);
        }
        Ok(())
    }

    fn inode(&mut self, entry: &Entry) -> Result<InodeId, Rule> {
        let content = match entry.kind {
            Kind::HardLink => return self.link_target(&entry.link),
            Kind::File => {
                self.index.file_bytes = self.index.file_bytes.saturating_add(entry.size);
                Content::File { layer: self.number, ordinal: entry.ordinal, size: entry.size }
            }
            Kind::Symlink => {
                let target = entry.link.as_slice();
                if target.is_empty() || target.len() > self.limits.name_bytes || target.contains(&0) {
                    return Err(Rule::BadSymlinkTarget);
                }
                Content::Symlink(target.into())
            }
            Kind::Special | Kind::Directory => Content::LeftOut,
        };
        let id = InodeId::try_from(self.index.inodes.len()).unwrap_or(InodeId::MAX);
        let attributes = Attributes { mode: entry.mode, mtime: entry.mtime };
        self.index.inodes.push(Inode { attributes, content });
        Ok(id)
    }

    /// What a hard link means at this point of the layer: an earlier entry, else what older layers have
    /// there, even if this layer hides it (the layer was made while it could still be seen).
    fn link_target(&self, raw: &[u8]) -> Result<InodeId, Rule> {
        let target = normalize(raw, self.limits)
            .map_err(|rule| Rule::BadLinkTarget { target: shown(raw), rule: Box::new(rule) })?;
        if let Some(inode) = self.aufs_links.get(&target) {
            return Ok(*inode);
        }
        // Where the way to the target is barred, it is looked for as it was written, and not found.
        let target = self.locate(target.clone()).unwrap_or(target);
        match self.tree.find(&target).or_else(|| self.index.root.find(&target)) {
            Some(Found::Leaf(inode)) => Ok(inode),
            Some(Found::Directory) => Err(Rule::LinkToDirectory(shown(raw))),
            None => Err(Rule::MissingLinkTarget(shown(raw))),
        }
    }
}

fn not_a_directory(error: NotADirectory) -> Rule {
    Rule::ParentNotDirectory(shown(&error.0))
}
