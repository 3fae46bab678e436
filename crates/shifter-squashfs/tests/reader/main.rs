//! The reader against images that tools made, images that nobody should make, and what it writes to disk. Needs
//! root (devices, owners, trusted attributes), mksquashfs, tar2sqfs and GNU tar; a missing one fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod craft;
mod extracted;
mod hostile;
mod hostile_rows;
mod made;
mod mutated;
mod tree;
mod whole;
