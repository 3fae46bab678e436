//! The second pass: the merged tree written as a tar stream.
//!
//! Order: all directories first, parents before children; then, layer by layer as they were archived, every
//! inode under the first of its names, its further names right behind. So no name comes before its parent,
//! no hard link before its target (`mksquashfs -tar` drops those without a word), no name twice, and the
//! output depends on nothing but the layers.

use std::collections::BTreeSet;

use crate::archive::{Archive, Entry};
use crate::error::MergeError;
use crate::limits::Limits;
use crate::policy;
use crate::scan::Index;
use crate::stream::{FileIdentity, LayerStream};
use crate::tree::{Attributes, Content, Directory, InodeId, Node};
use crate::writer::TarWriter;
use crate::{Layer, Summary};

/// Writes everything that `index` holds.
pub(crate) fn write_image(
    index: Index,
    layers: &[Layer],
    limits: &Limits,
    mut out: TarWriter<'_>,
    summary: &mut Summary,
) -> Result<(), MergeError> {
    let mut names = Names { found: Vec::new(), path: Vec::new(), out: &mut out, summary };
    names.directory(index.root)?;
    let mut names = names.found;
    names.sort_unstable();
    let shadows: BTreeSet<InodeId> =
        names.iter().filter(|(_, name)| policy::is_shadow(name)).map(|(inode, _)| *inode).collect();
    let mut source = Source { layers, identities: &index.identities, limits, open: None };
    for same_inode in names.chunk_by(|(a, _), (b, _)| a == b) {
        let Some(((id, first), others)) = same_inode.split_first() else { continue };
        let Some(inode) = index.inodes.get(*id as usize) else { continue };
        let attributes = Attributes {
            mode: match &inode.content {
                Content::Symlink(_) => 0o777,
                _ if shadows.contains(id) => policy::SHADOW_MODE,
                _ => policy::file_mode(inode.attributes.mode),
            },
            ..inode.attributes
        };
        match &inode.content {
            Content::LeftOut => summary.names_left_out += same_inode.len() as u64,
            // Each name of a symlink gets a symlink of its own: squashfs has no use for sharing them.
            Content::Symlink(target) => {
                for (_, name) in same_inode {
                    out.symlink(name, target, attributes)?;
                    summary.symlinks += 1;
                }
            }
            Content::File { layer, ordinal, size } => {
                let size = if shadows.contains(id) { 0 } else { *size };
                out.file(first, attributes, size)?;
                if size > 0 {
                    source.copy(*layer, *ordinal, size, &mut out)?;
                    out.end_data(size)?;
                }
                for (_, name) in others {
                    out.hard_link(name, first, attributes)?;
                }
                summary.files += 1;
                summary.file_bytes += size;
                summary.hard_links += others.len() as u64;
            }
        }
    }
    out.finish()
}

/// Walks the tree, writes its directories and collects the other names.
struct Names<'a, 'b> {
    found: Vec<(InodeId, Box<[u8]>)>,
    path: Vec<u8>,
    out: &'a mut TarWriter<'b>,
    summary: &'a mut Summary,
}

impl Names<'_, '_> {
    fn directory(&mut self, directory: Directory) -> Result<(), MergeError> {
        let attributes = directory.attributes.map_or(
            Attributes { mode: policy::IMPLIED_DIRECTORY_MODE, mtime: 0 },
            |found| Attributes { mode: policy::directory_mode(found.mode), mtime: found.mtime },
        );
        self.out.directory(&self.path, attributes)?;
        self.summary.directories += 1;
        let emptied = policy::is_emptied_directory(&self.path);
        for (name, node) in directory.children {
            if emptied {
                self.summary.names_left_out += count_names(&node);
                continue;
            }
            let parent = self.path.len();
            if parent > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            match node {
                Node::Directory(child) => self.directory(*child)?,
                Node::Leaf(_) if policy::is_emptied_directory(&self.path) => {
                    // Whatever the image has as /dev, nodes need a directory to mount theirs on.
                    self.directory(Directory::default())?;
                }
                Node::Leaf(inode) => self.found.push((inode, self.path.as_slice().into())),
            }
            self.path.truncate(parent);
        }
        Ok(())
    }
}

fn count_names(node: &Node) -> u64 {
    match node {
        Node::Leaf(_) => 1,
        Node::Directory(directory) => 1 + directory.children.values().map(count_names).sum::<u64>(),
    }
}

/// The layers once more, read forward only as far as winners need.
struct Source<'a> {
    layers: &'a [Layer],
    identities: &'a [FileIdentity],
    limits: &'a Limits,
    open: Option<(usize, Archive)>,
}

impl Source<'_> {
    fn copy(
        &mut self,
        layer: usize,
        ordinal: u32,
        size: u64,
        out: &mut TarWriter<'_>,
    ) -> Result<(), MergeError> {
        let Some(described) = self.layers.get(layer) else { return Ok(()) };
        let changed = || MergeError::LayerChanged { layer: described.digest.clone() };
        let mut archive = match self.open.take() {
            Some((number, archive)) if number == layer => archive,
            _ => self.open_layer(layer, described)?,
        };
        loop {
            let entry: Entry = archive.next_entry()?.ok_or_else(changed)?;
            if entry.ordinal < ordinal {
                continue;
            }
            if entry.size != size {
                return Err(changed());
            }
            archive.copy_data(&entry, out.data())?;
            break;
        }
        self.open = Some((layer, archive));
        Ok(())
    }

    fn open_layer(&self, number: usize, layer: &Layer) -> Result<Archive, MergeError> {
        let stream = LayerStream::open(layer, None, self.limits.uncompressed_bytes, self.limits)?;
        if self.identities.get(number) != Some(&stream.identity()) {
            return Err(MergeError::LayerChanged { layer: layer.digest.clone() });
        }
        Ok(Archive::new(stream, layer.diff_id.is_some(), self.limits))
    }
}
