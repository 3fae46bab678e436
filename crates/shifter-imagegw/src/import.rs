//! Images from files: what `doimport` and `upload` bring.
//!
//! A user's file is never handed to a kernel: it is read whole by our own reader in a confined child and written anew.
//! The identifier stays the original's (fasthash of the given file), which says little, so the file's whole digest is
//! kept beside it.

pub(crate) mod open;
mod rewrite;
pub(crate) mod source;
