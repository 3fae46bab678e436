//! The API over HTTP, in process.
