//! What the gateway and its clients say to each other, and a small blocking client.
//!
//! The wire types are shared by both sides so that they cannot drift apart. The crate knows no
//! routes' logic, no database and no credentials file formats beyond what a request carries.

pub mod wire;
