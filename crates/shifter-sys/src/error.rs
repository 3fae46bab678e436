//! The one error of this crate: an operation, the thing it was done to, and what the kernel said.

use rustix::path::Arg;
use std::fmt;
use std::io;

/// A failed operation; prints as "cannot OPERATION OBJECT: CAUSE".
#[derive(Debug)]
pub struct Error {
    /// What was being done: "open", "mount" …
    pub operation: &'static str,
    /// To what: a path or a name.
    pub object: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why an operation failed.
#[derive(Debug)]
pub enum Cause {
    /// The kernel refused.
    Kernel(io::Error),
    /// A check of ours refused; the text completes "because".
    Refused(&'static str),
    /// A process of ours failed and said this.
    Said(String),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.operation, self.object.escape_debug())?;
        match &self.cause {
            Cause::Kernel(error) => error.fmt(f),
            Cause::Refused(rule) => f.write_str(rule),
            Cause::Said(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An operation refused by a rule of ours.
    pub fn refused(operation: &'static str, object: impl Into<String>, rule: &'static str) -> Self {
        Self { operation, object: object.into(), cause: Cause::Refused(rule) }
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Kernel(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

/// Names operation and object of a kernel error; nothing is made of them where there is none.
pub(crate) trait During<T> {
    fn during(self, operation: &'static str, object: impl Arg) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, operation: &'static str, object: impl Arg) -> Result<T> {
        self.map_err(|error| Error {
            operation,
            object: object.to_string_lossy().into_owned(),
            cause: Cause::Kernel(error.into()),
        })
    }
}
