//! The whole tree, once, each directory before and after what it holds; what must agree is compared on the way.
//!
//! Every directory is entered at most once, so that there are no loops; every inode has one number and one
//! place, so that names of one number are names of one file.

use std::collections::HashMap;

use super::data;
use super::directory::{Listing, Name};
use super::error::{Part, Place, Problem, ReadError};
use super::image::Image;
use super::inode::{Inode, Kind};
use super::source::Source;

/// A name in the tree, and the inode behind it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// From the root, without a leading slash; empty for the root itself. No component is empty, `.` or `..`.
    pub path: Vec<u8>,
    /// What it names.
    pub inode: Inode,
    /// Whether it is the first name of this inode; later ones are hard links to it.
    pub first: bool,
}

impl Entry {
    /// The path's last component.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The path's components, from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.path.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }
}

/// What [`Walk`] comes upon: pre-order is all but [`Event::Leave`], post-order all but [`Event::Enter`].
#[derive(Clone, Debug)]
pub enum Event {
    /// A directory, before what it holds.
    Enter(Entry),
    /// Anything else.
    Leaf(Entry),
    /// The directory again, behind all that it holds.
    Leave(Entry),
}

/// The tree's entries in the order of their names, checked. After an error it is over.
pub struct Walk<'a, S> {
    image: &'a Image<S>,
    root: Option<Inode>,
    stack: Vec<Frame<'a, S>>,
    /// By number: where the inode is, plus one.
    places: Vec<u64>,
    /// By number: names that an inode with several may still have.
    names_left: HashMap<u32, u32>,
    inodes: u64,
    entries: u64,
    names_bytes: u64,
    file_bytes: u64,
    held_bytes: u64,
}

struct Frame<'a, S> {
    entry: Entry,
    listing: Listing<'a, S>,
}

impl<'a, S: Source> Walk<'a, S> {
    pub(super) fn new(image: &'a Image<S>) -> Result<Self, ReadError> {
        let root = image.root().map_err(|error| error.of(b""))?;
        Ok(Self {
            image,
            root: Some(root),
            stack: Vec::new(),
            places: vec![0; (image.superblock.inodes as usize).saturating_add(1)],
            names_left: HashMap::new(),
            inodes: 0,
            entries: 0,
            names_bytes: 0,
            file_bytes: 0,
            held_bytes: 0,
        })
    }

    /// The next entry, or nothing behind the root's [`Event::Leave`].
    #[expect(clippy::should_implement_trait, reason = "an iterator of results hides that an error ends it")]
    pub fn next(&mut self) -> Result<Option<Event>, ReadError> {
        let event = self.advance();
        if event.is_err() {
            self.stack.clear();
        }
        event
    }

    fn advance(&mut self) -> Result<Option<Event>, ReadError> {
        if let Some(root) = self.root.take() {
            return self.visit(Vec::new(), root).map_err(|error| error.of(b"")).map(Some);
        }
        let Some(frame) = self.stack.last_mut() else { return Ok(None) };
        match frame.listing.next().map_err(|error| error.of(&frame.entry.path))? {
            Some(name) => self.step(name).map(Some),
            None => {
                let left = self.stack.pop().map(|frame| Event::Leave(frame.entry));
                if self.stack.is_empty() {
                    self.compare_count()?;
                }
                Ok(left)
            }
        }
    }

    fn step(&mut self, name: Name) -> Result<Event, ReadError> {
        let directory =
            self.stack.last().map(|frame| (frame.entry.path.as_slice(), frame.entry.inode.number));
        let (above, above_number) = directory.unwrap_or_default();
        let mut path = above.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name.name);
        let limits = &self.image.limits;
        let tree = |problem| ReadError::new(Place::somewhere(Part::Tree), problem).of(&path);
        self.entries = self.entries.saturating_add(1);
        self.names_bytes = self.names_bytes.saturating_add(name.name.len() as u64);
        let counted = [
            ("entries", self.entries, limits.entries),
            ("bytes of all names", self.names_bytes, limits.all_names_bytes),
            ("bytes of a path", path.len() as u64, limits.path_bytes as u64),
            ("directories above the entry", self.stack.len() as u64, limits.depth as u64),
        ];
        for (what, found, limit) in counted {
            if found > limit {
                return Err(tree(Problem::Limit { what, found, limit }));
            }
        }
        let inode = self.image.inode(name.reference).map_err(|error| error.of(&path))?;
        let parent = match inode.kind {
            Kind::Directory(layout) => layout.parent,
            _ => above_number,
        };
        let compared = [
            ("the inode's number", inode.number, "its directory's number for it", name.number),
            ("the inode's type", inode.kind.number().into(), "its directory's type for it", name.kind.into()),
            (
                "the directory's number for its parent",
                parent,
                "the number of the one that holds it",
                above_number,
            ),
        ];
        for (field, found, other, expected) in compared {
            if found != expected {
                let (found, expected) = (u64::from(found), u64::from(expected));
                return Err(tree(Problem::Disagrees { field, found, other, expected }));
            }
        }
        self.visit(path.clone(), inode).map_err(|error| error.of(&path))
    }

    /// Takes note of an inode under this name.
    fn visit(&mut self, path: Vec<u8>, inode: Inode) -> Result<Event, ReadError> {
        let tree = |problem| ReadError::new(Place::somewhere(Part::Tree), problem);
        let here = inode.reference.saturating_add(1);
        // The number was compared with the superblock's count, which is the list's length.
        let place = self.places.get_mut(inode.number as usize);
        let place = place.ok_or_else(|| tree(Problem::Misused("the inode's number is beyond the count")))?;
        let first = *place == 0;
        if !first && *place != here {
            return Err(tree(Problem::Misused("the inode has the number of another one")));
        }
        *place = here;
        if let Kind::Directory(layout) = inode.kind {
            if !first {
                let problem = "the directory is reached twice: a loop, or a hard link to a directory";
                return Err(tree(Problem::Misused(problem)));
            }
            self.inodes = self.inodes.saturating_add(1);
            let listing = self.image.listing(layout)?;
            let entry = Entry { path, inode, first };
            self.stack.push(Frame { entry: entry.clone(), listing });
            return Ok(Event::Enter(entry));
        }
        let left = self.names_left.get(&inode.number).copied();
        let left = if first { inode.links } else { left.unwrap_or(0) };
        let Some(left) = left.checked_sub(1) else {
            let (field, found) = ("the inode's count of links", u64::from(inode.links));
            let rule = "it has more names than that";
            return Err(tree(Problem::Field { field, found, rule }));
        };
        if inode.links > 1 {
            self.names_left.insert(inode.number, left);
        }
        if first {
            self.inodes = self.inodes.saturating_add(1);
            self.account(&inode)?;
        }
        Ok(Event::Leaf(Entry { path, inode, first }))
    }

    /// Adds up what the inode holds.
    fn account(&mut self, inode: &Inode) -> Result<(), ReadError> {
        let limits = &self.image.limits;
        match &inode.kind {
            Kind::File(layout) => {
                self.file_bytes = self.file_bytes.saturating_add(layout.size);
                // Before the list of blocks, so that a bomb of holes is not even counted.
                self.within("bytes of all files", self.file_bytes, limits.uncompressed_bytes)?;
                let held = data::examine(self.image, *layout)?;
                self.held_bytes = self.held_bytes.saturating_add(held);
                let (what, limit) = (
                    "bytes of all files without holes, for an image of this size",
                    limits.unpacked(self.image.length()),
                );
                self.within(what, self.held_bytes, limit)
            }
            Kind::Symlink { target } => {
                self.names_bytes = self.names_bytes.saturating_add(target.len() as u64);
                self.within("bytes of all names", self.names_bytes, limits.all_names_bytes)
            }
            _ => Ok(()),
        }
    }

    fn within(&self, what: &'static str, found: u64, limit: u64) -> Result<(), ReadError> {
        match found > limit {
            true => Err(ReadError::new(Place::somewhere(Part::Tree), Problem::Limit { what, found, limit })),
            false => Ok(()),
        }
    }

    fn compare_count(&self) -> Result<(), ReadError> {
        let expected = u64::from(self.image.superblock.inodes);
        if self.inodes != expected {
            let (field, other) = ("the tree's number of inodes", "the superblock's");
            let problem = Problem::Disagrees { field, found: self.inodes, other, expected };
            return Err(ReadError::new(Place::somewhere(Part::Tree), problem));
        }
        Ok(())
    }
}
