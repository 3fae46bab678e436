//! Layers laid over each other the naive way, oldest first, on maps from path to what stands there. Nothing
//! is fast here and nothing shared with what is tested, only the policy's modes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shifter_layers::{Policy, policy};

use super::Item;

/// What stands at a path. Files of one inode have one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    Directory { mode: Option<u16>, holds: bool },
    File { inode: usize, mode: u16, data: Vec<u8>, emptied: bool },
    Symlink(String),
    LeftOut,
}

type Map = BTreeMap<String, Thing>;

/// An image being made, and the layer on its way into it.
#[derive(Clone, Default)]
pub struct Reference {
    pub older: Map,
    pub newer: Map,
    whiteouts: BTreeSet<String>,
    opaque: BTreeSet<String>,
    inodes: usize,
}

/// The entry is refused.
#[derive(Debug)]
pub struct Refused;

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// `a`, `a/b`, `a/b/c`.
fn upto(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    (1..=parts.len()).map(|count| parts[..count].join("/")).collect()
}

fn below(path: &str) -> impl Fn(&String) -> bool + use<> {
    let start = if path.is_empty() { String::new() } else { format!("{path}/") };
    move |other: &String| other.starts_with(&start)
}

fn is_leaf(thing: Option<&Thing>) -> bool {
    thing.is_some_and(|thing| !matches!(thing, Thing::Directory { .. }))
}

impl Reference {
    /// One entry; names are in normal form.
    pub fn take(&mut self, item: &Item) -> Result<(), Refused> {
        let name = String::from_utf8(item.name.clone()).unwrap();
        let link = String::from_utf8(item.link.clone()).unwrap();
        let (parent, last) = split(&name);
        let path = join(&self.locate(parent)?, last);
        let parent = split(&path).0.to_owned();
        if last == ".wh..wh..opq" {
            self.directories(&parent, true)?;
            self.opaque.insert(parent);
            return Ok(());
        }
        if let Some(hidden) = last.strip_prefix(".wh.") {
            self.directories(&parent, false)?;
            self.whiteouts.insert(join(&parent, hidden));
            return Ok(());
        }
        let mode = u16::try_from(item.mode).unwrap();
        let thing = match item.kind {
            b'5' => {
                self.directories(&parent, true)?;
                if is_leaf(self.newer.get(&path)) {
                    self.opaque.insert(path.clone());
                }
                let mode = Some(Policy::default().directory_mode(mode));
                self.newer.insert(path, Thing::Directory { mode, holds: true });
                return Ok(());
            }
            b'0' => {
                self.inodes += 1;
                let emptied = policy::SHADOWS.contains(&name.as_bytes());
                let data = if emptied { Vec::new() } else { item.data.clone() };
                Thing::File { inode: self.inodes, mode: Policy::default().file_mode(mode), data, emptied }
            }
            b'1' => self.target(&link)?,
            b'2' => Thing::Symlink(link),
            _ => Thing::LeftOut,
        };
        self.directories(&parent, true)?;
        let gone = below(&path);
        self.newer.retain(|other, _| !gone(other));
        self.whiteouts.retain(|other| !gone(other));
        self.opaque.retain(|other| !gone(other) && *other != path);
        self.newer.insert(path, thing);
        Ok(())
    }

    /// Lays the layer over the older ones.
    pub fn end_layer(&mut self) {
        for hidden in std::mem::take(&mut self.whiteouts) {
            let gone = below(&hidden);
            self.older.retain(|other, _| !gone(other) && *other != hidden);
        }
        for emptied in std::mem::take(&mut self.opaque) {
            let gone = below(&emptied);
            self.older.retain(|other, _| !gone(other));
        }
        for (path, thing) in std::mem::take(&mut self.newer) {
            match (&thing, self.older.get(&path)) {
                (Thing::Directory { holds: false, .. }, _)
                | (Thing::Directory { mode: None, .. }, Some(Thing::Directory { .. })) => continue,
                (Thing::Directory { .. }, _) => {}
                _ => {
                    let gone = below(&path);
                    self.older.retain(|other, _| !gone(other));
                }
            }
            self.older.insert(path, thing);
        }
    }

    /// One line per name; names of one file lead to the first of them.
    pub fn listing(&self) -> Vec<String> {
        let in_dev = below("dev");
        let mut first_names = BTreeMap::new();
        let shadows = |inode: &usize| {
            self.older.iter().any(|(path, thing)| {
                matches!(thing, Thing::File { inode: this, emptied, .. }
                    if this == inode && (*emptied || policy::SHADOWS.contains(&path.as_bytes())))
            })
        };
        let mut lines = Vec::new();
        for (path, thing) in self.older.iter().filter(|(path, _)| !in_dev(path)) {
            lines.push(match thing {
                _ if path == "dev" && is_leaf(Some(thing)) => "dev: directory 755".to_owned(),
                Thing::Directory { mode, .. } => format!("{path}: directory {:o}", mode.unwrap_or(0o755)),
                Thing::File { inode, mode, data, .. } => {
                    let (mode, data) = if shadows(inode) { (0o400, &[][..]) } else { (*mode, &data[..]) };
                    let first = first_names.entry(*inode).or_insert_with(|| path.clone());
                    format!("{path}: file {mode:o} {} as {first}", data.escape_ascii())
                }
                Thing::Symlink(target) => format!("{path}: link to {target}"),
                Thing::LeftOut => continue,
            });
        }
        lines.sort();
        lines
    }

    fn target(&self, link: &str) -> Result<Thing, Refused> {
        let (parent, last) = split(link);
        let path = join(&self.locate(parent).unwrap_or_else(|_| parent.to_owned()), last);
        let visible = |thing: &&Thing| !matches!(thing, Thing::Directory { holds: false, .. });
        match self.newer.get(&path).filter(visible).or_else(|| self.older.get(&path)) {
            Some(leaf) if is_leaf(Some(leaf)) => Ok(leaf.clone()),
            _ => Err(Refused),
        }
    }

    /// The directory that `parent` is, links of older layers followed.
    fn locate(&self, parent: &str) -> Result<String, Refused> {
        if !upto(parent).iter().any(|path| is_leaf(self.older.get(path))) {
            return Ok(parent.to_owned());
        }
        let mut rest: VecDeque<String> = parent.split('/').map(str::to_owned).collect();
        let (mut done, mut links) = (String::new(), 0);
        while let Some(part) = rest.pop_front() {
            let above = done.clone();
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done = split(&done).0.to_owned();
                    continue;
                }
                _ => done = join(&done, &part),
            }
            match self.newer.get(&done) {
                Some(Thing::Directory { holds: true, .. }) => continue,
                Some(Thing::Directory { .. }) | None => {}
                Some(_) => return Err(Refused),
            }
            if self.hides(&done) {
                continue;
            }
            match self.older.get(&done) {
                Some(Thing::Symlink(target)) => {
                    links += 1;
                    if links > 40 {
                        return Ok(parent.to_owned());
                    }
                    done = if target.starts_with('/') { String::new() } else { above };
                    target.split('/').rev().for_each(|part| rest.push_front(part.to_owned()));
                }
                Some(Thing::Directory { .. }) | None => {}
                Some(_) => return Ok(parent.to_owned()),
            }
        }
        Ok(done)
    }

    fn hides(&self, path: &str) -> bool {
        upto(path).iter().any(|above| {
            self.whiteouts.contains(above)
                || self.opaque.contains(split(above).0)
                || is_leaf(self.newer.get(split(above).0))
        })
    }

    fn directories(&mut self, path: &str, holds: bool) -> Result<(), Refused> {
        let paths = upto(path);
        if paths.iter().any(|above| is_leaf(self.newer.get(above))) {
            return Err(Refused);
        }
        for above in paths {
            let thing = self.newer.entry(above).or_insert(Thing::Directory { mode: None, holds: false });
            if let (Thing::Directory { holds: found, .. }, true) = (thing, holds) {
                *found = true;
            }
        }
        Ok(())
    }
}
