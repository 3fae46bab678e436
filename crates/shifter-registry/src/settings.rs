//! Limits, time-outs and retries of a [`Client`](crate::Client), with the defaults the gateway uses.

use std::time::Duration;

/// How patient and how trusting a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time to establish a connection.
    pub connect_timeout: Duration,
    /// Longest silence in the middle of an answer.
    pub read_timeout: Duration,
    /// Longest time for one small document (manifest, configuration, token) from request to last byte.
    pub document_timeout: Duration,
    /// Slowest blob transfer still waited for, in bytes per second, after the first ten minutes; so that a
    /// registry that drips single bytes cannot hold a job forever.
    pub slowest_transfer: u64,
    /// Attempts after the first one for connection errors, 429 and 5xx. For blobs counted anew after every
    /// mebibyte received.
    pub retries: u32,
    /// First pause between attempts; doubled each time, with jitter.
    pub first_pause: Duration,
    /// Longest pause between attempts. A `Retry-After` beyond it ends the attempt with an error at once.
    pub longest_pause: Duration,
    /// Redirects followed for one request.
    pub max_redirects: u32,
    /// Largest manifest or index, bytes.
    pub max_manifest: u64,
    /// Largest image configuration, bytes.
    pub max_config: u64,
    /// Most layers of one image.
    pub max_layers: usize,
    /// Largest layer as stored in the registry, bytes.
    pub max_layer: u64,
    /// Largest image, all layers together as stored in the registry, bytes.
    pub max_image: u64,
}

impl Settings {
    /// The same with another longest silence; whole documents are granted at least as much.
    pub(crate) fn with_silence(self, timeout: Duration) -> Self {
        Self { read_timeout: timeout, document_timeout: self.document_timeout.max(timeout), ..self }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            document_timeout: Duration::from_secs(120),
            slowest_transfer: 32 * 1024,
            retries: 4,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(60),
            max_redirects: 5,
            max_manifest: 4 << 20,
            max_config: 8 << 20,
            max_layers: 512,
            max_layer: 256 << 30,
            max_image: 512 << 30,
        }
    }
}
