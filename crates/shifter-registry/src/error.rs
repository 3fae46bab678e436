//! What can go wrong between a registry and the cache, as sentences.
//!
//! Every text names the operation, the host or object, and the cause. None contains credentials, tokens, query
//! strings or the body of a registry's answer: a hostile registry could echo a password there. What is kept of
//! an answer is its status and the error codes of the distribution specification, spelt from an allow-list.

use std::path::PathBuf;
use std::time::Duration;

/// An operation against a registry or the blob cache that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The configuration of the location cannot be used.
    #[error("location \"{location}\" cannot be used: {cause}")]
    Location {
        /// Name of the location.
        location: String,
        /// Why.
        cause: String,
    },
    /// The private CA file of a location cannot be used.
    #[error("cannot use CA certificates {} of location \"{location}\": {cause}; sslcacert must name a readable PEM file of CA certificates", .path.display())]
    Certificate {
        /// Name of the location.
        location: String,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Repository, tag or digest not as the distribution specification wants it.
    #[error("\"{name}\" is not a valid {what}: {rule}")]
    Name {
        /// `repository`, `tag` or `digest`.
        what: &'static str,
        /// The text, shortened and escaped.
        name: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// The site does not let its users pull this.
    #[error("{image} may not be pulled: {cause} ({known}); the administrator of the image gateway decides")]
    Policy {
        /// Registry and repository.
        image: String,
        /// Why.
        cause: String,
        /// The configured locations, separated by commas.
        known: String,
    },
    /// The registry wants credentials that the caller did not give, or refused those given.
    #[error("cannot {operation}: {cause}")]
    Unauthorized {
        /// What was being done, `read manifest a/b:c on docker.io`.
        operation: String,
        /// Why, with the way out.
        cause: String,
    },
    /// No such repository, tag or blob.
    #[error("cannot {operation}: the registry has no such image{code}")]
    NotFound {
        /// What was being done.
        operation: String,
        /// The registry's own error code, ` (MANIFEST_UNKNOWN)`, or nothing.
        code: String,
    },
    /// The registry limits how often we may ask.
    #[error("cannot {operation}: the registry limits the rate of requests{}; credentials often raise that limit", wait_text(.wait))]
    RateLimited {
        /// What was being done.
        operation: String,
        /// How long it told us to wait.
        wait: Option<Duration>,
    },
    /// An answer with a status we can do nothing with.
    #[error("cannot {operation}: {host} answered {status}{code}")]
    Status {
        /// What was being done.
        operation: String,
        /// Who answered; after a redirect not the registry.
        host: String,
        /// HTTP status.
        status: u16,
        /// The registry's own error code or nothing.
        code: String,
        /// How long it told us to wait.
        wait: Option<Duration>,
    },
    /// No connection, or one that broke more often than we retry.
    #[error("cannot {operation}: no answer from {host}: {cause}")]
    Unreachable {
        /// What was being done.
        operation: String,
        /// The other side.
        host: String,
        /// Why.
        cause: String,
    },
    /// The other side's certificate is not trusted or TLS is impossible.
    #[error(
        "cannot {operation}: no secure connection to {host}: {cause}; a private CA is named by sslcacert of the location"
    )]
    Tls {
        /// What was being done.
        operation: String,
        /// The other side.
        host: String,
        /// Why.
        cause: String,
    },
    /// A redirect or token address that must not be followed.
    #[error("cannot {operation}: refused to go where {host} points: {cause}")]
    Redirect {
        /// What was being done.
        operation: String,
        /// Who pointed there.
        host: String,
        /// Why not.
        cause: String,
    },
    /// An answer against the specification.
    #[error("cannot {operation}: the answer is malformed: {cause}")]
    Malformed {
        /// What was being done.
        operation: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A well-formed thing that is no image we can run.
    #[error("cannot {operation}: {cause}")]
    Unsupported {
        /// What was being done.
        operation: String,
        /// What it is, with the way out.
        cause: String,
    },
    /// More than we accept from outside.
    #[error("cannot {operation}: {what} exceeds the limit of {limit}")]
    TooLarge {
        /// What was being done.
        operation: String,
        /// Which thing.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
    /// Bytes that are not what was promised.
    #[error("cannot {operation}: content does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was being done.
        operation: String,
        /// The digest promised.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// More or fewer bytes than promised.
    #[error("cannot {operation}: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// What was being done.
        operation: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes that came or were announced; at least that many.
        actual: u64,
    },
    /// The image does not exist for the wanted platform.
    #[error("cannot {operation}: the image has no {wanted} variant; it offers {offered}")]
    Platform {
        /// What was being done.
        operation: String,
        /// The platform asked for.
        wanted: String,
        /// The platforms offered, separated by commas.
        offered: String,
    },
    /// The cache directory cannot be used.
    #[error("cannot {operation} {}: {source}{}", .path.display(), disk_hint(.source))]
    Cache {
        /// What was being done with it, `write blob`.
        operation: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Whether the registry wants (other) credentials: the caller can do something about it.
    pub fn is_auth(&self) -> bool {
        matches!(self, Self::Unauthorized { .. })
    }

    /// Whether the registry said that there is no such image.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unreachable { .. } => true,
            // 501 and 505 say that the request as such is not understood.
            Self::Status { status, .. } => (500..600).contains(status) && !matches!(status, 501 | 505),
            _ => false,
        }
    }

    /// Whether other bytes came than were promised.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(self, Self::DigestMismatch { .. } | Self::SizeMismatch { .. })
    }

    /// How long the registry told us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { wait, .. } | Self::Status { wait, .. } => *wait,
            _ => None,
        }
    }
}

fn wait_text(wait: &Option<Duration>) -> String {
    match wait {
        Some(wait) => format!(" and wants us back in {} s", wait.as_secs()),
        None => String::new(),
    }
}

fn disk_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free space there or point CacheDirectory at a larger file system"
        }
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            "; the gateway's account must be able to write there"
        }
        _ => "",
    }
}

/// A text from outside, shortened and without control characters, fit for a message.
pub(crate) fn quote(text: &str) -> String {
    let mut out: String = text.chars().take(120).collect::<String>().escape_debug().to_string();
    if text.chars().count() > 120 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let error = RegistryError::Cache {
            operation: "write blob",
            path: "/cache/sha256/x".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot write blob /cache/sha256/x: no storage space; \
             free space there or point CacheDirectory at a larger file system"
        );
        assert!(!error.is_transient() && !error.is_auth() && !error.is_not_found());
    }

    #[test]
    fn only_what_may_pass_by_itself_is_transient() {
        let status = |status| RegistryError::Status {
            operation: "x".into(),
            host: "h".into(),
            status,
            code: "".into(),
            wait: None,
        };
        for (error, transient) in [
            (status(503), true),
            (status(501), false),
            (status(418), false),
            (RegistryError::RateLimited { operation: "x".into(), wait: None }, true),
            (RegistryError::NotFound { operation: "x".into(), code: "".into() }, false),
        ] {
            assert_eq!(error.is_transient(), transient, "{error}");
        }
    }

    #[test]
    fn foreign_text_cannot_forge_lines_in_a_log() {
        assert_eq!(quote("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(quote(&"x".repeat(500)).chars().count(), 121);
    }
}
