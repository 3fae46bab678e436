//! The tree of names: one for the layer being read, one for everything below it, and how the first is laid
//! over the second (image-spec layer.md, "Applying Changesets"). Pure; knows no bytes and no archives.
//!
//! A name points to an inode, as in a file system: a hard link is a second name, and so keeps the content
//! that it had when it was made, whatever later happens to the first name.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{components, split_last};

/// Index into the merge's table of inodes.
pub(crate) type InodeId = u32;

/// Permissions and time of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// As archived; policy is applied on output.
    pub(crate) mode: u16,
    /// Seconds since 1970.
    pub(crate) mtime: u32,
}

/// What a name that is no directory stands for.
#[derive(Debug)]
pub(crate) enum Content {
    /// Entry number `ordinal` of layer number `layer`.
    File {
        layer: usize,
        ordinal: u32,
        size: u64,
    },
    Symlink(Box<[u8]>),
    /// A device or fifo: it hides what was there, and is not written.
    LeftOut,
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Node {
    Directory(Box<Directory>),
    Leaf(InodeId),
}

/// A directory, in a layer or merged.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// `None` where no entry of its own exists, only entries below.
    pub(crate) attributes: Option<Attributes>,
    pub(crate) children: BTreeMap<Box<[u8]>, Node>,
    /// Whether anything but whiteouts made this directory appear.
    holds_entries: bool,
    /// Hides everything that older layers have here.
    opaque: bool,
    /// Names of older layers hidden here.
    whiteouts: BTreeSet<Box<[u8]>>,
}

/// The part of a name where a directory is needed and something else stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotADirectory(pub(crate) Vec<u8>);

impl Directory {
    /// Makes a directory with attributes of its own; one that is there keeps its children.
    pub(crate) fn put_directory(&mut self, name: &[u8], attributes: Attributes) -> Result<(), NotADirectory> {
        let (parent, last) = split_last(name);
        let holder = self.make_parents(parent, true)?;
        if last.is_empty() {
            holder.attributes = Some(attributes);
            return Ok(());
        }
        if let Some(Node::Directory(directory)) = holder.children.get_mut(last) {
            directory.attributes = Some(attributes);
            directory.holds_entries = true;
            return Ok(());
        }
        // What replaces a file of the same layer replaces everything older as well.
        let opaque = holder.children.contains_key(last);
        let fresh = Self { attributes: Some(attributes), holds_entries: true, opaque, ..Self::default() };
        holder.children.insert(last.into(), Node::Directory(Box::new(fresh)));
        Ok(())
    }

    /// Puts a name that is no directory; replaces whatever had it, with everything below.
    pub(crate) fn put_leaf(&mut self, name: &[u8], inode: InodeId) -> Result<(), NotADirectory> {
        let (parent, last) = split_last(name);
        self.make_parents(parent, true)?.children.insert(last.into(), Node::Leaf(inode));
        Ok(())
    }

    /// Hides `last` of older layers in the directory `parent`.
    pub(crate) fn put_whiteout(&mut self, parent: &[u8], last: &[u8]) -> Result<(), NotADirectory> {
        self.make_parents(parent, false)?.whiteouts.insert(last.into());
        Ok(())
    }

    /// Hides everything of older layers in `name`, which thereby is a directory.
    pub(crate) fn put_opaque(&mut self, name: &[u8]) -> Result<(), NotADirectory> {
        self.make_parents(name, true)?.opaque = true;
        Ok(())
    }

    /// What `name` stands for; links are not followed.
    pub(crate) fn find(&self, name: &[u8]) -> Option<Found> {
        let mut directory = self;
        let mut rest = components(name);
        let Some(mut component) = rest.next() else { return Some(Found::Directory) };
        loop {
            let node = directory.children.get(component)?;
            match (node, rest.next()) {
                (Node::Leaf(inode), None) => return Some(Found::Leaf(*inode)),
                (Node::Leaf(_), Some(_)) => return None,
                (Node::Directory(found), None) => return found.holds_entries.then_some(Found::Directory),
                (Node::Directory(found), Some(next)) => (directory, component) = (found, next),
            }
        }
    }

    /// How many directories on the way to and including `name` do not exist yet.
    pub(crate) fn count_missing(&self, name: &[u8]) -> u64 {
        let mut directory = Some(self);
        let mut missing = 0;
        for component in components(name) {
            directory = match directory.and_then(|found| found.children.get(component)) {
                Some(Node::Directory(found)) => Some(found),
                _ => None,
            };
            missing += u64::from(directory.is_none());
        }
        missing
    }

    /// Whether `name` or something above it is no directory.
    pub(crate) fn has_leaf_at_or_above(&self, name: &[u8]) -> bool {
        let mut directory = self;
        for component in components(name) {
            match directory.children.get(component) {
                Some(Node::Directory(found)) => directory = found,
                Some(Node::Leaf(_)) => return true,
                None => return false,
            }
        }
        false
    }

    /// Whether this layer, so far, hides what older layers have at `name`.
    pub(crate) fn hides(&self, name: &[u8]) -> bool {
        let mut directory = self;
        for component in components(name) {
            if directory.opaque || directory.whiteouts.contains(component) {
                return true;
            }
            match directory.children.get(component) {
                Some(Node::Directory(found)) => directory = found,
                Some(Node::Leaf(_)) => return true,
                None => return false,
            }
        }
        false
    }

    /// Lays a newer layer over this tree.
    pub(crate) fn cover_with(&mut self, newer: Directory) {
        if newer.opaque {
            self.children.clear();
        }
        for name in newer.whiteouts {
            self.children.remove(&name);
        }
        if newer.attributes.is_some() {
            self.attributes = newer.attributes;
        }
        self.holds_entries |= newer.holds_entries;
        for (name, node) in newer.children {
            match (self.children.get_mut(&name), node) {
                (Some(Node::Directory(older)), Node::Directory(newer)) => older.cover_with(*newer),
                // Whiteouts alone create nothing and replace nothing.
                (_, Node::Directory(newer)) if !newer.holds_entries => {}
                (_, Node::Directory(newer)) => {
                    let mut fresh = Box::<Self>::default();
                    fresh.cover_with(*newer);
                    self.children.insert(name, Node::Directory(fresh));
                }
                (_, leaf) => {
                    self.children.insert(name, leaf);
                }
            }
        }
    }

    fn make_parents(&mut self, name: &[u8], holds_entries: bool) -> Result<&mut Self, NotADirectory> {
        self.holds_entries |= holds_entries;
        let mut directory = self;
        for (depth, component) in components(name).enumerate() {
            if !directory.children.contains_key(component) {
                directory.children.insert(component.into(), Node::Directory(Box::default()));
            }
            match directory.children.get_mut(component) {
                Some(Node::Directory(found)) => {
                    found.holds_entries |= holds_entries;
                    directory = found;
                }
                _ => {
                    let upto: Vec<&[u8]> = components(name).take(depth + 1).collect();
                    return Err(NotADirectory(upto.join(&b'/')));
                }
            }
        }
        Ok(directory)
    }
}

/// The answer of [`Directory::find`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    Leaf(InodeId),
}
