//! The bounds on what an image may make us read, keep or write. They stop bombs, not images: each is far above
//! what real images hold.

/// Bounds for one [`Image`](super::Image); [`Limits::default`] is meant for production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names in the tree, and inodes that the superblock may claim.
    pub entries: u64,
    /// Bytes of all names and symlink targets together.
    pub all_names_bytes: u64,
    /// Bytes of one path or link target, less than PATH_MAX (linux/limits.h), which counts the final NUL.
    pub path_bytes: usize,
    /// Bytes of one name (NAME_MAX, linux/limits.h). Squashfs could hold 256.
    pub name_bytes: usize,
    /// Directories from the root down to an entry.
    pub depth: usize,
    /// Bytes of all files, holes included, each file once.
    pub uncompressed_bytes: u64,
    /// Bytes of all files, without holes, per byte of the image. Four times as much may be decompressed and
    /// taken from tables in all, while the image is open: some is wanted more than once.
    pub ratio: u64,
    /// The ratio counts only beyond this many bytes: small images compress to almost nothing.
    pub ratio_free_bytes: u64,
    /// Bytes of all names and values of one inode's extended attributes.
    pub xattr_bytes: u64,
}

impl Limits {
    /// Bytes that may be decompressed and taken from tables of an image of this many bytes.
    pub(super) fn work(&self, length: u64) -> u64 {
        self.unpacked(length).saturating_mul(4)
    }

    /// Bytes that an image of this many bytes may unpack to.
    pub(super) fn unpacked(&self, length: u64) -> u64 {
        length.saturating_mul(self.ratio).saturating_add(self.ratio_free_bytes)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            all_names_bytes: 256 << 20,
            path_bytes: 4095,
            name_bytes: 255,
            depth: 256,
            uncompressed_bytes: 512 << 30,
            ratio: 2000,
            ratio_free_bytes: 1 << 30,
            xattr_bytes: 1 << 20,
        }
    }
}
