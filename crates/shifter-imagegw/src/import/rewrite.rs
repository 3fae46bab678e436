//! A squashfs image read whole by our own reader and written anew by our own writer: no byte of a user's file ever
//! reaches a kernel. The layers' policy holds here too, so that an imported image is like a pulled one.
//!
//! The tree is walked three times: to number what stays, for the files' data, and for the tables. Knows nothing of jobs
//! and processes.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;

use shifter_layers::Policy;
use shifter_layers::policy::{EMPTIED_DIRECTORY, SHADOW_MODE, SHADOWS};
use shifter_squashfs::reader::{Entry, Event, Image, Kind, Source, Xattr};
use shifter_squashfs::writer::{Attributes, Data, Encoder, Inode, Settings, Special, SpoolDir, Writer};

use crate::convert::sentence;

/// Most bytes of temporary files; nothing is masked here, so none are needed.
const MOST_SPOOLED: u64 = 1 << 30;

/// What is known of an inode of the source, by its number there.
#[derive(Clone, Copy, Default)]
struct Node {
    /// In the new image, from 1; 0 is left out.
    number: u32,
    /// Names that stay.
    names: u32,
    data: Option<Data>,
    written: Option<Inode>,
}

/// What a rewritten image holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rewritten {
    /// Names.
    pub(super) entries: u64,
    /// Bytes of files.
    pub(super) bytes: u64,
}

/// Writes what `image` holds into `output`, an empty file open for reading and writing. `report` hears how many bytes
/// of files have been read.
///
/// # Errors
/// A sentence, with the place in the image where it is broken.
pub(super) fn rewrite<S: Source>(
    image: &Image<S>,
    policy: &Policy,
    encoder: Encoder,
    output: File,
    spool: &Path,
    report: &mut dyn FnMut(u64),
) -> Result<Rewritten, String> {
    let mut plan = Plan::of(image, policy)?;
    let settings = Settings { encoder, ..Settings::default() };
    let mut writer = Writer::create(output, SpoolDir::new(spool, MOST_SPOOLED), &settings).map_err(told)?;
    writer.begin_segment().map_err(told)?;
    let mut walk = image.walk().map_err(told)?;
    while let Some(event) = walk.next().map_err(told)? {
        let Event::Leaf(entry) = event else { continue };
        let Kind::File(layout) = entry.inode.kind else { continue };
        let is_shadow = plan.shadows.contains(&entry.inode.number);
        let Some(node) = plan.kept(&entry).filter(|node| node.data.is_none()) else { continue };
        let size = if is_shadow { 0 } else { layout.size };
        let data = if size == 0 {
            writer.file(0, true, &mut io::empty())
        } else {
            writer.file(size, true, &mut image.data(&entry).map_err(told)?)
        };
        node.data = Some(data.map_err(told)?);
        plan.done.bytes += size;
        report(plan.done.bytes);
    }
    writer.end_segment().map_err(told)?;
    write_tables(image, policy, &mut plan, writer)?;
    Ok(plan.done)
}

/// What stays, and under which number.
struct Plan {
    policy: Policy,
    nodes: Vec<Node>,
    /// Numbers in the source of files that are, or were once, shadow password files.
    shadows: HashSet<u32>,
    done: Rewritten,
}

impl Plan {
    fn of<S: Source>(image: &Image<S>, policy: &Policy) -> Result<Plan, String> {
        let nodes = vec![Node::default(); (image.inode_count() as usize).saturating_add(1)];
        let mut plan = Plan { policy: *policy, nodes, shadows: HashSet::new(), done: Rewritten::default() };
        let mut last = 0;
        let mut walk = image.walk().map_err(told)?;
        while let Some(event) = walk.next().map_err(told)? {
            let (Event::Enter(entry) | Event::Leaf(entry)) = event else { continue };
            if SHADOWS.contains(&&*entry.path) {
                plan.shadows.insert(entry.inode.number);
            }
            let Some(node) = plan.kept(&entry) else { continue };
            if node.number == 0 {
                last += 1;
                node.number = last;
            }
            node.names += 1;
            plan.done.entries += 1;
        }
        Ok(plan)
    }

    /// What is known of an entry that stays.
    fn kept(&mut self, entry: &Entry) -> Option<&mut Node> {
        let below = entry.path.strip_prefix(EMPTIED_DIRECTORY).is_some_and(|rest| rest.starts_with(b"/"));
        let stays = match entry.inode.kind {
            Kind::Directory(_) | Kind::File(_) | Kind::Symlink { .. } => true,
            Kind::BlockDevice(_) | Kind::CharacterDevice(_) => self.policy.devices,
            Kind::Fifo => self.policy.fifos,
            Kind::Socket => false,
        };
        // The reader has compared the number with the count.
        if stays && !below { self.nodes.get_mut(entry.inode.number as usize) } else { None }
    }
}

/// What a directory holds, in the order of names.
type Names = Vec<(Vec<u8>, Inode)>;

fn write_tables<S: Source>(
    image: &Image<S>,
    policy: &Policy,
    plan: &mut Plan,
    writer: Writer,
) -> Result<(), String> {
    let mut tables = writer.tables().map_err(told)?;
    // Of each open directory: its new number, and what it holds so far, in the order of names.
    let mut open: Vec<(u32, Names)> = Vec::new();
    let mut walk = image.walk().map_err(told)?;
    while let Some(event) = walk.next().map_err(told)? {
        let (Event::Enter(entry) | Event::Leaf(entry) | Event::Leave(entry)) = &event;
        let is_shadow = plan.shadows.contains(&entry.inode.number);
        let Some(node) = plan.kept(entry) else { continue };
        if matches!(event, Event::Enter(_)) {
            open.push((node.number, Vec::new()));
            continue;
        }
        let inode = match node.written {
            Some(inode) => inode,
            None => {
                let xattrs = if policy.xattrs { image.xattrs(entry).map_err(told)? } else { Vec::new() };
                let xattrs: Vec<(&[u8], &[u8])> = xattrs.iter().map(pair).collect();
                let attributes = attributes(entry, policy, is_shadow, &xattrs);
                let (number, links) = (node.number, node.names);
                let made = match &entry.inode.kind {
                    Kind::Directory(_) => {
                        let (_, children) = open.pop().unwrap_or_default();
                        let parent = open.last().map_or(number, |(number, _)| *number);
                        tables.directory(number, parent, &attributes, children)
                    }
                    Kind::Symlink { target } => tables.symlink(number, target, &attributes, links),
                    Kind::File(_) => {
                        let data = node.data.ok_or("a file of the image has no data; this is a defect")?;
                        tables.file(number, data, &attributes, links)
                    }
                    kind => tables.special(number, special(kind), &attributes, links),
                };
                let inode = made.map_err(told)?;
                node.written = Some(inode);
                inode
            }
        };
        match open.last_mut() {
            Some((_, children)) => children.push((entry.name().to_vec(), inode)),
            None => return tables.finish(inode).map(drop).map_err(told),
        }
    }
    Err("the image has no root directory".to_owned())
}

fn attributes<'a>(
    entry: &Entry,
    policy: &Policy,
    is_shadow: bool,
    xattrs: &'a [(&'a [u8], &'a [u8])],
) -> Attributes<'a> {
    let found = &entry.inode.attributes;
    let mode = match entry.inode.kind {
        Kind::Directory(_) => policy.directory_mode(found.mode),
        Kind::Symlink { .. } => 0o777,
        _ if is_shadow => SHADOW_MODE,
        _ => policy.file_mode(found.mode),
    };
    let (uid, gid) = if policy.owners { (found.uid, found.gid) } else { (0, 0) };
    Attributes { mode, uid, gid, mtime: found.modified, xattrs }
}

fn pair(xattr: &Xattr) -> (&[u8], &[u8]) {
    (&xattr.name, &xattr.value)
}

/// What is no file, directory or link; numbers as the kernel's `new_decode_dev` (linux/kdev_t.h) takes them apart.
fn special(kind: &Kind) -> Special {
    let numbers = |device: u32| ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match kind {
        Kind::BlockDevice(device) => {
            let (major, minor) = numbers(*device);
            Special::BlockDevice { major, minor }
        }
        Kind::CharacterDevice(device) => {
            let (major, minor) = numbers(*device);
            Special::CharacterDevice { major, minor }
        }
        Kind::Socket => Special::Socket,
        _ => Special::Fifo,
    }
}

fn told(error: impl std::error::Error) -> String {
    sentence(&error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::Read as _;
    use std::process::Command;

    use shifter_squashfs::reader::Limits;

    use super::*;

    /// What mksquashfs adds to the tree: names, types, modes, owners.
    const PSEUDO: &str = "\
/ d 755 0 0
secret d 700 5 6
secret/own f 600 5 6 echo mine
tool f 4755 0 0 echo tool
shut f 0 1 1 echo shut
etc d 755 0 0
etc/shadow f 600 0 0 echo root:hash:
dev d 755 0 0
dev/sda b 660 0 6 8 1
dev/shm d 1777 0 0
dev/shm/left f 644 0 0 echo left
lab d 755 0 0
lab/tty c 620 0 5 4 70000
lab/pipe i 644 0 0 f
link s 777 0 0 shut
empty f 644 0 0 true
";

    /// An image of that and of a file with two names and one of 3 MiB with a hole.
    fn image(at: &Path) -> File {
        let tree = at.join("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("first"), "twice").unwrap();
        std::fs::hard_link(tree.join("first"), tree.join("second")).unwrap();
        std::fs::hard_link(tree.join("first"), tree.join("etc/third")).unwrap();
        std::fs::write(tree.join("old"), "root:hash2:").unwrap();
        std::fs::hard_link(tree.join("old"), tree.join("etc/gshadow-")).unwrap();
        let mut large = vec![0; 3 << 20];
        large[..5].copy_from_slice(b"begin");
        large[(2 << 20) + 7] = 1;
        std::fs::write(tree.join("large"), large).unwrap();
        std::fs::write(at.join("pseudo"), PSEUDO).unwrap();
        let made = Command::new("mksquashfs")
            .args([&tree, &at.join("old.squashfs")])
            .arg("-pf")
            .arg(at.join("pseudo"))
            .args(["-comp", "gzip", "-no-progress", "-all-time", "1700000000", "-mkfs-time", "1"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        File::open(at.join("old.squashfs")).unwrap()
    }

    /// One line per name: path, mode, owners, time, names, and what there is of content.
    fn listing(image: &Image<File>) -> Vec<String> {
        let (mut lines, mut walk) = (Vec::new(), image.walk().unwrap());
        while let Some(event) = walk.next().unwrap() {
            let (Event::Enter(entry) | Event::Leaf(entry)) = event else { continue };
            let found = entry.inode.attributes;
            let content = match &entry.inode.kind {
                Kind::Directory(_) => "directory".to_owned(),
                Kind::Symlink { target } => format!("-> {}", target.escape_ascii()),
                Kind::File(layout) => {
                    let mut bytes = Vec::new();
                    image.data(&entry).unwrap().read_to_end(&mut bytes).unwrap();
                    let ones = bytes.iter().filter(|byte| **byte == 1).count();
                    format!("{} {ones} {}", layout.size, bytes[..bytes.len().min(5)].escape_ascii())
                }
                other => format!("{other:?}"),
            };
            let path = entry.path.escape_ascii();
            let names = if matches!(entry.inode.kind, Kind::Directory(_)) { 0 } else { entry.inode.links };
            lines.push(format!(
                "/{path} {:o} {}:{} {} {names} {content}",
                found.mode, found.uid, found.gid, found.modified
            ));
        }
        lines
    }

    fn rewritten(policy: &Policy) -> (Vec<String>, Rewritten) {
        let at = tempfile::tempdir().unwrap();
        let image = Image::open(image(at.path()), &Limits::default()).unwrap();
        let new = at.path().join("new.squashfs");
        let output = File::options().read(true).write(true).create_new(true).open(&new).unwrap();
        let done = rewrite(&image, policy, Encoder::default(), output, at.path(), &mut |_| {}).unwrap();
        let checked = Command::new("unsquashfs").arg("-ll").arg(&new).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        (listing(&Image::open(File::open(&new).unwrap(), &Limits::default()).unwrap()), done)
    }

    #[test]
    fn an_imported_image_is_what_the_same_layers_would_be() {
        let (lines, done) = rewritten(&Policy::default());
        let expected = [
            "/ 755 0:0 1700000000 0 directory",
            "/dev 755 0:0 1700000000 0 directory",
            "/empty 644 0:0 1700000000 1 0 0 ",
            "/etc 755 0:0 1700000000 0 directory",
            "/etc/gshadow- 400 0:0 1700000000 2 0 0 ",
            "/etc/shadow 400 0:0 1700000000 1 0 0 ",
            "/etc/third 644 0:0 1700000000 3 5 0 twice",
            "/first 644 0:0 1700000000 3 5 0 twice",
            "/lab 755 0:0 1700000000 0 directory",
            "/large 644 0:0 1700000000 1 3145728 1 begin",
            "/link 777 0:0 1700000000 1 -> shut",
            "/old 400 0:0 1700000000 2 0 0 ",
            "/second 644 0:0 1700000000 3 5 0 twice",
            "/secret 755 0:0 1700000000 0 directory",
            "/secret/own 644 0:0 1700000000 1 5 0 mine\\n",
            "/shut 644 0:0 1700000000 1 5 0 shut\\n",
            "/tool 755 0:0 1700000000 1 5 0 tool\\n",
        ];
        assert_eq!(lines, expected, "{lines:#?}");
        assert_eq!(done, Rewritten { entries: 17, bytes: 3_145_728 + 5 + 15 });
    }

    #[test]
    fn what_a_site_keeps_is_kept() {
        let policy = Policy { owners: true, setuid: true, devices: true, fifos: true, xattrs: true };
        let (lines, _) = rewritten(&policy);
        for expected in [
            "/tool 4755 0:0 1700000000 1 5 0 tool\\n",
            "/secret/own 644 5:6 1700000000 1 5 0 mine\\n",
            "/lab/pipe 644 0:0 1700000000 1 Fifo",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:#?}");
        }
        let device = lines.iter().find(|line| line.starts_with("/lab/tty")).unwrap();
        let packed = 4 << 8 | 70000 & 0xff | (70000 & 0xf_ff00) << 12;
        assert!(device.ends_with(&format!("CharacterDevice({packed})")), "{device}");
        assert!(!lines.iter().any(|line| line.starts_with("/dev/")), "{lines:#?}");
    }
}
