//! The bounds on what a layer may make us store, read or write. They stop bombs, not images: each is far
//! above what real images hold. Time is not bounded here; the caller runs the merge in a child process.

/// Bounds for one merge; [`Limits::default`] is meant for production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers of an image (127 is what Docker's overlay driver mounts).
    pub layers: usize,
    /// Entries of all layers together, those included that a newer layer hides, and the directories that
    /// entries imply.
    pub entries: u64,
    /// Bytes of all names and symlink targets together.
    pub all_names_bytes: u64,
    /// Bytes of one name or link target (PATH_MAX, linux/limits.h).
    pub name_bytes: usize,
    /// Bytes of one component of a name (NAME_MAX, linux/limits.h).
    pub component_bytes: usize,
    /// Components of one name.
    pub depth: usize,
    /// Bytes of all uncompressed streams, and, counted apart, of all files once sparse ones are expanded.
    pub uncompressed_bytes: u64,
    /// Uncompressed bytes per compressed byte of a layer. gzip cannot exceed 1032; zstd can, by far.
    pub ratio: u64,
    /// The ratio counts only beyond this many uncompressed bytes: small layers compress to almost nothing.
    pub ratio_free_bytes: u64,
    /// Bytes of one extension header (pax records carry extended attributes of up to 64 KiB each).
    pub extension_bytes: u64,
    /// Data segments of one sparse file.
    pub sparse_segments: usize,
}

impl Limits {
    /// These limits, lowered to what 32-bit numbers can count.
    pub(crate) fn countable(&self) -> Self {
        Self {
            entries: self.entries.min(1 << 28),
            all_names_bytes: self.all_names_bytes.min(1 << 31),
            name_bytes: self.name_bytes.min(1 << 15),
            component_bytes: self.component_bytes.min(1 << 15),
            ..*self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 512,
            entries: 1_000_000,
            all_names_bytes: 256 << 20,
            name_bytes: 4096,
            component_bytes: 255,
            depth: 256,
            uncompressed_bytes: 512 << 30,
            ratio: 2000,
            ratio_free_bytes: 1 << 30,
            extension_bytes: 1 << 20,
            sparse_segments: 65_536,
        }
    }
}
