//! Our own squashfs writer, judged by the kernel and by `unsquashfs`: trees are described, written, mounted
//! and compared entry by entry and byte by byte. Needs root, `unshare`, `mount` and `unsquashfs`; what is
//! missing fails. Mounts live in a mount namespace of the test's own and end with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod check;
mod content;
mod fixed;
mod large;
mod limits;
mod model;
mod random;
mod reread;
mod segments;
mod tables;
