//! Why our own writer made no image, in sentences with the way out. Names from layers are shown escaped.

use std::io;
use std::path::PathBuf;

use super::encoder::Codec;

/// A failed image. The image file is then worthless; it has no superblock.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The compression level is not one of the codec's.
    #[error("cannot compress with {codec} at level {level}: its levels are {lowest} to {highest}")]
    Level {
        /// The codec.
        codec: Codec,
        /// The level asked for.
        level: u32,
        /// The codec's lowest level.
        lowest: u32,
        /// The codec's highest level.
        highest: u32,
    },
    /// The block size is not one of squashfs'.
    #[error("cannot write blocks of {0} bytes: squashfs has powers of two from 4096 to 1048576")]
    BlockSize(u32),
    /// The image file was not empty.
    #[error("cannot write an image into a file that already has {0} bytes")]
    NotEmpty(u64),
    /// The image could not be written.
    #[error("cannot {operation} the squashfs image: {source}")]
    Image {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A temporary could not be used.
    #[error("cannot {operation} a temporary file in {}: {source}", directory.display())]
    Spool {
        /// What was being done.
        operation: &'static str,
        /// Where temporaries are.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What must be kept aside does not fit.
    #[error(
        "temporary files in {} would need more than {limit} bytes: raise the limit, or flatten the image, whose newer layers replace much data of an older one",
        directory.display()
    )]
    SpoolFull {
        /// Where temporaries are.
        directory: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The reader of a file's data failed.
    #[error("cannot read a file's data after {got} of {size} bytes: {source}")]
    Read {
        /// The file's size in bytes.
        size: u64,
        /// Bytes read before.
        got: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// The reader of a file's data ended early.
    #[error("a file's data ends after {got} of {size} bytes")]
    Short {
        /// The file's size in bytes.
        size: u64,
        /// Bytes read.
        got: u64,
    },
    /// Data is not, or not whole, in the image written before.
    #[error("a layer's data cannot be taken from the image written before: {0}")]
    Kept(String),
    /// The compressor refused its input.
    #[error("cannot compress a block with {codec}: {message}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// What its library said.
        message: String,
    },
    /// No thread could be started.
    #[error("cannot start a compression thread: {0}")]
    Thread(io::Error),
    /// The compression threads ended before their work did.
    #[error("the compression threads ended early; this is a defect of Shifter")]
    ThreadsEnded,
    /// File data was written outside of a segment.
    #[error("file data needs an open segment")]
    NoSegment,
    /// A segment or the tables were begun inside of a segment.
    #[error("the segment before is not ended yet")]
    SegmentOpen,
    /// The liveness of data in a closed segment was changed.
    #[error("the data of file {0} lies in a segment that is closed")]
    SegmentClosed(u32),
    /// An inode wants data that was left out.
    #[error("the data of file {0} was left out of the image as masked, and an inode wants it")]
    NotKept(u32),
    /// A count or size goes beyond what squashfs 4.0 can say.
    #[error("the image has too many or too large {what}: squashfs holds at most {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much squashfs can hold.
        limit: u64,
    },
    /// A name that no squashfs directory can hold.
    #[error("cannot write the name \"{}\": {reason}", name.escape_ascii())]
    Name {
        /// The name.
        name: Vec<u8>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The target of a symbolic link is too long or empty.
    #[error("cannot write a symbolic link to a target of {0} bytes: Linux reads 1 to 4095")]
    Target(usize),
    /// An extended attribute that squashfs cannot hold.
    #[error("cannot write the extended attribute \"{}\": {reason}", name.escape_ascii())]
    Xattr {
        /// The attribute's full name.
        name: Vec<u8>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A device number that Linux cannot hold.
    #[error("cannot write device {major}:{minor}: Linux has majors to 4095 and minors to 1048575")]
    Device {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// Inode numbers are not 1 to n, each once.
    #[error("inode number {0} is used twice, or is 0")]
    Number(u32),
    /// Inode numbers are not 1 to n, each once.
    #[error("inode number {0} is missing")]
    NumberMissing(u32),
    /// The root is no directory.
    #[error("the root of the image is not a directory")]
    Root,
}

impl WriteError {
    pub(super) fn image(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Image { operation, source }
    }
}
