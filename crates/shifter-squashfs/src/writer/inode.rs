//! The bytes of inodes (`struct squashfs_*_inode` of the kernel's `squashfs_fs.h`): the basic form where it
//! can say everything, else the extended one.

use super::error::WriteError;
use super::metadata::Place;

/// In an inode: no extended attributes, no fragment.
pub(super) const ABSENT: u32 = u32::MAX;
/// What an extended type's number is above the basic one's.
const EXTENDED: u16 = 7;
/// Linux answers EINVAL to longer targets than a page, and nothing can create them.
const LONGEST_TARGET: usize = 4095;

/// What inodes of all kinds have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// Permission bits, with setuid, setgid and sticky; others are ignored.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Extended attributes, full name (`user.`, `trusted.` or `security.`) and value.
    pub xattrs: &'a [(&'a [u8], &'a [u8])],
}

/// An inode that is neither file, directory nor link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A block device.
    BlockDevice {
        /// To 4095.
        major: u32,
        /// To 1048575.
        minor: u32,
    },
    /// A character device.
    CharacterDevice {
        /// To 4095.
        major: u32,
        /// To 1048575.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A written inode, to be named in directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Start of its metadata block in the inode table, shifted by 16, and its offset in there.
    pub(super) reference: u64,
    pub(super) number: u32,
    pub(super) kind: Kind,
}

impl Inode {
    /// Its number.
    pub fn number(self) -> u32 {
        self.number
    }
}

/// Types as directories tell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Directory = 1,
    File = 2,
    Symlink = 3,
    BlockDevice = 4,
    CharacterDevice = 5,
    Fifo = 6,
    Socket = 7,
}

/// The first sixteen bytes of an inode, resolved.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) uid: u16,
    pub(super) gid: u16,
    pub(super) mtime: u32,
    pub(super) number: u32,
    /// The number of its set of extended attributes, or [`ABSENT`].
    pub(super) xattrs: u32,
}

impl Head {
    fn put(&self, out: &mut Vec<u8>, extended: bool) {
        let kind = self.kind as u16 + if extended { EXTENDED } else { 0 };
        for half in [kind, self.mode & 0o7777, self.uid, self.gid] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        words(out, &[self.mtime, self.number]);
    }

    fn has_xattrs(&self) -> bool {
        self.xattrs != ABSENT
    }
}

/// A regular file, but for its size words, which follow the inode.
pub(super) struct FileInode {
    pub(super) start: u64,
    pub(super) size: u64,
    /// Bytes that are not stored because they are zeros.
    pub(super) sparse: u64,
    pub(super) links: u32,
    pub(super) fragment: u32,
    pub(super) offset: u32,
}

pub(super) fn put_file(out: &mut Vec<u8>, head: &Head, file: &FileInode) {
    let FileInode { start, size, sparse, links, fragment, offset } = *file;
    if let (Ok(start), Ok(size), 0, 0..=1, false) =
        (u32::try_from(start), u32::try_from(size), sparse, links, head.has_xattrs())
    {
        head.put(out, false);
        words(out, &[start, fragment, offset, size]);
    } else {
        head.put(out, true);
        for long in [start, size, sparse] {
            out.extend_from_slice(&long.to_le_bytes());
        }
        words(out, &[links, fragment, offset, head.xattrs]);
    }
}

pub(super) fn put_symlink(
    out: &mut Vec<u8>,
    head: &Head,
    target: &[u8],
    links: u32,
) -> Result<(), WriteError> {
    if !(1..=LONGEST_TARGET).contains(&target.len()) {
        return Err(WriteError::Target(target.len()));
    }
    head.put(out, head.has_xattrs());
    words(out, &[links, target.len() as u32]);
    out.extend_from_slice(target);
    if head.has_xattrs() {
        words(out, &[head.xattrs]);
    }
    Ok(())
}

pub(super) fn kind_of(special: Special) -> Kind {
    match special {
        Special::BlockDevice { .. } => Kind::BlockDevice,
        Special::CharacterDevice { .. } => Kind::CharacterDevice,
        Special::Fifo => Kind::Fifo,
        Special::Socket => Kind::Socket,
    }
}

pub(super) fn put_special(
    out: &mut Vec<u8>,
    head: &Head,
    special: Special,
    links: u32,
) -> Result<(), WriteError> {
    head.put(out, head.has_xattrs());
    words(out, &[links]);
    if let Special::BlockDevice { major, minor } | Special::CharacterDevice { major, minor } = special {
        if major > 0xfff || minor > 0xf_ffff {
            return Err(WriteError::Device { major, minor });
        }
        // new_encode_dev() of linux/kdev_t.h
        words(out, &[(minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)]);
    }
    if head.has_xattrs() {
        words(out, &[head.xattrs]);
    }
    Ok(())
}

/// A directory whose listing is written.
pub(super) struct DirectoryInode<'a> {
    /// The listing in the directory table.
    pub(super) place: Place,
    /// The listing's bytes.
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) parent: u32,
    /// The bytes of the index, and its entries.
    pub(super) index: &'a [u8],
    pub(super) indexes: u16,
}

pub(super) fn put_directory(
    out: &mut Vec<u8>,
    head: &Head,
    directory: &DirectoryInode<'_>,
) -> Result<(), WriteError> {
    let limit = |what, limit| WriteError::Limit { what, limit: u64::from(limit) };
    let block = u32::try_from(directory.place.block);
    let block = block.map_err(|_| limit("bytes in directories", u32::MAX))?;
    // Linux counts three bytes for "." and "..".
    let size = directory.size + 3;
    match u16::try_from(size) {
        Ok(size) if directory.indexes == 0 && !head.has_xattrs() => {
            head.put(out, false);
            words(out, &[block, directory.links]);
            halves(out, [size, directory.place.offset]);
            words(out, &[directory.parent]);
        }
        _ => {
            let size = u32::try_from(size).map_err(|_| limit("bytes in a directory", u32::MAX - 3))?;
            head.put(out, true);
            words(out, &[directory.links, size, block, directory.parent]);
            halves(out, [directory.indexes, directory.place.offset]);
            words(out, &[head.xattrs]);
            out.extend_from_slice(directory.index);
        }
    }
    Ok(())
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn halves(out: &mut Vec<u8>, halves: [u16; 2]) {
    out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const HEAD: Head =
        Head { kind: Kind::File, mode: 0o100_644, uid: 1, gid: 2, mtime: 3, number: 4, xattrs: ABSENT };

    #[test]
    fn files_take_the_extended_form_only_when_they_must() {
        let plain = || FileInode { start: 96, size: 5, sparse: 0, links: 1, fragment: 0, offset: 0 };
        let four_gib = u64::from(u32::MAX) + 1;
        let table = [
            (HEAD, plain(), 2),
            (HEAD, FileInode { start: four_gib - 1, size: four_gib - 1, ..plain() }, 2),
            (HEAD, FileInode { start: four_gib, ..plain() }, 9),
            (HEAD, FileInode { size: four_gib, ..plain() }, 9),
            (HEAD, FileInode { links: 2, ..plain() }, 9),
            (HEAD, FileInode { sparse: 4096, ..plain() }, 9),
            (Head { xattrs: 0, ..HEAD }, plain(), 9),
        ];
        for (row, (head, file, kind)) in table.iter().enumerate() {
            let mut out = Vec::new();
            put_file(&mut out, head, file);
            assert_eq!(out[..4], [*kind, 0, 0o644_u16 as u8, 1], "row {row}");
            assert_eq!(out.len(), if *kind == 2 { 32 } else { 56 }, "row {row}");
        }
    }

    #[test]
    fn device_numbers_are_linux_own() {
        // As mknod(2) and stat(2) have them for /dev/null and for a minor above 255.
        let table = [(1, 3, 0x0103), (259, 300, 0x0011_032c), (0xfff, 0xf_ffff, 0xffff_ffff)];
        for (major, minor, expected) in table {
            let mut out = Vec::new();
            put_special(&mut out, &HEAD, Special::CharacterDevice { major, minor }, 1).unwrap();
            assert_eq!(out[20..], u32::to_le_bytes(expected), "{major}:{minor}");
        }
        for special in [
            Special::BlockDevice { major: 4096, minor: 0 },
            Special::BlockDevice { major: 0, minor: 1 << 20 },
        ] {
            assert!(matches!(
                put_special(&mut Vec::new(), &HEAD, special, 1),
                Err(WriteError::Device { .. })
            ));
        }
    }
}
