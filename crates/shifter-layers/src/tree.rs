//! A tree over the table of paths: what stands at each path, in one layer or in all of them so far. Pure;
//! knows no bytes, no archives and no rules.
//!
//! A name points to the record of what it stands for, as in a file system: a hard link is a second name, and
//! so keeps the content that it had when it was made, whatever later happens to the first name.

use crate::paths::{NOWHERE, PathId, Paths, ROOT};
use crate::stock::RecordId;

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    Nothing,
    /// A directory without an entry of its own.
    Implied,
    Directory(RecordId),
    Leaf(RecordId),
}

/// By path. Invariant: above what stands, there stand directories.
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy)]
struct Node {
    record: RecordId,
    /// Of the paths in this directory that stand or are flagged, the first; and the next one beside this.
    first: PathId,
    next: PathId,
    kind: NodeKind,
    flags: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NodeKind {
    Nothing,
    Implied,
    Directory,
    Leaf,
}

const EMPTY: Node = Node { record: 0, first: NOWHERE, next: NOWHERE, kind: NodeKind::Nothing, flags: 0 };

/// In the list of the directory above; kept by the tree itself.
const LISTED: u8 = 1;
/// Hides everything that older layers have in this directory.
pub(crate) const OPAQUE: u8 = 2;
/// Hides what older layers have at this path.
pub(crate) const WHITEOUT: u8 = 4;
/// Something other than whiteouts made this directory appear.
pub(crate) const HOLDS_ENTRIES: u8 = 8;

impl Tree {
    /// The tree with nothing but a root.
    pub(crate) fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.reset(ROOT);
        tree
    }

    pub(crate) fn at(&self, path: PathId) -> Stand {
        let node = self.node(path);
        match node.kind {
            NodeKind::Nothing => Stand::Nothing,
            NodeKind::Implied => Stand::Implied,
            NodeKind::Directory => Stand::Directory(node.record),
            NodeKind::Leaf => Stand::Leaf(node.record),
        }
    }

    pub(crate) fn has(&self, path: PathId, flag: u8) -> bool {
        self.node(path).flags & flag != 0
    }

    pub(crate) fn flag(&mut self, paths: &Paths, path: PathId, flag: u8) {
        self.list(paths, path);
        self.edit(paths, path, |node| node.flags |= flag);
    }

    pub(crate) fn unflag(&mut self, paths: &Paths, path: PathId, flag: u8) {
        self.edit(paths, path, |node| node.flags &= !flag);
    }

    /// Puts something at a path; what is below stays, unless it is a leaf that is put.
    pub(crate) fn put(&mut self, paths: &Paths, path: PathId, stand: Stand) {
        let (kind, record) = match stand {
            Stand::Nothing => (NodeKind::Nothing, 0),
            Stand::Implied => (NodeKind::Implied, 0),
            Stand::Directory(record) => (NodeKind::Directory, record),
            Stand::Leaf(record) => (NodeKind::Leaf, record),
        };
        if matches!(stand, Stand::Nothing | Stand::Leaf(_)) {
            self.clear_below(path);
        }
        self.list(paths, path);
        self.edit(paths, path, |node| (node.kind, node.record) = (kind, record));
    }

    /// Takes away everything below a path, flags too.
    pub(crate) fn clear_below(&mut self, path: PathId) {
        let mut directories = vec![path];
        while let Some(directory) = directories.pop() {
            let Some(node) = self.nodes.get_mut(directory as usize) else { continue };
            let mut next = std::mem::replace(&mut node.first, NOWHERE);
            while let Some(node) = self.nodes.get_mut(next as usize) {
                let child = next;
                next = node.next;
                if node.first != NOWHERE {
                    directories.push(child);
                }
                *node = Node { first: node.first, ..EMPTY };
            }
        }
    }

    /// Takes away everything at and below the root, which stays an implied directory.
    pub(crate) fn reset(&mut self, root: PathId) {
        self.clear_below(root);
        if self.nodes.is_empty() {
            self.nodes.push(EMPTY);
        }
        if let Some(node) = self.nodes.get_mut(root as usize) {
            *node = Node { kind: NodeKind::Implied, flags: LISTED | HOLDS_ENTRIES, ..EMPTY };
        }
    }

    /// What stands or is flagged in a directory, in no order.
    pub(crate) fn children(&self, path: PathId) -> impl Iterator<Item = PathId> {
        let some = |path: PathId| (path != NOWHERE).then_some(path);
        std::iter::successors(some(self.node(path).first), move |&path| some(self.node(path).next))
    }

    /// What stands in a directory, sorted by name.
    pub(crate) fn sorted(&self, paths: &Paths, path: PathId) -> Vec<PathId> {
        let mut found: Vec<PathId> =
            self.children(path).filter(|&child| self.at(child) != Stand::Nothing).collect();
        found.sort_unstable_by(|&a, &b| paths.name(a).cmp(paths.name(b)));
        found
    }

    fn node(&self, path: PathId) -> Node {
        self.nodes.get(path as usize).copied().unwrap_or(EMPTY)
    }

    fn edit(&mut self, paths: &Paths, path: PathId, change: impl FnOnce(&mut Node)) {
        if self.nodes.len() <= path as usize {
            self.nodes.resize(paths.count(), EMPTY);
        }
        if let Some(node) = self.nodes.get_mut(path as usize) {
            change(node);
        }
    }

    /// Enters a path into the list of its directory.
    fn list(&mut self, paths: &Paths, path: PathId) {
        if self.has(path, LISTED) {
            return;
        }
        let parent = paths.parent(path);
        let mut next = NOWHERE;
        self.edit(paths, parent, |node| next = std::mem::replace(&mut node.first, path));
        self.edit(paths, path, |node| {
            node.next = next;
            node.flags |= LISTED;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_away_does_not_come_back_with_its_directory() {
        let mut paths = Paths::new();
        let mut tree = Tree::new();
        let d = paths.child(ROOT, b"d");
        let (e, f) = (paths.child(d, b"e"), paths.child(d, b"f"));
        let x = paths.child(e, b"x");
        for (path, stand) in
            [(d, Stand::Implied), (e, Stand::Directory(1)), (f, Stand::Leaf(2)), (x, Stand::Leaf(3))]
        {
            tree.put(&paths, path, stand);
        }
        tree.flag(&paths, f, WHITEOUT);
        assert_eq!(tree.sorted(&paths, d), [e, f]);
        tree.put(&paths, d, Stand::Leaf(4));
        tree.put(&paths, d, Stand::Directory(5));
        assert_eq!(tree.children(d).count(), 0);
        assert_eq!([tree.at(e), tree.at(f), tree.at(x)], [Stand::Nothing; 3]);
        assert!(!tree.has(f, WHITEOUT));
        tree.put(&paths, x, Stand::Leaf(3));
        tree.put(&paths, e, Stand::Implied);
        assert_eq!(tree.sorted(&paths, e), [x]);
        tree.reset(ROOT);
        assert_eq!((tree.at(d), tree.at(x), tree.at(ROOT)), (Stand::Nothing, Stand::Nothing, Stand::Implied));
    }
}
