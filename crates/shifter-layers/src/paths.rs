//! Every path that any layer names, stored once, with the text of links: the one big table of a merge.
//!
//! A path is a number; it knows its parent and its last component. Whether anything stands there is said
//! elsewhere, by number. About 20 bytes per path and its last component, however deep it lies.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// The number of a path.
pub(crate) type PathId = u32;

/// The image's root, its own parent.
pub(crate) const ROOT: PathId = 0;

/// No path at all.
pub(crate) const NOWHERE: PathId = PathId::MAX;

/// Where a text lies.
pub(crate) type TextId = u32;

#[derive(Clone, Copy)]
struct Node {
    parent: PathId,
    name: TextId,
    bytes: u16,
}

/// The table. Callers keep to [`Limits::countable`](crate::Limits), so that no number here overflows.
pub(crate) struct Paths {
    nodes: Vec<Node>,
    /// Components, and texts with their length in front.
    text: Vec<u8>,
    /// Finds a path by its parent and last component; keyed, because the names are foreign.
    table: HashTable<PathId>,
    hasher: RandomState,
}

impl Paths {
    /// The table with nothing but the root.
    pub(crate) fn new() -> Self {
        Self {
            nodes: vec![Node { parent: ROOT, name: 0, bytes: 0 }],
            text: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// How many there are; all numbers are below.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The path `name` in `parent`, new or not. `name` is one component.
    pub(crate) fn child(&mut self, parent: PathId, name: &[u8]) -> PathId {
        if let Some(found) = self.find(parent, name) {
            return found;
        }
        let id = PathId::try_from(self.nodes.len()).unwrap_or(NOWHERE);
        let node = Node {
            parent,
            name: TextId::try_from(self.text.len()).unwrap_or(TextId::MAX),
            bytes: u16::try_from(name.len()).unwrap_or(u16::MAX),
        };
        self.text.extend_from_slice(name);
        self.nodes.push(node);
        let (nodes, text, hasher) = (&self.nodes, &self.text, &self.hasher);
        let rehash = |&id: &PathId| {
            let node = at(nodes, id);
            hasher.hash_one((node.parent, component(text, node)))
        };
        self.table.insert_unique(hasher.hash_one((parent, name)), id, rehash);
        id
    }

    /// The path `name` in `parent`, if it is known.
    pub(crate) fn find(&self, parent: PathId, name: &[u8]) -> Option<PathId> {
        let hash = self.hasher.hash_one((parent, name));
        let is_it = |&id: &PathId| {
            let node = at(&self.nodes, id);
            node.parent == parent && component(&self.text, node) == name
        };
        self.table.find(hash, is_it).copied()
    }

    /// The path of these components below `start`, new or not.
    pub(crate) fn walk<'a>(&mut self, start: PathId, components: impl Iterator<Item = &'a [u8]>) -> PathId {
        components.fold(start, |parent, name| self.child(parent, name))
    }

    /// The directory that holds this path; the root is its own.
    pub(crate) fn parent(&self, id: PathId) -> PathId {
        at(&self.nodes, id).parent
    }

    /// The last component; empty for the root.
    pub(crate) fn name(&self, id: PathId) -> &[u8] {
        component(&self.text, at(&self.nodes, id))
    }

    /// This path and those above it, up to and without the root.
    pub(crate) fn upwards(&self, id: PathId) -> impl Iterator<Item = PathId> {
        std::iter::successors(Some(id), |&id| Some(self.parent(id))).take_while(|&id| id != ROOT)
    }

    /// The path in the form `a/b/c`.
    pub(crate) fn whole(&self, id: PathId) -> Vec<u8> {
        let mut components: Vec<&[u8]> = self.upwards(id).map(|id| self.name(id)).collect();
        components.reverse();
        components.join(&b'/')
    }

    /// Keeps a text.
    pub(crate) fn keep(&mut self, text: &[u8]) -> TextId {
        let id = TextId::try_from(self.text.len()).unwrap_or(TextId::MAX);
        let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.text.extend_from_slice(&bytes.to_le_bytes());
        self.text.extend_from_slice(text);
        id
    }

    /// A text that was kept.
    pub(crate) fn text(&self, id: TextId) -> &[u8] {
        let rest = self.text.get(id as usize..).unwrap_or_default();
        match rest.split_first_chunk() {
            Some((bytes, rest)) => rest.get(..u32::from_le_bytes(*bytes) as usize).unwrap_or_default(),
            None => b"",
        }
    }
}

fn at(nodes: &[Node], id: PathId) -> Node {
    nodes.get(id as usize).copied().unwrap_or(Node { parent: ROOT, name: 0, bytes: 0 })
}

fn component(text: &[u8], node: Node) -> &[u8] {
    let start = node.name as usize;
    text.get(start..start + usize::from(node.bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_number_and_its_name_back() {
        let mut paths = Paths::new();
        let names: Vec<String> =
            (0..5000).map(|n| format!("d{}/e{}/f{n}", n % 7, n % 3)).chain(["f1".to_owned()]).collect();
        let walk = |paths: &mut Paths, name: &str| paths.walk(ROOT, name.as_bytes().split(|&b| b == b'/'));
        let ids: Vec<PathId> = names.iter().map(|name| walk(&mut paths, name)).collect();
        let text = paths.keep(b"target");
        assert_eq!(paths.count(), 1 + 7 + 21 + 5000 + 1);
        for (name, id) in names.iter().zip(&ids) {
            assert_eq!(walk(&mut paths, name), *id);
            assert_eq!(paths.whole(*id), name.as_bytes());
        }
        assert_eq!(paths.text(text), b"target");
        assert_eq!(paths.find(ROOT, b"f2"), None);
        assert_eq!(paths.whole(ROOT), b"");
    }
}
