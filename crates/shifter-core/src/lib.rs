//! Shifter's vocabulary: pure types and `&str` parsers shared by every program.
//!
//! Nothing here opens a file, asks the kernel or allocates without a limit that the caller can see;
//! reading is someone else's work. The crate is part of the setuid closure, so it has no dependencies, and what
//! only the gateway's side needs (writing records, registry names) stands behind the feature `gateway`, and what other
//! programs of hosts need (the table of mounts) behind `setup`.

pub mod descriptor;
#[cfg(feature = "gateway")]
pub mod digest;
pub mod environment;
#[cfg(feature = "gateway")]
pub mod fasthash;
pub mod image_type;
pub mod json;
pub mod lexer;
pub mod meta;
#[cfg(feature = "setup")]
pub mod mountinfo;
pub mod nearest;
pub mod passwd;
pub mod paths;
#[cfg(feature = "gateway")]
pub mod reference;
pub mod shifter_conf;
pub mod udiroot;
pub mod volume;
