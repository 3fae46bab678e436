//! Squashfs images: by [our own writer](writer), or from a merged tar stream through `tar2sqfs` or `mksquashfs`.
//!
//! The tool runs as a child with a fixed environment and an exact argument vector, reads the stream from a
//! pipe and never sees the untrusted layers as files. [`convert`] either leaves a complete, synced image or
//! no file at all, and says why in the tool's own words.
//!
//! What this crate deliberately does not do: read layers, name or publish images. The stream must keep the
//! tools' rules, which their exit status does not enforce: parents before children, hard links after their
//! targets (`mksquashfs -tar` drops others silently), no name twice. Compare [`Superblock::inodes`] with what
//! was fed to be sure.

mod converter;
mod error;
mod options;
pub mod reader;
mod run;
mod superblock;
pub mod writer;

pub use converter::Converter;
pub use error::{ConvertError, FindError, OptionError, SuperblockError};
pub use options::{Compression, Options};
pub use run::convert;
pub use superblock::Superblock;
