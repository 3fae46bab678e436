//! The judges: the kernel's squashfs on a loop device, `unsquashfs`, and our own reader (`reread.rs`).

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use shifter_squashfs::writer::Special;

use crate::content::Content;
use crate::model::{Body, Node, Tree, Xattr};
use crate::reread::check_reader;

const INSIDE: &str = "SHIFTER_TEST_IN_NAMESPACE";

/// Runs a test's body in a mount namespace of its own, by starting this program again; `name` is the test's
/// full name.
pub fn in_own_namespace(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, "yes")
        .output()
        .expect("this test runs unshare of util-linux");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !text.contains("unshare failed: Operation not permitted"),
        "this test mounts images: run it as root, for example by ./test"
    );
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    print!("{text}");
}

pub fn run(program: &str, arguments: &[&OsStr]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    output.stdout
}

/// An image mounted by the kernel until the value goes.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let place = image.with_extension("mnt");
        fs::create_dir(&place).unwrap();
        let options = ["-t", "squashfs", "-o", "loop,ro"].map(OsStr::new);
        run("mount", &[&options[..], &[image.as_os_str(), place.as_os_str()]].concat());
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a program that another thread is just starting has our open files until it runs.
        let done = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
        let _ = fs::remove_dir(&self.0);
    }
}

/// What else than the content is compared.
#[derive(Clone, Copy, PartialEq)]
pub enum Judge {
    /// The mounted image, of this block size.
    Kernel(u32),
    /// What unsquashfs made of it: other inode numbers, links and space of the host's file system.
    Unsquashfs,
}

/// Mounts, unpacks and reads an image; all three must be exactly the tree.
pub fn check_image(image: &Path, tree: &Tree, block_size: u32) {
    check_kernel(image, tree, block_size);
    let unpacked = image.with_extension("unpacked");
    let options = ["-no-progress", "-quiet", "-strict-errors", "-dest"].map(OsStr::new);
    run("unsquashfs", &[&options[..], &[unpacked.as_os_str(), image.as_os_str()]].concat());
    check_tree(&unpacked, tree, Judge::Unsquashfs);
    fs::remove_dir_all(&unpacked).unwrap();
}

/// Without `unsquashfs`, for trees that other file systems cannot hold.
pub fn check_kernel(image: &Path, tree: &Tree, block_size: u32) {
    check_reader(image, tree);
    let mounted = Mounted::new(image);
    check_tree(&mounted.0, tree, Judge::Kernel(block_size));
}

fn check_tree(root: &Path, tree: &Tree, judge: Judge) {
    let (links, numbers) = (tree.links(), tree.numbers());
    let mut waiting = vec![(root.to_owned(), 0)];
    while let Some((path, node)) = waiting.pop() {
        let it = &tree.nodes[node];
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        check_attributes(&path, it, &meta);
        if let Judge::Kernel(block_size) = judge {
            let expected = match &it.body {
                Body::Directory(entries) => {
                    let is_directory =
                        |child: &&usize| matches!(tree.nodes[**child].body, Body::Directory(_));
                    2 + entries.values().filter(is_directory).count() as u32
                }
                _ => links[node],
            };
            assert_eq!(meta.nlink(), u64::from(expected), "{path:?}: links");
            assert_eq!(meta.ino(), u64::from(numbers[node]), "{path:?}: inode number");
            if let Body::File(content) = &it.body {
                // The kernel counts extended attributes, without their prefixes, as well.
                let pair = |(name, value): &Xattr| {
                    let prefix = name.iter().position(|byte| *byte == b'.').unwrap() + 1;
                    (8 + name.len() - prefix + value.len()) as u64
                };
                let xattrs = it.xattrs.iter().map(pair).sum::<u64>();
                let space = (content.size - content.sparse(block_size.into())).div_ceil(512);
                assert_eq!(meta.blocks(), space + xattrs.div_ceil(512), "{path:?}: space");
            }
        }
        match &it.body {
            Body::File(content) => check_content(&path, content),
            Body::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().into_os_string().into_vec(), *target, "{path:?}");
            }
            Body::Special(_) => {}
            Body::Directory(entries) => {
                let found = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_vec());
                let (found, expected) = (found.collect::<Vec<_>>(), entries.keys().cloned());
                assert_eq!(found.len(), entries.len(), "{path:?}: entries");
                assert!(found.into_iter().collect::<BTreeSet<_>>() == expected.collect(), "{path:?}: names");
                let children =
                    entries.iter().map(|(name, child)| (path.join(OsStr::from_bytes(name)), *child));
                waiting.extend(children);
            }
        }
    }
}

fn check_attributes(path: &Path, node: &Node, meta: &Metadata) {
    let kind = meta.file_type();
    let right = match &node.body {
        Body::File(_) => kind.is_file(),
        Body::Symlink(_) => kind.is_symlink(),
        Body::Directory(_) => kind.is_dir(),
        Body::Special(Special::BlockDevice { .. }) => kind.is_block_device(),
        Body::Special(Special::CharacterDevice { .. }) => kind.is_char_device(),
        Body::Special(Special::Fifo) => kind.is_fifo(),
        Body::Special(Special::Socket) => kind.is_socket(),
    };
    assert!(right, "{path:?} is {kind:?}");
    let found = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime());
    let expected = (u32::from(node.mode), node.uid, node.gid, i64::from(node.mtime));
    assert_eq!(found, expected, "{path:?}: mode, owner, group, time");
    if let Body::Special(Special::BlockDevice { major, minor } | Special::CharacterDevice { major, minor }) =
        node.body
    {
        assert_eq!(meta.rdev(), rustix::fs::makedev(major, minor), "{path:?}: device");
    }
    check_xattrs(path, node);
}

fn check_xattrs(path: &Path, node: &Node) {
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        // What the kernel says where the whole image has none.
        Err(rustix::io::Errno::NOTSUP) => 0,
        length => length.unwrap_or_else(|error| panic!("{path:?}: {error}")),
    };
    let found: BTreeSet<&[u8]> = names[..length].split(|byte| *byte == 0).filter(|n| !n.is_empty()).collect();
    let expected: BTreeSet<&[u8]> = node.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(found, expected, "{path:?}: attributes");
    for (name, value) in &node.xattrs {
        let mut found = vec![0; 1 << 17];
        let name = CString::new(name.clone()).unwrap();
        let length = rustix::fs::lgetxattr(path, name.as_c_str(), &mut found).unwrap();
        assert!(found[..length] == value[..], "{path:?}: attribute {name:?}");
    }
}

fn check_content(path: &Path, content: &Content) {
    let mut file = File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), content.size, "{path:?}: size");
    if content.size > 1 << 28 {
        return check_islands(path, &file, content);
    }
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    file.read_to_end(&mut found).unwrap();
    content.reader().read_to_end(&mut expected).unwrap();
    let difference = found.iter().zip(&expected).position(|(one, two)| one != two);
    assert!(found == expected, "{path:?}: {} bytes, differs from {difference:?} on", found.len());
}

/// Huge files: each island with a good piece of the sea around it.
fn check_islands(path: &Path, file: &File, content: &Content) {
    for (at, bytes) in &content.islands {
        let start = at.saturating_sub(300_000);
        let mut found = vec![1; (at - start) as usize + bytes.len() + 300_000];
        let end = content.size.min(start + found.len() as u64);
        found.truncate((end - start) as usize);
        file.read_exact_at(&mut found, start).unwrap();
        let island = (at - start) as usize;
        assert!(found[island..island + bytes.len()] == bytes[..], "{path:?}: bytes at {at}");
    }
    let mut middle = vec![1; 1 << 20];
    file.read_exact_at(&mut middle, content.size / 2).unwrap();
    assert!(middle.iter().all(|byte| *byte == 0), "{path:?}: the middle");
}
