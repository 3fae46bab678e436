//! The kernel as Shifter needs it: safe wrappers over descriptors, mounts, loop devices, ids, signals and
//! exec. It knows nothing of Shifter, and it is the only crate of the setuid closure with unsafe code.
//!
//! Everything here is for one thread: ids set through these functions are the thread's (setresuid(2),
//! "C library/kernel differences"), which is the process's only as long as there is one.

mod arena;
pub mod child;
pub mod credentials;
pub mod descriptors;
pub mod directory;
pub mod error;
pub mod exec;
#[cfg(feature = "setup")]
pub mod keeper;
pub mod lockdown;
pub mod loopdev;
pub mod mount;
pub mod namespace;
pub mod signals;
pub mod trusted;

pub use error::{Error, Result};
