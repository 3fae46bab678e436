//! Reading that ends when nobody waits for it any more: what runs in a thread of its own does not notice that the pull it
//! is for was cancelled. Bounds no time and no size.

use std::io::{self, Read};
use std::sync::{Arc, Weak};

/// Held by who waits; nothing is read any more once it is gone.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Arc<()>);

/// What is read as long as somebody waits.
#[derive(Debug)]
pub(crate) struct Watched<R> {
    from: R,
    waiting: Weak<()>,
}

impl Waiting {
    /// Puts what is read under watch.
    pub(crate) fn watch<R>(&self, from: R) -> Watched<R> {
        Watched { from, waiting: Arc::downgrade(&self.0) }
    }
}

impl<R> Watched<R> {
    /// Puts something else under the same watch.
    pub(crate) fn watch<S>(&self, from: S) -> Watched<S> {
        Watched { from, waiting: self.waiting.clone() }
    }

    /// Fails once nobody waits any more.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        match self.waiting.strong_count() {
            0 => Err(io::Error::other("nobody waits for it any more")),
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.go_on()?;
        self.from.read(buffer)
    }
}
