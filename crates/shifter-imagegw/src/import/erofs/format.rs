//! The names and inodes of an EROFS image that nobody vouches for: which files there are, and what is known of them. The
//! bytes of files, which may be compressed in a dozen ways, are left to `fsck.erofs`; directories and links are not
//! compressed. Nothing is kept but what is asked for, and no number of the image's is believed.
//!
//! Source: fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst in the Linux source.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

const MAGIC: u32 = 0xE0F5_E1E2;
const SUPERBLOCK: u64 = 1024;

/// Features (`EROFS_FEATURE_INCOMPAT_*`) that change nothing here: how data of files is stored, and prefixes of extended
/// attributes. What came after Linux 6.14 changes where inodes are.
const KNOWN: u32 = 0x7f;

/// Bytes of an inode, short and long, and what inode numbers count.
const COMPACT: usize = 32;
const EXTENDED: usize = 64;
const SLOT: u64 = 32;

/// Bytes of an entry's fixed part in a directory.
const ENTRY: usize = 12;

/// Layouts (`EROFS_INODE_FLAT_*`) of what is not compressed: whole blocks, and with a tail behind the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;

/// Most bytes of a directory and of a link's target.
const DIRECTORY: u64 = 256 << 20;
const TARGET: u64 = 4095;

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Character,
    Block,
    Fifo,
    Socket,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) kind: Kind,
    /// Permission bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Of a device, as linux/kdev_t.h packs it.
    pub(super) device: u32,
    layout: u16,
    /// First block of data.
    start: u64,
    /// Where it ends, with its extended attributes; a tail begins here.
    end: u64,
}

/// An open image.
pub(super) struct Erofs<'a> {
    file: &'a File,
    block: u64,
    meta: u64,
    built: u64,
    root: u64,
}

impl<'a> Erofs<'a> {
    /// Reads the superblock.
    ///
    /// # Errors
    /// A sentence, here and below.
    pub(super) fn open(file: &'a File) -> Result<Erofs<'a>, String> {
        let mut bytes = [0; 128];
        let none = "the file is no EROFS image: it does not begin like one";
        file.read_exact_at(&mut bytes, SUPERBLOCK).map_err(|_| none.to_owned())?;
        if u32_at(&bytes, 0) != MAGIC {
            return Err(none.to_owned());
        }
        let unknown = u32_at(&bytes, 80) & !KNOWN;
        if unknown != 0 {
            return Err(format!(
                "the EROFS image uses features {unknown:#x}, which this version does not know; make it with fewer, or \
                 import a squashfs image"
            ));
        }
        if u16_at(&bytes, 86) != 0 {
            return Err(
                "the EROFS image has data in other files; only whole images can be imported".to_owned()
            );
        }
        let (bits, more) = (bytes[12], bytes[90]);
        if !(9..=16).contains(&bits) || more != 0 {
            return Err(broken(&format!("blocks of 2^{bits} bytes, directories of {more} more bits")));
        }
        let present = file.metadata().map_err(|error| error.to_string())?.len();
        let needed = u64::from(u32_at(&bytes, 36)) << bits;
        if needed > present {
            return Err(broken(&format!("it is cut off, {present} of {needed} bytes are there")));
        }
        Ok(Erofs {
            file,
            block: 1 << bits,
            meta: u64::from(u32_at(&bytes, 40)) << bits,
            built: u64_at(&bytes, 24),
            root: u16_at(&bytes, 14).into(),
        })
    }

    /// The root directory.
    pub(super) fn root(&self) -> Result<Inode, String> {
        self.inode(self.root)
    }

    /// An inode by its number.
    pub(super) fn inode(&self, number: u64) -> Result<Inode, String> {
        let place = number.checked_mul(SLOT).and_then(|at| at.checked_add(self.meta));
        let place = place.ok_or_else(|| broken(&format!("inode {number} is nowhere")))?;
        let mut bytes = [0; EXTENDED];
        let read = |bytes: &mut [u8]| {
            let failed = |_| broken(&format!("inode {number} lies beyond the image"));
            self.file.read_exact_at(bytes, place).map_err(failed)
        };
        read(bytes.get_mut(..COMPACT).unwrap_or_default())?;
        let format = u16_at(&bytes, 0);
        let is_long = format & 1 != 0;
        if is_long {
            read(&mut bytes)?;
        }
        let mode = u16_at(&bytes, 4);
        let kind = match mode >> 12 {
            0o10 => Kind::File,
            0o04 => Kind::Directory,
            0o12 => Kind::Symlink,
            0o02 => Kind::Character,
            0o06 => Kind::Block,
            0o01 => Kind::Fifo,
            0o14 => Kind::Socket,
            _ => return Err(broken(&format!("inode {number} is of no known type"))),
        };
        let (size, uid, gid, modified, length) = match is_long {
            true => (u64_at(&bytes, 8), u32_at(&bytes, 24), u32_at(&bytes, 28), u64_at(&bytes, 32), EXTENDED),
            false => {
                let owner = |at| u16_at(&bytes, at).into();
                (u32_at(&bytes, 8).into(), owner(24), owner(26), self.built, COMPACT)
            }
        };
        let xattrs = match u64::from(u16_at(&bytes, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let end = place.saturating_add(length as u64).saturating_add(xattrs);
        let (layout, word) = ((format >> 1) & 7, u32_at(&bytes, 16));
        let start = u64::from(word);
        let mode = mode & 0o7777;
        Ok(Inode { number, kind, mode, uid, gid, modified, size, device: word, layout, start, end })
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self, inode: &Inode) -> Result<Vec<u8>, String> {
        let target = self.content(inode, TARGET)?;
        match target.is_empty() || target.contains(&0) {
            true => Err(broken(&format!("the link of inode {} leads nowhere", inode.number))),
            false => Ok(target),
        }
    }

    /// Names and inode numbers of a directory, in the order of names, which are each there once.
    pub(super) fn entries(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, u64)>, String> {
        let wrong = || broken(&format!("the directory of inode {} cannot be read", inode.number));
        let bytes = self.content(inode, DIRECTORY)?;
        let mut found: Vec<(Vec<u8>, u64)> = Vec::new();
        // A block is never larger than 64 KiB.
        for block in bytes.chunks(usize::try_from(self.block).unwrap_or(usize::MAX)) {
            let first = usize::from(u16_at(block, 8));
            if first < ENTRY || !first.is_multiple_of(ENTRY) || first > block.len() {
                return Err(wrong());
            }
            for at in (0..first).step_by(ENTRY) {
                let from = usize::from(u16_at(block, at + 8));
                let is_last = at + ENTRY == first;
                let to = if is_last { block.len() } else { usize::from(u16_at(block, at + ENTRY + 8)) };
                let name = block.get(from..to).filter(|_| from >= first).ok_or_else(wrong)?;
                // The last one is padded.
                let name = if is_last { name.split(|b| *b == 0).next().unwrap_or_default() } else { name };
                if name.is_empty() || name.len() > 255 || name.iter().any(|b| matches!(b, 0 | b'/')) {
                    return Err(wrong());
                }
                if matches!(name, b"." | b"..") {
                    continue;
                }
                if found.last().is_some_and(|(last, _)| &**last >= name) {
                    return Err(broken(&format!("the directory of inode {} is not sorted", inode.number)));
                }
                found.push((name.to_vec(), u64_at(block, at)));
            }
        }
        Ok(found)
    }

    /// What a directory or link holds.
    fn content(&self, inode: &Inode, most: u64) -> Result<Vec<u8>, String> {
        let number = inode.number;
        let beyond = |_| broken(&format!("what inode {number} has lies beyond the image"));
        if inode.size > most || !matches!(inode.layout, PLAIN | INLINE) {
            return Err(format!(
                "the EROFS image has a directory or link (inode {number}) that is too large or compressed"
            ));
        }
        // At most 256 MiB, and not without being in the file.
        let present = self.file.metadata().map_err(|error| error.to_string())?.len();
        if inode.size > present {
            return Err(broken(&format!("what inode {number} has lies beyond the image")));
        }
        let size = usize::try_from(inode.size).unwrap_or(usize::MAX);
        let tail = if inode.layout == INLINE { inode.size % self.block } else { 0 };
        let mut bytes = vec![0; size];
        let (whole, rest) = bytes.split_at_mut(size - usize::try_from(tail).unwrap_or(0));
        let start = inode.start.checked_mul(self.block).ok_or_else(|| broken("a place is too large"))?;
        if !whole.is_empty() {
            self.file.read_exact_at(whole, start).map_err(beyond)?;
        }
        self.file.read_exact_at(rest, inode.end).map_err(beyond)?;
        Ok(bytes)
    }
}

fn broken(what: &str) -> String {
    format!("the EROFS image is broken: {what}")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
