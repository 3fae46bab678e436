//! Reads squashfs 4.0 images that nobody vouches for: users' own files that the gateway imports. The image is
//! never handed to a kernel; it is read here, checked, and written anew by our writer.
//!
//! Every byte is taken for hostile. Whatever the file holds, reading it ends in bounded time and memory
//! ([`Limits`]) with the tree it describes or with a sentence that says where in the file which rule is broken.
//! The file may even change while it is read: all that is used was checked after it was read. But only of a file
//! that nobody can change are two passes sure to read the same, so copy it first where that matters.
//!
//! - [`Image::open`] reads and checks the superblock and the places of all tables.
//! - [`Image::walk`] goes through the tree once and checks it: no directory twice, numbers and parents that
//!   agree, names that are names, sorted and unique, blocks within the data, sizes within the limits.
//! - [`Image::data`] streams one file's content, holes apart, with one block in memory.
//! - [`extract`] writes the tree below an open directory, for programs that look at it.
//!
//! All compressors but lzo, all inode types, fragments, holes and extended attributes are read. Directory
//! indexes and the export table are shortcuts for a kernel and are ignored; so are claims such as a file's
//! count of sparse bytes, where the truth can be counted.
//!
//! What this module deliberately does not do: mount, write images, decide what of an image is kept.
//!
//! Format: Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h in the Linux source.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::expect_used
)]

mod cache;
mod codec;
mod cursor;
mod data;
mod directory;
mod error;
mod extract;
mod image;
mod inode;
mod limits;
mod lookup;
mod source;
mod store;
mod superblock;
mod walk;
mod xattr;

pub use codec::Codec;
pub use data::{Chunk, FileData};
pub use error::{Category, Part, Place, Problem, ReadError};
pub use extract::{Allowance, ExtractError, Extracted, Fidelity, extract};
pub use image::Image;
pub use inode::{Attributes, FileLayout, Inode, Kind};
pub use limits::Limits;
pub use source::Source;
pub use walk::{Entry, Event, Walk};
pub use xattr::Xattr;
