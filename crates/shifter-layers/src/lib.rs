//! Untrusted OCI and Docker layer archives, merged into one tar stream that describes the image as its
//! user will see it (image-spec layer.md: whiteouts, opaque directories, replaced types, hard links).
//!
//! The entries never touch the host file system: layers are read, a tree of names is built in memory, and
//! the winners' data is copied from the layer files to the writer. So there is no path on disk that a
//! hostile name, symlink or hard link could reach, and no privilege is needed.
//!
//! Every layer is decompressed twice: first for its index and for `diff_id`, then for the data of the
//! files that won. Memory is bound by the number of entries (about 200 bytes each plus their names), never
//! by the size of files.
//!
//! What the stream deliberately does not contain: owners (all is root's), extended attributes, setuid and
//! setgid bits, device nodes, fifos and sockets, anything below `dev/`, and the contents of the shadow
//! password files; see [`policy`] for each rule. Compressing and publishing are someone else's work.

mod archive;
mod emit;
mod error;
mod header;
mod limits;
mod name;
mod pax;
pub mod policy;
mod resolve;
mod scan;
mod stream;
mod tree;
mod writer;

use std::io::Write;
use std::path::PathBuf;

use shifter_core::digest::Digest;

pub use error::{Fault, MergeError, Rule};
pub use limits::Limits;

/// How a layer file is compressed; the last part of its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, one or more members (`…tar+gzip`, Docker's `…tar.gzip`).
    Gzip,
    /// Zstandard, one or more frames (`…tar+zstd`).
    Zstd,
    /// A plain tar (`…tar`).
    None,
}

/// One layer of an image, in a local file whose own digest was verified by whoever downloaded it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The file; it must not change during [`merge`].
    pub path: PathBuf,
    /// The digest of the file, which names the layer in errors.
    pub digest: Digest,
    /// The digest of the uncompressed tar from the image's configuration; verified where given.
    pub diff_id: Option<Digest>,
    /// How to read the file.
    pub compression: Compression,
}

/// What [`merge`] wrote and what it left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Archive entries read in all layers, extension headers not counted.
    pub entries_read: u64,
    /// Bytes of all uncompressed layer streams.
    pub uncompressed_bytes: u64,
    /// Directories written, the root and synthesized parents included.
    pub directories: u64,
    /// Regular files written, each hard-linked file once.
    pub files: u64,
    /// Bytes of file data written.
    pub file_bytes: u64,
    /// Symbolic links written.
    pub symlinks: u64,
    /// Further names written for files with several.
    pub hard_links: u64,
    /// Names left out by policy: devices, fifos, and what lies below `dev/`.
    pub names_left_out: u64,
}

/// Reads `layers`, oldest first, and writes the image that they make as one tar stream.
///
/// Nothing is written before every layer has been read to its end and found right, so a bad layer costs
/// the writer nothing.
pub fn merge(layers: &[Layer], limits: &Limits, out: &mut dyn Write) -> Result<Summary, MergeError> {
    if layers.len() > limits.layers {
        return Err(MergeError::TooManyLayers { count: layers.len(), limit: limits.layers });
    }
    let mut summary = Summary::default();
    let mut index = scan::Index::default();
    for (number, layer) in layers.iter().enumerate() {
        index.add_layer(number, layer, limits, &mut summary)?;
    }
    emit::write_image(index, layers, limits, writer::TarWriter::new(out), &mut summary)?;
    Ok(summary)
}
