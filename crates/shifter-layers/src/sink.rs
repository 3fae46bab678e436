//! Where a merge goes: first the data of files, as layers are read, then the tree that says which names they
//! have. An image writer implements both; so does the tar stream for external converters.

use std::io::{self, Read, Write};

/// Takes the data of files while layers are read, newest layer first: one segment per layer, in it the
/// layer's regular files as archived, whether a newer layer hides them or not. So a segment depends on
/// nothing but its layer, and whether a file is needed is told apart.
///
/// An error ends the merge with [`MergeError::WriteOutput`](crate::MergeError::WriteOutput).
pub trait Sink {
    /// Names a file's data from then on.
    type Data: Copy;

    /// A layer begins.
    fn begin_segment(&mut self) -> io::Result<()>;

    /// Takes one file: `data` yields exactly `size` bytes, then ends. `live` is false where a newer layer
    /// hides the file. An error of `data` must be passed on; its text is of no importance.
    fn file(&mut self, size: u64, live: bool, data: &mut dyn Read) -> io::Result<Self::Data>;

    /// As [`file`](Self::file), of a layer that is read [from records](crate::Origin::Records): the sink has,
    /// or finds, the data itself. It gets the files of such a layer in the order in which it got them before.
    fn kept_file(&mut self, size: u64, live: bool) -> io::Result<Self::Data> {
        let _ = (size, live);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Where to write down what this layer's archive says, so that it can be read from there another time.
    /// Errors of the writer end nothing; it has to remember them.
    fn records(&mut self) -> Option<&mut dyn Write> {
        None
    }

    /// Before the segment ends: this file is needed after all, a later hard link has it.
    fn revive(&mut self, data: Self::Data) -> io::Result<()>;

    /// Before the segment ends: this file is not needed after all, a later entry replaced it.
    fn kill(&mut self, data: Self::Data) -> io::Result<()>;

    /// The layer ended and has the digest that was promised. Files that are not live now are never asked
    /// for; of the others, a few may not be either.
    fn end_segment(&mut self) -> io::Result<()>;
}

/// Takes the tree when all layers have been read. Directories come after everything in them; numbers are
/// 1 for the root, then as a walk in the order of names meets the inodes.
pub trait Tables {
    /// As the [`Sink`] gave it.
    type Data: Copy;
    /// Names a finished inode.
    type Inode: Copy;

    /// A regular file with `links` names.
    fn file(
        &mut self,
        number: u32,
        data: Self::Data,
        attributes: &Attributes<'_>,
        links: u32,
    ) -> io::Result<Self::Inode>;

    /// A symbolic link; each has one name.
    fn symlink(&mut self, number: u32, target: &[u8], attributes: &Attributes<'_>)
    -> io::Result<Self::Inode>;

    /// A device or fifo, only where the [`Policy`](crate::Policy) keeps them; each has one name.
    fn special(
        &mut self,
        number: u32,
        special: Special,
        attributes: &Attributes<'_>,
    ) -> io::Result<Self::Inode>;

    /// A directory and its entries, sorted by name. `parent` is the number of the directory above; the
    /// root's is its own.
    fn directory(
        &mut self,
        number: u32,
        parent: u32,
        attributes: &Attributes<'_>,
        entries: &[(&[u8], Self::Inode)],
    ) -> io::Result<Self::Inode>;
}

/// What every inode has, policy applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Permission bits, with setuid, setgid and sticky where policy leaves them.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Names (`user.…`, `security.…`, `trusted.…`) and values, sorted; none unless policy keeps them.
    pub xattrs: &'a [Xattr],
}

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What has neither data nor entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A block device.
    BlockDevice(Device),
    /// A character device.
    CharDevice(Device),
    /// A named pipe.
    Fifo,
}

/// The numbers of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Below 2^12.
    pub major: u32,
    /// Below 2^20.
    pub minor: u32,
}

impl Device {
    /// As the kernel packs them into 32 bits (new_encode_dev, linux/kdev_t.h).
    pub fn encoded(self) -> u32 {
        (self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12)
    }

    /// The opposite of [`encoded`](Self::encoded).
    pub fn decoded(number: u32) -> Self {
        Self { major: (number >> 8) & 0xfff, minor: (number & 0xff) | ((number >> 12) & 0xf_ff00) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_keep_their_numbers() {
        for (major, minor, packed) in
            [(1, 3, 0x103), (8, 0x1_2345, 0x1230_0845), (0xfff, 0xf_ffff, u32::MAX), (0, 256, 0x10_0000)]
        {
            let device = Device { major, minor };
            assert_eq!(device.encoded(), packed);
            assert_eq!(Device::decoded(packed), device);
        }
    }
}
