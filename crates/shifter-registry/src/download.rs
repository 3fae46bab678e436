//! The network side of a download: blocks of one blob in order, resumed where the connection broke.
//!
//! Mirrors come first, each once; what they sent counts until the digest says otherwise.
//! A registry that honors `Range` loses only what was not received; one that does not starts over. Attempts are
//! counted anew for every mebibyte that is really new, so a large blob over a bad line arrives and a server that
//! breaks off at the same byte each time does not hold us forever.

use crate::cache::Progress;
use crate::error::RegistryError;
use crate::manifest::LayerDescriptor;
use crate::settings::Settings;
use crate::source::Tries;
use crate::writer::Message;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// Bytes collected before they are handed to the disk side.
const BLOCK: usize = 256 * 1024;
/// New bytes that renew the allowance of attempts.
const ADVANCE: u64 = 1 << 20;
/// Time granted to any transfer before its speed counts.
const GRACE: Duration = Duration::from_secs(600);

/// The other side is gone: it failed and will tell why.
pub(crate) struct Closed;

/// How a transfer ends early.
pub(crate) enum Stop {
    /// The network side failed.
    Failed(RegistryError),
    /// The disk side failed.
    Closed,
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error)
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// One blob on its way.
pub(crate) struct Download<'a> {
    tries: Tries<'a>,
    settings: &'a Settings,
    layer: &'a LayerDescriptor,
    operation: &'a str,
    sender: Sender<Message>,
    progress: &'a (dyn Fn(Progress) + Sync),
    received: u64,
    block: Vec<u8>,
}

impl<'a> Download<'a> {
    /// A download of `layer` from where `tries` says into `sender`, which has `received` bytes already.
    pub(crate) fn new(
        tries: Tries<'a>,
        settings: &'a Settings,
        layer: &'a LayerDescriptor,
        operation: &'a str,
        sender: Sender<Message>,
        progress: &'a (dyn Fn(Progress) + Sync),
        received: u64,
    ) -> Self {
        Self { tries, settings, layer, operation, sender, progress, received, block: Vec::new() }
    }

    /// Sends all bytes and `Finish`.
    pub(crate) async fn run(mut self) -> Result<(), Stop> {
        let speed = self.settings.slowest_transfer.max(1);
        let deadline = GRACE.saturating_add(Duration::from_secs(self.layer.size / speed));
        let outcome = tokio::time::timeout(deadline, self.attempts()).await;
        // What came since the last whole block is worth something to the next attempt.
        let _ = self.flush().await;
        match outcome {
            Ok(outcome) => outcome,
            Err(_) => Err(Stop::Failed(RegistryError::Unreachable {
                operation: self.operation.to_owned(),
                host: self.host(),
                cause: format!("slower than {speed} bytes per second"),
            })),
        }
    }

    async fn attempts(&mut self) -> Result<(), Stop> {
        let mut mark = self.received;
        loop {
            let error = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Stop::Closed) => return Err(Stop::Closed),
                Err(Stop::Failed(error)) => error,
            };
            if self.received >= mark + ADVANCE {
                mark = self.received;
                self.tries.reset();
            }
            self.tries.after(error).await?;
        }
    }

    async fn attempt(&mut self) -> Result<(), Stop> {
        if self.received < self.layer.size || self.layer.size == 0 {
            let mut response = self.open().await?;
            let url = response.url().clone();
            let transport = Arc::clone(&self.tries.current().0.transport);
            loop {
                let chunk = response.chunk().await;
                let chunk = chunk.map_err(|e| transport.network_error(e, self.operation, &url))?;
                let Some(chunk) = chunk else { break };
                self.take(&chunk).await?;
            }
            if self.received < self.layer.size {
                let (received, size) = (self.received, self.layer.size);
                return Err(Stop::Failed(RegistryError::Unreachable {
                    operation: self.operation.to_owned(),
                    host: crate::transport::host_of(&url),
                    cause: format!("the transfer ended after {received} of {size} bytes"),
                }));
            }
        }
        self.flush().await?;
        self.sender.send(Message::Finish).await.map_err(|_| Stop::Closed)
    }

    /// A response that continues at `self.received`, which is set to zero where the registry cannot.
    async fn open(&mut self) -> Result<Response, Stop> {
        let mut response = self.request().await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            self.restart().await?;
            response = self.request().await?;
        }
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let start = range_start(response.headers());
            if start != Some(self.received) {
                return Err(Stop::Failed(RegistryError::Malformed {
                    operation: self.operation.to_owned(),
                    cause: format!("asked for bytes from {} on, got a different range", self.received),
                }));
            }
        } else if self.received > 0 {
            self.restart().await?;
        }
        if let Some(length) = response.content_length()
            && self.received.saturating_add(length) != self.layer.size
        {
            return Err(Stop::Failed(self.wrong_size(self.received.saturating_add(length))));
        }
        Ok(response)
    }

    async fn request(&self) -> Result<Response, RegistryError> {
        let (source, name) = self.tries.current();
        source.blob(name, &self.layer.digest, self.received, self.operation).await
    }

    fn host(&self) -> String {
        crate::transport::host_of(&self.tries.current().0.transport.base.url)
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), Stop> {
        let after = self.received + chunk.len() as u64;
        if after > self.layer.size {
            return Err(Stop::Failed(self.wrong_size(after)));
        }
        self.block.extend_from_slice(chunk);
        self.received = after;
        if self.block.len() >= BLOCK {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        if !self.block.is_empty() {
            let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK + BLOCK / 8));
            self.sender.send(Message::Block(block)).await.map_err(|_| Closed)?;
        }
        self.report();
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), Closed> {
        self.block.clear();
        self.received = 0;
        self.report();
        self.sender.send(Message::Restart).await.map_err(|_| Closed)
    }

    fn report(&self) {
        (self.progress)(Progress { received: self.received, total: self.layer.size, cached: false });
    }

    fn wrong_size(&self, actual: u64) -> RegistryError {
        RegistryError::SizeMismatch {
            operation: self.operation.to_owned(),
            expected: self.layer.size,
            actual,
        }
    }
}

/// First byte of `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        for (text, expected) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-9/*", Some(0)),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(range_start(&headers), expected, "{text}");
        }
    }
}
