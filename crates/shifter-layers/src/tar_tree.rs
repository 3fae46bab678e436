//! The tree for converters that are programs of their own, kept until it can be written as a tar stream.
//!
//! Order: all directories first, parents before children; then links and devices; then files in the order
//! of their data, each under the first of its names, its further names right behind. So no name comes before
//! its parent, no hard link before its target (`mksquashfs -tar` drops those without a word), no name twice,
//! and the output depends on nothing but the image.

use std::io;

use crate::error::MergeError;
use crate::sink::{Attributes, Special, Tables, Xattr};
use crate::spool::Spool;
use crate::writer::TarWriter;

/// See the module.
#[derive(Default)]
pub(crate) struct TarTree {
    nodes: Vec<(Kept, Node)>,
}

/// Attributes of its own.
struct Kept {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: u32,
    xattrs: Vec<Xattr>,
}

enum Node {
    File(u32),
    Symlink(Box<[u8]>),
    Special(Special),
    Directory(Vec<(Box<[u8]>, usize)>),
}

/// A name that is no directory: the number of its data, its inode, its path.
type Name = (Option<u32>, usize, Box<[u8]>);

impl TarTree {
    /// Writes everything below `root`.
    pub(crate) fn write(
        &self,
        root: usize,
        spool: &mut Spool,
        mut out: TarWriter<'_>,
    ) -> Result<(), MergeError> {
        let mut names = Vec::new();
        self.directories(root, &mut Vec::new(), &mut names, &mut out)?;
        names.sort_unstable();
        for same in names.chunk_by(|(_, a, _), (_, b, _)| a == b) {
            let Some(((_, inode, first), others)) = same.split_first() else { continue };
            let Some((kept, node)) = self.nodes.get(*inode) else { continue };
            let attributes = kept.attributes();
            match node {
                Node::Symlink(target) => out.symlink(first, target, &attributes)?,
                Node::Special(special) => out.special(first, *special, &attributes)?,
                Node::File(data) => {
                    let size = spool.size(*data);
                    out.file(first, &attributes, size)?;
                    if size > 0 {
                        spool.copy(*data, out.data())?;
                        out.end_data(size)?;
                    }
                    for (_, _, name) in others {
                        out.hard_link(name, first, &attributes)?;
                    }
                }
                Node::Directory(_) => {}
            }
        }
        out.finish()
    }

    fn directories(
        &self,
        inode: usize,
        path: &mut Vec<u8>,
        names: &mut Vec<Name>,
        out: &mut TarWriter<'_>,
    ) -> Result<(), MergeError> {
        let Some((kept, Node::Directory(entries))) = self.nodes.get(inode) else { return Ok(()) };
        out.directory(path, &kept.attributes())?;
        let parent = path.len();
        for (name, inode) in entries {
            if parent > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            match self.nodes.get(*inode) {
                Some((_, Node::Directory(_))) => self.directories(*inode, path, names, out)?,
                Some((_, Node::File(data))) => names.push((Some(*data), *inode, path.as_slice().into())),
                _ => names.push((None, *inode, path.as_slice().into())),
            }
            path.truncate(parent);
        }
        Ok(())
    }

    fn add(&mut self, attributes: &Attributes<'_>, node: Node) -> usize {
        let Attributes { mode, uid, gid, mtime, xattrs } = *attributes;
        self.nodes.push((Kept { mode, uid, gid, mtime, xattrs: xattrs.to_vec() }, node));
        self.nodes.len() - 1
    }
}

impl Kept {
    fn attributes(&self) -> Attributes<'_> {
        let Self { mode, uid, gid, mtime, xattrs } = self;
        Attributes { mode: *mode, uid: *uid, gid: *gid, mtime: *mtime, xattrs }
    }
}

impl Tables for TarTree {
    type Data = u32;
    type Inode = usize;

    fn file(&mut self, _: u32, data: u32, attributes: &Attributes<'_>, _: u32) -> io::Result<usize> {
        Ok(self.add(attributes, Node::File(data)))
    }

    fn symlink(&mut self, _: u32, target: &[u8], attributes: &Attributes<'_>) -> io::Result<usize> {
        Ok(self.add(attributes, Node::Symlink(target.into())))
    }

    fn special(&mut self, _: u32, special: Special, attributes: &Attributes<'_>) -> io::Result<usize> {
        Ok(self.add(attributes, Node::Special(special)))
    }

    fn directory(
        &mut self,
        _: u32,
        _: u32,
        attributes: &Attributes<'_>,
        entries: &[(&[u8], usize)],
    ) -> io::Result<usize> {
        let entries = entries.iter().map(|(name, inode)| (Box::from(*name), *inode)).collect();
        Ok(self.add(attributes, Node::Directory(entries)))
    }
}
