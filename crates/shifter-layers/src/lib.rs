//! Untrusted OCI and Docker layer archives, merged into the image that its user will see (image-spec
//! layer.md: whiteouts, opaque directories, replaced types, hard links).
//!
//! The entries never touch the host file system: layers are read, a tree of names is built in memory, and
//! the data of files goes to a [`Sink`] as it comes. So there is no path on disk that a hostile name,
//! symlink or hard link could reach, and no privilege is needed.
//!
//! Every layer is decompressed once, newest first, by a thread of its own; an older one need not be there before its
//! turn comes. Thus it is known of nearly every
//! file, when it comes, whether a newer layer hides it; `live.rs` says how the rest is decided. Memory is
//! bound by the number of entries (about 120 bytes each plus the last component of their names), never by
//! the size of files.
//!
//! What an image deliberately does not contain, unless the [`Policy`] says otherwise: owners (all is
//! root's), extended attributes, setuid and setgid bits, device nodes and fifos, and in any case anything
//! below `dev/` and the contents of the shadow password files; see [`policy`] for each rule. Compressing
//! and publishing are someone else's work.

mod apply;
mod archive;
mod content;
mod entries;
mod error;
mod feeder;
mod header;
mod image;
mod limits;
mod live;
mod name;
mod paths;
mod pax;
pub mod policy;
mod records;
mod resolve;
mod scan;
mod sink;
mod sparse;
mod spool;
mod stock;
mod stream;
mod tar_tree;
mod tree;
mod writer;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shifter_core::digest::Digest;

pub use error::{Fault, MergeError, Near, Rule};
pub use image::Image;
pub use limits::Limits;
pub use policy::Policy;
pub use records::RECORDS_VERSION;
pub use sink::{Attributes, Device, Sink, Special, Tables, Xattr};
pub use writer::TarWriter;

use entries::Opened;
use scan::Scan;

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
    /// The file; it must not change while it is read.
    pub path: PathBuf,
    /// The digest of the file, which names the layer in errors.
    pub digest: Digest,
    /// The digest of the uncompressed tar from the image's configuration; verified where given.
    pub diff_id: Option<Digest>,
    /// How to read the file.
    pub compression: Compression,
    /// Bytes of the file that were read so far; for whoever wants to know how far a merge has come.
    pub read: Arc<AtomicU64>,
}

/// Where the entries of a layer are read.
pub enum Origin<'a> {
    /// From its archive.
    Archive,
    /// From its archive, which is asked for when its turn comes; [`Layer::path`] is not used. Whoever hands it over
    /// has verified it by then.
    Later(Box<dyn FnOnce() -> io::Result<File> + 'a>),
    /// From what the sink [recorded](Sink::records) when the archive was read; [`Layer::path`] is not used.
    /// Whoever kept the records knows that they are the layer's, and that its diff_id was right.
    Records(Box<dyn Read + 'a>),
}

/// What a merge wrote and what it left out.
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
    /// Devices and fifos written; none unless policy keeps them.
    pub specials: u64,
    /// Names left out by policy: devices, fifos, and what lies below `dev/`.
    pub names_left_out: u64,
}

/// Reads `layers`, given oldest first, and hands the data of their files to `sink`, newest layer first.
///
/// The image that comes back holds the tree; it is to be [written](Image::write) when the sink has done what
/// it must do between data and tables. Every layer has then been read to its end and has its diff_id. After
/// an error nothing that the sink took is worth anything.
pub fn read_layers<S: Sink>(
    layers: &[Layer],
    limits: &Limits,
    policy: &Policy,
    sink: &mut S,
) -> Result<Image<S::Data>, MergeError> {
    let archives = layers.iter().map(|_| Origin::Archive).collect();
    read_layers_from(layers, archives, limits, policy, sink)
}

/// As [`read_layers`], with an origin for each layer. What comes out does not depend on the origins.
pub fn read_layers_from<S: Sink>(
    layers: &[Layer],
    origins: Vec<Origin<'_>>,
    limits: &Limits,
    policy: &Policy,
    sink: &mut S,
) -> Result<Image<S::Data>, MergeError> {
    if layers.len() > limits.layers {
        return Err(MergeError::TooManyLayers { count: layers.len(), limit: limits.layers });
    }
    let limits = limits.countable();
    let mut scan = Scan::new(sink, &limits, policy);
    for (number, (layer, origin)) in layers.iter().zip(origins).enumerate().rev() {
        scan.read_layer(layer, Opened::open(layer, origin, &limits)?, number == 0)?;
    }
    let Scan { mut stock, counters, summary, .. } = scan;
    let tree = apply::apply_layers(&mut stock, layers, counters, &limits)?;
    Image::new(stock, tree, summary, sink)
}

/// Reads `layers`, oldest first, and writes the image that they make as one tar stream, for a converter that
/// is a program of its own. Data waits in an unlinked temporary file beside the newest layer.
///
/// Nothing is written before every layer has been read to its end and found right, so a bad layer costs
/// the writer nothing.
pub fn merge(layers: &[Layer], limits: &Limits, out: &mut dyn Write) -> Result<Summary, MergeError> {
    let folder = layers.last().and_then(|layer| layer.path.parent()).unwrap_or(Path::new("."));
    let archives = layers.iter().map(|_| Origin::Archive).collect();
    merge_to_tar(layers, archives, limits, &Policy::default(), folder, out)
}

/// As [`merge`], with an origin for each layer, a policy, and a folder for the temporary file, which takes up to the uncompressed size
/// of the image.
pub fn merge_to_tar(
    layers: &[Layer],
    origins: Vec<Origin<'_>>,
    limits: &Limits,
    policy: &Policy,
    folder: &Path,
    out: &mut dyn Write,
) -> Result<Summary, MergeError> {
    let mut spool = spool::Spool::new(folder);
    let read = read_layers_from(layers, origins, limits, policy, &mut spool);
    let image = match (read, spool.failure()) {
        (Err(MergeError::WriteOutput { source }), true) => {
            return Err(MergeError::Spool { folder: folder.to_owned(), source });
        }
        (read, _) => read?,
    };
    let mut tree = tar_tree::TarTree::default();
    let (root, summary) = image.write(&mut tree)?;
    drop(image);
    tree.write(root, &mut spool, writer::TarWriter::new(out))?;
    Ok(summary)
}
