//! Plan, build and enter a container.
//!
//! Deciding and doing are apart: `plan` turns configuration, caller and image into a list of steps that can
//! be printed and tested; `apply` does them in a fresh mount namespace. The order that safety depends on is
//! in the types: only a `LockedDown` process opens configuration and image, only `Unprivileged` runs the
//! user's program. No helper program runs on the way of a local user and an `id:` image.

pub mod account;
pub mod apply;
pub mod command;
pub mod config;
pub mod environment;
pub mod error;
pub mod etc;
pub mod image;
pub mod kernel;
pub mod lookup;
mod node_copy;
pub mod plan;
pub mod prepared;

pub use error::{Error, Result};
