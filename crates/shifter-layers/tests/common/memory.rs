//! An image in memory: a sink and tables that hold every promise of the merge against what it does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::{self, Read};

use shifter_layers::{Attributes, Sink, Special, Tables};

/// A file's data as it was handed over.
pub struct Data {
    pub bytes: Vec<u8>,
    pub segment: usize,
    pub live: bool,
    pub used: bool,
}

/// What an inode is; files with the number of their data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    Directory(Vec<(Vec<u8>, usize)>),
    File(usize),
    Symlink(Vec<u8>),
    Special(Special),
}

pub struct Inode {
    pub thing: Thing,
    pub number: u32,
    parent: u32,
    pub mode: u16,
    pub owner: (u32, u32),
    pub mtime: u32,
    pub xattrs: Vec<(String, String)>,
    links: u32,
}

#[derive(Default)]
pub struct Memory {
    pub data: Vec<Data>,
    pub inodes: Vec<Inode>,
    segments: usize,
    in_segment: bool,
    pub revived: usize,
    pub killed: usize,
}

impl Sink for Memory {
    type Data = usize;

    fn begin_segment(&mut self) -> io::Result<()> {
        assert!(!self.in_segment, "a segment in a segment");
        self.in_segment = true;
        self.segments += 1;
        Ok(())
    }

    fn file(&mut self, size: u64, live: bool, data: &mut dyn Read) -> io::Result<usize> {
        assert!(self.in_segment, "a file outside of segments");
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size, "a file of another size than announced");
        self.data.push(Data { bytes, segment: self.segments, live, used: false });
        Ok(self.data.len() - 1)
    }

    fn revive(&mut self, data: usize) -> io::Result<()> {
        assert!(self.in_segment && self.data[data].segment == self.segments, "revived too late");
        assert!(!std::mem::replace(&mut self.data[data].live, true), "revived without need");
        self.revived += 1;
        Ok(())
    }

    fn kill(&mut self, data: usize) -> io::Result<()> {
        assert!(self.in_segment && self.data[data].segment == self.segments, "killed too late");
        assert!(std::mem::replace(&mut self.data[data].live, false), "killed twice");
        self.killed += 1;
        Ok(())
    }

    fn end_segment(&mut self) -> io::Result<()> {
        assert!(std::mem::replace(&mut self.in_segment, false), "an end without a beginning");
        Ok(())
    }
}

impl Memory {
    fn add(&mut self, number: u32, attributes: &Attributes<'_>, links: u32, thing: Thing) -> usize {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        self.inodes.push(Inode {
            thing,
            number,
            parent: 0,
            mode: attributes.mode,
            owner: (attributes.uid, attributes.gid),
            mtime: attributes.mtime,
            xattrs: attributes.xattrs.iter().map(|(name, value)| (text(name), text(value))).collect(),
            links,
        });
        self.inodes.len() - 1
    }

    /// Every name and its inode; asserts that numbers, links, parents and order are as promised.
    pub fn names(&self, root: usize) -> BTreeMap<String, usize> {
        assert!(!self.in_segment, "tables in a segment");
        let mut names = BTreeMap::new();
        let mut last_number = 0;
        self.walk(root, "", 1, &mut names, &mut last_number);
        let mut links = BTreeMap::new();
        names.values().for_each(|inode| *links.entry(*inode).or_insert(0) += 1);
        assert_eq!(links.len(), self.inodes.len(), "inodes without a name");
        for (inode, links) in links {
            let inode = &self.inodes[inode];
            assert!(inode.links == links, "{:?} has {links} names, not {}", inode.thing, inode.links);
        }
        names
    }

    fn walk(&self, at: usize, path: &str, parent: u32, names: &mut BTreeMap<String, usize>, last: &mut u32) {
        let inode = &self.inodes[at];
        if inode.number > *last {
            *last += 1;
            assert_eq!(inode.number, *last, "{path}: numbers leave the order of names");
        }
        assert!(names.insert(path.to_owned(), at).is_none());
        let Thing::Directory(entries) = &inode.thing else { return };
        assert_eq!(inode.parent, parent, "{path}: its parent's number");
        assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b), "{path}: not sorted");
        for (name, child) in entries {
            let slash = if path.is_empty() { "" } else { "/" };
            let child_path = format!("{path}{slash}{}", name.escape_ascii());
            self.walk(*child, &child_path, inode.number, names, last);
        }
    }
}

impl Tables for Memory {
    type Data = usize;
    type Inode = usize;

    fn file(&mut self, number: u32, data: usize, at: &Attributes<'_>, links: u32) -> io::Result<usize> {
        assert!(self.data[data].live, "data that was given up is wanted: {:?}", self.data[data].bytes);
        self.data[data].used = true;
        Ok(self.add(number, at, links, Thing::File(data)))
    }

    fn symlink(&mut self, number: u32, target: &[u8], at: &Attributes<'_>) -> io::Result<usize> {
        Ok(self.add(number, at, 1, Thing::Symlink(target.to_vec())))
    }

    fn special(&mut self, number: u32, special: Special, at: &Attributes<'_>) -> io::Result<usize> {
        Ok(self.add(number, at, 1, Thing::Special(special)))
    }

    fn directory(
        &mut self,
        number: u32,
        parent: u32,
        at: &Attributes<'_>,
        entries: &[(&[u8], usize)],
    ) -> io::Result<usize> {
        let entries = entries.iter().map(|(name, inode)| (name.to_vec(), *inode)).collect();
        let added = self.add(number, at, 1, Thing::Directory(entries));
        self.inodes[added].parent = parent;
        Ok(added)
    }
}
