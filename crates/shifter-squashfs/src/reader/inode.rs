//! Inodes: what the table says of a file, each field bounded before it is used.

use super::cursor::{Cursor, Position};
use super::error::{Problem, ReadError};
use super::image::Image;
use super::source::Source;

/// No fragment, no extended attributes.
const NONE: u32 = u32::MAX;
/// A directory's size counts three bytes for `.` and `..`, which it does not hold.
const DOTS: u32 = 3;

/// Owner, permissions and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: `0o7777`.
    pub mode: u16,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Seconds since 1970.
    pub modified: u32,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory(DirectoryLayout),
    /// A regular file.
    File(FileLayout),
    /// A symbolic link.
    Symlink {
        /// Where it leads, as stored: not empty, without NUL, within the limit of a path.
        target: Vec<u8>,
    },
    /// A block device of this number, as the kernel's `new_encode_dev` packs it.
    BlockDevice(u32),
    /// A character device, likewise.
    CharacterDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The type's number in directories; inodes of extended types count seven more.
    pub(super) fn number(&self) -> u16 {
        match self {
            Kind::Directory(_) => 1,
            Kind::File(_) => 2,
            Kind::Symlink { .. } => 3,
            Kind::BlockDevice(_) => 4,
            Kind::CharacterDevice(_) => 5,
            Kind::Fifo => 6,
            Kind::Socket => 7,
        }
    }
}

/// Where a directory's names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryLayout {
    pub(super) start: u32,
    pub(super) within: u16,
    /// Bytes of the listing.
    pub(super) bytes: u32,
    /// The number of the directory that holds it.
    pub(super) parent: u32,
}

/// Where a file's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// Bytes of content, holes included.
    pub size: u64,
    pub(super) start: u64,
    pub(super) fragment: Option<u32>,
    pub(super) within_fragment: u32,
    pub(super) blocks: Position,
}

/// An inode, read and bounded. Names that share a number are one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number: the file's identity within the image, from 1 to the superblock's count.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
    /// Owner, permissions and time.
    pub attributes: Attributes,
    /// How many names it says it has. A claim; directories' are not used at all.
    pub links: u32,
    pub(super) xattrs: Option<u32>,
    pub(super) reference: u64,
}

pub(super) fn read<S: Source>(image: &Image<S>, reference: u64) -> Result<Inode, ReadError> {
    let within = u16::from_le_bytes(reference.to_le_bytes().first_chunk().copied().unwrap_or_default());
    let mut cursor = Cursor::from_reference(&image.store, image.inodes, reference >> 16, within)?;
    let place = cursor.position();
    let at_inode = |problem| {
        Cursor::new(&image.store, image.inodes, place).map_or_else(|error| error, |c| c.refuse(problem))
    };

    let (kind, mode) = (cursor.u16()?, cursor.u16()?);
    let mut id = |field| {
        let number = cursor.u16()?;
        image.id(number).ok_or_else(|| {
            let expected = u64::from(image.superblock.ids);
            let other = "the number of ids";
            cursor.refuse(Problem::Disagrees { field, found: u64::from(number), other, expected })
        })
    };
    let (uid, gid) =
        (id("the owner's place in the table of ids")?, id("the group's place in the table of ids")?);
    let (modified, number) = (cursor.u32()?, cursor.u32()?);
    if number == 0 || number > image.superblock.inodes {
        let rule = "inodes are numbered from 1 to the superblock's count";
        return Err(at_inode(Problem::Field { field: "the inode's number", found: u64::from(number), rule }));
    }
    let mut inode = Inode {
        number,
        kind: Kind::Socket,
        attributes: Attributes { mode: mode & 0o7777, uid, gid, modified },
        links: 1,
        xattrs: None,
        reference,
    };
    let extended = kind > 7;
    inode.kind = match kind {
        1 => {
            let start = cursor.u32()?;
            inode.links = cursor.u32()?;
            let (size, within, parent) = (u32::from(cursor.u16()?), cursor.u16()?, cursor.u32()?);
            directory(&cursor, start, within, size, parent)?
        }
        8 => {
            inode.links = cursor.u32()?;
            let (size, start, parent) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
            let (_indexes, within) = (cursor.u16()?, cursor.u16()?);
            inode.xattrs = some(cursor.u32()?);
            directory(&cursor, start, within, size, parent)?
        }
        2 => {
            let (start, fragment) = (u64::from(cursor.u32()?), some(cursor.u32()?));
            let (within_fragment, size) = (cursor.u32()?, u64::from(cursor.u32()?));
            let blocks = cursor.position();
            file(image, &cursor, FileLayout { size, start, fragment, within_fragment, blocks })?
        }
        9 => {
            let (start, size, _holes) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
            inode.links = cursor.u32()?;
            let (fragment, within_fragment) = (some(cursor.u32()?), cursor.u32()?);
            inode.xattrs = some(cursor.u32()?);
            let blocks = cursor.position();
            file(image, &cursor, FileLayout { size, start, fragment, within_fragment, blocks })?
        }
        3 | 10 => {
            inode.links = cursor.u32()?;
            let target = target(&mut cursor, image.limits.path_bytes)?;
            if extended {
                inode.xattrs = some(cursor.u32()?);
            }
            Kind::Symlink { target }
        }
        4 | 5 | 11 | 12 => {
            inode.links = cursor.u32()?;
            let device = cursor.u32()?;
            if extended {
                inode.xattrs = some(cursor.u32()?);
            }
            if matches!(kind, 4 | 11) { Kind::BlockDevice(device) } else { Kind::CharacterDevice(device) }
        }
        6 | 7 | 13 | 14 => {
            inode.links = cursor.u32()?;
            if extended {
                inode.xattrs = some(cursor.u32()?);
            }
            if matches!(kind, 6 | 13) { Kind::Fifo } else { Kind::Socket }
        }
        _ => {
            let (field, rule) = ("the inode's type", "squashfs 4.0 knows 1 to 14");
            return Err(at_inode(Problem::Field { field, found: u64::from(kind), rule }));
        }
    };
    if let Some(xattrs) = inode.xattrs {
        let expected = image.xattrs.as_ref().map_or(0, super::xattr::XattrTable::count);
        if u64::from(xattrs) >= expected {
            let (field, other) = ("the number of the inode's xattrs", "the number of xattr sets");
            let found = u64::from(xattrs);
            return Err(at_inode(Problem::Disagrees { field, found, other, expected }));
        }
    }
    Ok(inode)
}

fn some(number: u32) -> Option<u32> {
    Some(number).filter(|number| *number != NONE)
}

fn directory<S: Source>(
    cursor: &Cursor<'_, S>,
    start: u32,
    within: u16,
    size: u32,
    parent: u32,
) -> Result<Kind, ReadError> {
    let bytes = size.checked_sub(DOTS).ok_or_else(|| {
        let (field, rule) = ("the directory's size", "an empty one has 3");
        cursor.refuse(Problem::Field { field, found: u64::from(size), rule })
    })?;
    Ok(Kind::Directory(DirectoryLayout { start, within, bytes, parent }))
}

fn file<S: Source>(image: &Image<S>, cursor: &Cursor<'_, S>, layout: FileLayout) -> Result<Kind, ReadError> {
    let (found, limit) = (layout.size, image.limits.uncompressed_bytes);
    if found > limit {
        return Err(cursor.refuse(Problem::Limit { what: "bytes of the file", found, limit }));
    }
    Ok(Kind::File(layout))
}

fn target<S: Source>(cursor: &mut Cursor<'_, S>, limit: usize) -> Result<Vec<u8>, ReadError> {
    let length = cursor.u32()? as usize;
    if length > limit {
        let (what, found) = ("bytes of the symlink's target", length as u64);
        return Err(cursor.refuse(Problem::Limit { what, found, limit: limit as u64 }));
    }
    let target = cursor.bytes(length)?;
    let rule = match target.contains(&0) {
        _ if target.is_empty() => "is empty",
        true => "holds a NUL byte",
        false => return Ok(target),
    };
    Err(cursor.refuse(Problem::Text { what: "symlink target", text: target, rule }))
}
