//! What the gateway and its clients say to each other, and a small blocking client.
//!
//! The wire types are shared by both sides so that they cannot drift apart. The crate knows no
//! routes' logic and no database, and writes no credential file.

/// The crate whose credentials and errors this one's functions take and return.
pub use shifter_munge as munge;

pub mod client;
pub mod cred;
pub mod payload;
pub mod wire;
