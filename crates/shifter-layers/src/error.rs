//! Why a merge failed, in sentences that name the layer, the entry and the rule. Names from archives are
//! escaped before they enter a message, so no log or terminal sees raw bytes. Nothing is logged here.

use std::fmt;
use std::io;
use std::path::PathBuf;

use shifter_core::digest::Digest;

/// A failed merge. What was written so far is worthless.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// More layers than allowed.
    #[error("the image has {count} layers, more than the {limit} allowed")]
    TooManyLayers {
        /// Layers given.
        count: usize,
        /// Layers allowed.
        limit: usize,
    },
    /// A layer file could not be opened.
    #[error("cannot open layer {layer} at {}: {source}", path.display())]
    OpenLayer {
        /// The layer.
        layer: Digest,
        /// Its file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A layer could not be read or decompressed: a damaged or truncated stream, or a failing disk.
    #[error("cannot read layer {layer}: {source}")]
    ReadLayer {
        /// The layer.
        layer: Digest,
        /// What the decompressor or the system said.
        source: io::Error,
    },
    /// What was recorded of a layer when it was read before cannot be used.
    #[error("what is remembered of layer {layer} is damaged: {source}")]
    Records {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        source: io::Error,
    },
    /// The uncompressed bytes are not those that the image's configuration promises.
    #[error(
        "layer {layer} does not match the image configuration: diff_id is {expected}, its contents are {actual}"
    )]
    DiffId {
        /// The layer.
        layer: Digest,
        /// The diff_id given.
        expected: Digest,
        /// The digest found, as text.
        actual: String,
    },
    /// The layer is no well-formed tar archive.
    #[error("layer {layer} is not a valid tar archive at byte {offset}, {near}: {fault}")]
    Archive {
        /// The layer.
        layer: Digest,
        /// Offset in the uncompressed stream.
        offset: u64,
        /// The entry there.
        near: Near,
        /// What is wrong there.
        fault: Fault,
    },
    /// An entry breaks a rule.
    #[error("layer {layer}, entry \"{entry}\": {rule}")]
    Entry {
        /// The layer.
        layer: Digest,
        /// The entry's name, escaped and shortened.
        entry: String,
        /// The rule.
        rule: Rule,
    },
    /// Too many entries in all layers together.
    #[error("the image's layers hold more than {limit} entries (reached in layer {layer}, {near})")]
    TooManyEntries {
        /// Where the limit was reached.
        layer: Digest,
        /// The entry there.
        near: Near,
        /// Entries allowed.
        limit: u64,
    },
    /// Too much text in names.
    #[error(
        "the names in the image's layers take more than {limit} bytes (reached in layer {layer}, {near})"
    )]
    TooManyNameBytes {
        /// Where the limit was reached.
        layer: Digest,
        /// The entry there.
        near: Near,
        /// Bytes allowed.
        limit: u64,
    },
    /// Too many bytes in all layers together.
    #[error("the image's layers expand to more than {limit} bytes (reached in layer {layer}, {near})")]
    TooManyBytes {
        /// Where the limit was reached.
        layer: Digest,
        /// The entry there.
        near: Near,
        /// Bytes allowed.
        limit: u64,
    },
    /// A layer expands like a bomb.
    #[error("layer {layer} expands to more than {limit} times its compressed size (reached {near})")]
    Ratio {
        /// The layer.
        layer: Digest,
        /// The entry at which it does.
        near: Near,
        /// The ratio allowed.
        limit: u64,
    },
    /// The data of files could not be kept until all layers are read.
    #[error("cannot keep file data in a temporary file in {}: {source}", folder.display())]
    Spool {
        /// Where the file would be.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image could not be written: the reader went away or its disk is full.
    #[error("cannot write the merged image: {source}")]
    WriteOutput {
        /// What the writer said.
        source: io::Error,
    },
}

/// Where in a layer reading stopped; names are escaped and shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Near {
    /// In front of all entries.
    Start,
    /// In this entry: its header or its data.
    Entry(String),
    /// Between this entry and the next, or the archive's end.
    Behind(String),
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Near::Start => f.write_str("before the first entry"),
            Near::Entry(name) => write!(f, "in entry \"{name}\""),
            Near::Behind(name) => write!(f, "behind entry \"{name}\""),
        }
    }
}

/// What is wrong with the bytes of an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The stream ends within an entry.
    #[error("it ends in the middle of an entry; the layer is truncated")]
    Truncated,
    /// The stream ends without its end marker, and no diff_id vouches that it is whole.
    #[error("it ends without an end-of-archive marker; the layer may be truncated")]
    NoEndMarker,
    /// Bytes other than zero after the end marker: parsers disagree on what they mean.
    #[error("data follows the end-of-archive marker")]
    TrailingData,
    /// The header's checksum is wrong.
    #[error("the header checksum does not match")]
    Checksum,
    /// A numeric header field is neither octal nor a base-256 number in range.
    #[error("the {0} field is not a number in range")]
    Number(&'static str),
    /// A pax record breaks the `LENGTH KEY=VALUE\n` form or its value is out of range.
    #[error("a pax record is malformed{}", if .0.is_empty() { String::new() } else { format!(" (key \"{}\")", .0) })]
    Pax(String),
    /// An extension header is larger than allowed.
    #[error("an extension header of {0} bytes is larger than allowed")]
    ExtensionTooLarge(u64),
    /// An extension header is not followed by an entry.
    #[error("an extension header describes no entry")]
    DanglingExtension,
    /// The segments of a sparse file overlap, are unordered, too many, or disagree with its sizes.
    #[error("the map of a sparse file is inconsistent")]
    SparseMap,
}

/// A rule that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// `..` could leave the image.
    #[error("names with a \"..\" component are refused")]
    DotDot,
    /// A name with nothing in it.
    #[error("empty names are refused")]
    Empty,
    /// A NUL byte cannot be part of a name.
    #[error("names with a NUL byte are refused")]
    Nul,
    /// A name is too long.
    #[error("the name has {0} bytes, more than allowed")]
    NameTooLong(usize),
    /// A component is too long.
    #[error("a component of the name has {0} bytes, more than allowed")]
    ComponentTooLong(usize),
    /// Too many components.
    #[error("the name has {0} components, more than allowed")]
    TooDeep(usize),
    /// The root itself must be a directory (CVE-2021-29136).
    #[error("the image's root can only be a directory")]
    RootNotDirectory,
    /// `.wh.` with nothing, `.` or `..` behind it, or as a directory.
    #[error("this is not a valid whiteout name")]
    BadWhiteout,
    /// The layer itself has something else where this entry needs a directory, a symlink for instance.
    #[error(
        "its parent \"{0}\" is not a directory in the same layer (entries are never written through links)"
    )]
    ParentNotDirectory(String),
    /// A symlink without target, or with one that no system call takes.
    #[error("the symlink's target is empty, too long or contains a NUL byte")]
    BadSymlinkTarget,
    /// A hard link's target is refused for the reason within.
    #[error("hard link target \"{target}\" is refused: {rule}")]
    BadLinkTarget {
        /// The target, escaped.
        target: String,
        /// The rule that it breaks.
        rule: Box<Rule>,
    },
    /// A hard link's target does not exist at that point of the image.
    #[error("hard link target \"{0}\" does not exist in this layer or the ones below")]
    MissingLinkTarget(String),
    /// Directories have one name.
    #[error("hard link target \"{0}\" is a directory")]
    LinkToDirectory(String),
    /// A type of entry that images do not use.
    #[error("entries of type '{0}' are not supported")]
    UnknownType(String),
    /// A device whose numbers squashfs cannot store.
    #[error("the device's numbers {0}:{1} are out of range")]
    BadDevice(i64, i64),
    /// A sparse file in an unknown or contradictory pax format; readers that overlook the keys take its map
    /// for content.
    #[error(
        "sparse files in this pax format ({0}) are not supported; rebuild the layer without sparse files"
    )]
    PaxSparse(String),
}
