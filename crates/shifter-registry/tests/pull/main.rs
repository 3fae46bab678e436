//! Pulling from real and hostile registries.
//!
//! The real one is docker-registry (Debian package of that name; its absence fails the tests). What no honest
//! registry does is played by a small server in the test process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod auth;
mod cache;
mod documents;
mod fixture;
mod real;
mod registry;
mod server;
mod transfer;
