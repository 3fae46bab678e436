//! Why an image is not read: where in the file, for which entry, and which rule it breaks. One sentence for
//! whoever gave the image, the same for the same bytes.

use std::fmt;
use std::io;

use super::codec::Codec;

/// A part of an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first 96 bytes.
    Superblock,
    /// Blocks of files' content.
    Data,
    /// Blocks of many files' tails.
    Fragments,
    /// Inodes.
    InodeTable,
    /// Names.
    DirectoryTable,
    /// Where fragments are.
    FragmentTable,
    /// Where inodes are, by number.
    ExportTable,
    /// User and group ids.
    IdTable,
    /// Extended attributes.
    XattrTable,
    /// No place in the file, but the whole that it describes.
    Tree,
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Part::Superblock => "superblock",
            Part::Data => "file data",
            Part::Fragments => "fragment",
            Part::InodeTable => "inode table",
            Part::DirectoryTable => "directory table",
            Part::FragmentTable => "fragment table",
            Part::ExportTable => "export table",
            Part::IdTable => "id table",
            Part::XattrTable => "xattr table",
            Part::Tree => "tree",
        })
    }
}

/// A place in an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The part.
    pub part: Part,
    /// The byte of the file where the field or the (compressed) block begins, where there is one.
    pub byte: Option<u64>,
    /// The byte within the block, once decompressed.
    pub within: Option<u64>,
}

impl Place {
    /// Somewhere in a part.
    pub(super) fn somewhere(part: Part) -> Self {
        Self { part, byte: None, within: None }
    }

    /// A byte of the file.
    pub(super) fn at(part: Part, byte: u64) -> Self {
        Self { part, byte: Some(byte), within: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.part)?;
        match (self.byte, self.within) {
            (Some(byte), Some(within)) => write!(out, ", block at byte {byte}, its byte {within}"),
            (Some(byte), None) => write!(out, " at byte {byte}"),
            (None, _) => Ok(()),
        }
    }
}

/// Which rule is broken.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file could not be read.
    #[error("cannot read the file: {0}")]
    Read(#[source] io::Error),
    /// The file ends before what it promises.
    #[error("{what} ends at byte {end}, but the file has {present}: it is cut off or was not copied whole")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Bytes that there are.
        present: u64,
    },
    /// Not squashfs.
    #[error("the file does not begin as a squashfs image does (\"hsqs\")")]
    Magic,
    /// Another version.
    #[error("the format is version {0}.{1}; only 4.0 is read")]
    Version(u16, u16),
    /// A compressor that is known and not read.
    #[error(
        "the image is compressed with {0}, which is not read here: write it anew with zstd, gzip, lz4 or xz"
    )]
    Compressor(&'static str),
    /// A field that cannot have its value.
    #[error("{field} is {found}, but {rule}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// A field that disagrees with another.
    #[error("{field} is {found}, but {other} is {expected}")]
    Disagrees {
        /// The field's name.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The other field's name.
        other: &'static str,
        /// Its value.
        expected: u64,
    },
    /// Something lies where it must not.
    #[error("{what} takes bytes {start} to {end} of the file, but must lie within {from} to {to}")]
    Outside {
        /// What it is.
        what: &'static str,
        /// Its first byte.
        start: u64,
        /// The byte behind its last.
        end: u64,
        /// The first byte allowed.
        from: u64,
        /// The byte behind the last one allowed.
        to: u64,
    },
    /// A block that does not decompress.
    #[error("the block is no valid {codec} data of at most {capacity} bytes")]
    Corrupt {
        /// The compressor.
        codec: Codec,
        /// How many bytes it may hold.
        capacity: u64,
    },
    /// More than is allowed.
    #[error("{what}: {found}, more than the {limit} allowed")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many there are, or at least.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// A name or link target that cannot be.
    #[error("the {what} \"{}\" {rule}", .text.escape_ascii())]
    Text {
        /// Name or target.
        what: &'static str,
        /// As it stands in the image.
        text: Vec<u8>,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The image asks for something of another type.
    #[error("{0}")]
    Misused(&'static str),
}

/// What a refusal means for whoever handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// The file could not be read; the image may be good.
    Unreadable,
    /// A good image, perhaps, that is not read here.
    Unsupported,
    /// The image exceeds a limit.
    TooMuch,
    /// The image is broken or made to break something.
    Invalid,
}

/// An image, or a part of it, that is not read.
#[derive(Debug)]
pub struct ReadError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    path: Option<Vec<u8>>,
    problem: Problem,
}

impl ReadError {
    pub(super) fn new(place: Place, problem: Problem) -> Self {
        Self(Box::new(Inner { place, path: None, problem }))
    }

    /// The same, said of this entry if it is not yet said of one.
    pub(super) fn of(mut self, path: &[u8]) -> Self {
        self.0.path.get_or_insert_with(|| path.to_vec());
        self
    }

    /// Where in the file.
    pub fn place(&self) -> Place {
        self.0.place
    }

    /// The entry's path, without a leading slash; empty for the root.
    pub fn path(&self) -> Option<&[u8]> {
        self.0.path.as_deref()
    }

    /// Which rule.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// What it means.
    pub fn category(&self) -> Category {
        match self.0.problem {
            Problem::Read(_) => Category::Unreadable,
            Problem::Compressor(_) | Problem::Version(..) => Category::Unsupported,
            Problem::Limit { .. } => Category::TooMuch,
            _ => Category::Invalid,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "squashfs image, {}", self.0.place)?;
        if let Some(path) = &self.0.path {
            write!(out, ", for \"/{}\"", path.escape_ascii())?;
        }
        write!(out, ": {}", self.0.problem)
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.problem {
            Problem::Read(source) => Some(source),
            _ => None,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
