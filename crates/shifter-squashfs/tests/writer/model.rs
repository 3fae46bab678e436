//! Trees as data, and writing them with the writer under test.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use shifter_squashfs::writer::{
    Attributes, Data, Inode, Segment, Settings, Special, SpoolDir, Summary, Tables, WriteError, Writer,
};

use crate::content::Content;

pub type Xattr = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug)]
pub enum Body {
    /// With its step, see [`Step`].
    File(Content),
    Symlink(Vec<u8>),
    Special(Special),
    /// Names and nodes; a node that is no directory may have several names.
    Directory(BTreeMap<Vec<u8>, usize>),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub xattrs: Vec<Xattr>,
    pub body: Body,
}

/// A tree; node 0 is the root.
#[derive(Clone, Debug)]
pub struct Tree {
    pub nodes: Vec<Node>,
}

/// A file's data being written: a node's, or some that no node has.
#[derive(Clone, Debug)]
pub struct Step {
    pub node: Option<usize>,
    pub content: Content,
    /// Whether it is live when it is written.
    pub live: bool,
}

impl Tree {
    pub fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.push(Body::Directory(BTreeMap::new()));
        tree.nodes[0].mode = 0o755;
        tree
    }

    fn push(&mut self, body: Body) -> usize {
        let mode = if matches!(body, Body::Symlink(_)) { 0o777 } else { 0o640 };
        let mtime = 1_600_000_000 + self.nodes.len() as u32;
        self.nodes.push(Node { mode, uid: 0, gid: 0, mtime, xattrs: Vec::new(), body });
        self.nodes.len() - 1
    }

    /// A new node under a name. Its number.
    pub fn add(&mut self, directory: usize, name: impl AsRef<[u8]>, body: Body) -> usize {
        let node = self.push(body);
        self.link(directory, name, node);
        node
    }

    /// One more name.
    pub fn link(&mut self, directory: usize, name: impl AsRef<[u8]>, node: usize) {
        match &mut self.nodes[directory].body {
            Body::Directory(entries) => {
                let before = entries.insert(name.as_ref().to_vec(), node);
                assert!(before.is_none(), "the test uses a name twice");
            }
            _ => panic!("the test adds to something that is no directory"),
        }
    }

    pub fn file(&mut self, directory: usize, name: impl AsRef<[u8]>, bytes: Vec<u8>) -> usize {
        self.add(directory, name, Body::File(Content::of(bytes)))
    }

    pub fn directory(&mut self, directory: usize, name: impl AsRef<[u8]>) -> usize {
        self.add(directory, name, Body::Directory(BTreeMap::new()))
    }

    /// How many names each node has.
    pub fn links(&self) -> Vec<u32> {
        let mut links = vec![0; self.nodes.len()];
        for node in &self.nodes {
            if let Body::Directory(entries) = &node.body {
                entries.values().for_each(|child| links[*child] += 1);
            }
        }
        links
    }

    /// All files, live, in one layer.
    pub fn one_layer(&self) -> Vec<Vec<Step>> {
        let files = self.nodes.iter().enumerate().filter_map(|(node, it)| match &it.body {
            Body::File(content) => Some(Step { node: Some(node), content: content.clone(), live: true }),
            _ => None,
        });
        vec![files.collect()]
    }

    /// Inode numbers, parents before children, from 1.
    pub fn numbers(&self) -> Vec<u32> {
        let mut numbers = vec![0; self.nodes.len()];
        let mut waiting = vec![0];
        let mut next = 1;
        while let Some(node) = waiting.pop() {
            if numbers[node] != 0 {
                continue;
            }
            numbers[node] = next;
            next += 1;
            if let Body::Directory(entries) = &self.nodes[node].body {
                waiting.extend(entries.values().rev());
            }
        }
        numbers
    }
}

/// A folder for an image and temporaries, gone with the value.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn spool(&self) -> SpoolDir {
        std::fs::create_dir_all(self.path("spool")).unwrap();
        SpoolDir::new(self.path("spool"), 1 << 32)
    }

    pub fn create(&self, name: &str, settings: &Settings) -> Writer {
        Writer::create(new_file(&self.path(name)), self.spool(), settings).unwrap()
    }

    /// Writes a tree whose files are all in one layer.
    pub fn write(&self, name: &str, tree: &Tree, settings: &Settings) -> Summary {
        self.write_layers(name, tree, tree.one_layer(), settings)
    }

    /// Writes a tree whose files come in layers. Steps without a node are killed if they were live, those
    /// with one revived if they were not.
    pub fn write_layers(
        &self,
        name: &str,
        tree: &Tree,
        layers: Vec<Vec<Step>>,
        settings: &Settings,
    ) -> Summary {
        let mut writer = self.create(name, settings);
        let mut data = vec![None; tree.nodes.len()];
        for layer in layers {
            write_segment(&mut writer, &layer, &mut data).unwrap();
        }
        let summary = write_tables(writer.tables().unwrap(), tree, &data).unwrap();
        assert_eq!(std::fs::read_dir(self.path("spool")).unwrap().count(), 0, "temporaries have no names");
        summary
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

pub fn new_file(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

pub fn read_at(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// One layer; the data of nodes goes into `data`.
pub fn write_segment(
    writer: &mut Writer,
    layer: &[Step],
    data: &mut [Option<Data>],
) -> Result<Segment, WriteError> {
    writer.begin_segment()?;
    for step in layer {
        let written = writer.file(step.content.size, step.live, &mut step.content.reader())?;
        match step.node {
            Some(node) => {
                data[node] = Some(written);
                if !step.live {
                    writer.revive(written)?;
                }
            }
            None if step.live => writer.kill(written)?,
            None => {}
        }
    }
    writer.end_segment()
}

/// All inodes and tables.
pub fn write_tables(mut tables: Tables, tree: &Tree, data: &[Option<Data>]) -> Result<Summary, WriteError> {
    let (numbers, links) = (tree.numbers(), tree.links());
    let mut inodes: Vec<Option<Inode>> = vec![None; tree.nodes.len()];
    // Children before parents, by a stack of (node, parent, whether its children are done).
    let mut waiting = vec![(0, 0, false)];
    while let Some((node, parent, ready)) = waiting.pop() {
        if inodes[node].is_some() {
            continue;
        }
        let Node { mode, uid, gid, mtime, xattrs, body } = &tree.nodes[node];
        if let (Body::Directory(entries), false) = (body, ready) {
            waiting.push((node, parent, true));
            waiting.extend(entries.values().map(|child| (*child, node, false)));
            continue;
        }
        let xattrs: Vec<(&[u8], &[u8])> = xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
        let attributes = Attributes { mode: *mode, uid: *uid, gid: *gid, mtime: *mtime, xattrs: &xattrs };
        let (number, links) = (numbers[node], links[node]);
        let inode = match body {
            Body::File(_) => {
                let data = data[node].expect("the test wrote the file's data");
                tables.file(number, data, &attributes, links)?
            }
            Body::Symlink(target) => tables.symlink(number, target, &attributes, links)?,
            Body::Special(special) => tables.special(number, *special, &attributes, links)?,
            Body::Directory(entries) => {
                let entries = entries.iter().map(|(name, child)| (name, inodes[*child].expect("written")));
                tables.directory(number, numbers[parent], &attributes, entries)?
            }
        };
        inodes[node] = Some(inode);
    }
    tables.finish(inodes[0].expect("written"))
}
