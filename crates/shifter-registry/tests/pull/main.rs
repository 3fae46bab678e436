//! Pulling from real and hostile registries.
//!
//! The real one is docker-registry, behind squid, tinyproxy and dante-server (Debian packages of those names; their
//! absence fails the tests). What no honest registry does is played by a small server in the test process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod auth;
mod cache;
mod crash;
mod documents;
mod faults;
mod fixture;
mod mirrors;
mod proxies;
mod real;
mod registry;
mod room;
mod server;
mod tokens;
mod transfer;
mod verify;
