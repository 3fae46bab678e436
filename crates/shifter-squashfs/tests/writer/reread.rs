//! The third judge: our own reader, which shares no code with the writer. What imports read must be what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use shifter_squashfs::reader::{Event, Image, Kind, Limits};
use shifter_squashfs::writer::Special;

use crate::content::Content;
use crate::model::{Body, Node, Tree, Xattr};

/// Wide enough for everything that the tests write.
const LIMITS: Limits = Limits {
    entries: 1 << 20,
    all_names_bytes: 1 << 28,
    path_bytes: 4095,
    name_bytes: 256,
    depth: 4096,
    uncompressed_bytes: 1 << 40,
    ratio: 1 << 20,
    ratio_free_bytes: 1 << 34,
    xattr_bytes: 1 << 20,
};

/// Content beyond this is not read: holes cost the reader nothing, but a test compares every byte.
const MOST_COMPARED: u64 = 1 << 28;

/// Reads an image by our own reader; it must be exactly the tree.
pub fn check_reader(image: &Path, tree: &Tree) {
    let image = Image::open(File::open(image).unwrap(), &LIMITS).unwrap();
    let numbers = tree.numbers();
    let mut expected = BTreeMap::from([(Vec::new(), 0)]);
    let mut waiting = vec![(Vec::new(), 0)];
    while let Some((path, node)) = waiting.pop() {
        let Body::Directory(entries) = &tree.nodes[node].body else { continue };
        for (name, child) in entries {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [&path, slash, name].concat();
            expected.insert(path.clone(), *child);
            waiting.push((path, *child));
        }
    }
    let mut walk = image.walk().unwrap();
    let mut seen = BTreeSet::new();
    while let Some(event) = walk.next().unwrap_or_else(|error| panic!("{error}")) {
        let (Event::Enter(entry) | Event::Leaf(entry)) = event else { continue };
        let path = entry.path.escape_ascii().to_string();
        let number = expected.remove(&entry.path).unwrap_or_else(|| panic!("{path} was not written"));
        let node = &tree.nodes[number];
        assert_eq!(entry.inode.number, numbers[number], "{path}: inode number");
        assert_eq!(entry.first, seen.insert(number), "{path}: whether it is the inode's first name");
        let found = entry.inode.attributes;
        let found = (found.mode, found.uid, found.gid, found.modified);
        assert_eq!(found, (node.mode, node.uid, node.gid, node.mtime), "{path}: mode, owner, group, time");
        let xattrs = image.xattrs(&entry).unwrap_or_else(|error| panic!("{error}"));
        let found: BTreeSet<Xattr> = xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
        assert!(found == node.xattrs.iter().cloned().collect(), "{path}: attributes");
        assert!(is_kind(&entry.inode.kind, node), "{path} is {:?}", entry.inode.kind);
        if let (Body::File(content), true) = (&node.body, entry.first) {
            let data = image.data(&entry).unwrap_or_else(|error| panic!("{error}"));
            compare(&path, data, content);
        }
    }
    assert!(expected.is_empty(), "not read: {:?}", expected.keys().next());
}

fn is_kind(found: &Kind, node: &Node) -> bool {
    // As `new_encode_dev` of the kernel packs it.
    let packed = |major: u32, minor: u32| (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    match (found, &node.body) {
        (Kind::Directory(_), Body::Directory(_))
        | (Kind::Fifo, Body::Special(Special::Fifo))
        | (Kind::Socket, Body::Special(Special::Socket)) => true,
        (Kind::File(layout), Body::File(content)) => layout.size == content.size,
        (Kind::Symlink { target }, Body::Symlink(expected)) => target == expected,
        (Kind::BlockDevice(device), Body::Special(Special::BlockDevice { major, minor }))
        | (Kind::CharacterDevice(device), Body::Special(Special::CharacterDevice { major, minor })) => {
            *device == packed(*major, *minor)
        }
        _ => false,
    }
}

fn compare(path: &str, mut data: impl Read, content: &Content) {
    if content.size > MOST_COMPARED {
        return;
    }
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    data.read_to_end(&mut found).unwrap_or_else(|error| panic!("{path}: {error}"));
    content.reader().read_to_end(&mut expected).unwrap();
    let difference = found.iter().zip(&expected).position(|(one, two)| one != two);
    assert!(found == expected, "{path}: {} bytes, differs from {difference:?} on", found.len());
}
