//! One place to get content from, the registry itself or a mirror, and the order in which places are tried.
//!
//! Whatever comes from here was verified against the digest asked for, so it does not matter for the result which
//! place it came from. A mirror is tried once for each thing; one that does not answer is left alone for a minute.
//! Retries are for the registry itself.

use crate::auth::Auth;
use crate::backoff::Retries;
use crate::error::{RegistryError, quote};
use crate::hash::digest_like;
use crate::location::AuthMethod;
use crate::manifest;
use crate::transport::{Answer, Call, Transport, host_of};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use shifter_core::digest::{Algorithm, Digest};
use std::sync::Arc;

/// The registry's own statement of a manifest's digest (distribution-spec "Pulling manifests").
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A place, as one caller sees it.
pub(crate) struct Source {
    pub(crate) transport: Arc<Transport>,
    pub(crate) auth: Auth,
}

/// A manifest's verified bytes.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: Option<String>,
}

/// The places left for one thing, and the attempts left at the last of them.
pub(crate) struct Tries<'a> {
    source: &'a Source,
    /// The repository's name there.
    name: String,
    /// Where to go next; empty once the registry itself is tried.
    next: std::vec::IntoIter<&'a Source>,
    full_name: String,
    retries: Retries<'a>,
}

impl<'a> Tries<'a> {
    /// All of `mirrors` that are not left alone, then `origin`.
    pub(crate) fn new(
        mirrors: &'a [Source],
        origin: &'a Source,
        repository: &str,
    ) -> Result<Self, RegistryError> {
        let full_name = origin.transport.base.full_name(repository)?;
        let usable = mirrors.iter().filter(|mirror| mirror.transport.seems_up());
        let mut places: Vec<_> = usable.collect();
        places.push(origin);
        let mut next = places.into_iter();
        let source = next.next().unwrap_or(origin);
        let name = source.transport.base.under_path(&full_name);
        Ok(Self { source, name, next, full_name, retries: Retries::new(&origin.transport.settings) })
    }

    /// Where to try now, and the repository's name there.
    pub(crate) fn current(&self) -> (&'a Source, &str) {
        (self.source, &self.name)
    }

    /// Whether a mirror is tried now.
    pub(crate) fn is_mirror(&self) -> bool {
        self.next.len() > 0
    }

    /// After a failure: on to the next place, or, at the last one, a pause before the next attempt there. Gives the
    /// error back if there is no use in trying again.
    pub(crate) async fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let Some(next) = self.next.next() else { return self.retries.pause_after(error).await };
        let mirror = &self.source.transport;
        tracing::info!(mirror = host_of(&mirror.base.url), %error, "going on without a mirror");
        if error.is_transient() || matches!(error, RegistryError::Tls { .. }) {
            mirror.leave_alone();
        }
        self.name = next.transport.base.under_path(&self.full_name);
        self.source = next;
        Ok(())
    }

    /// The attempts were not in vain: count from the start again.
    pub(crate) fn reset(&mut self) {
        self.retries.reset();
    }
}

impl Source {
    pub(crate) fn new(transport: Arc<Transport>, auth: Auth) -> Self {
        Self { transport, auth }
    }

    /// A mirror, which sees nobody's credentials.
    pub(crate) fn anonymous(transport: Arc<Transport>) -> Self {
        let auth = Auth::new(None, AuthMethod::default(), &host_of(&transport.base.url));
        Self { transport, auth }
    }

    /// One request for a blob from byte `offset` on; the caller reads the answer and retries.
    pub(crate) async fn blob(
        &self,
        name: &str,
        digest: &Digest,
        offset: u64,
        operation: &str,
    ) -> Result<Response, RegistryError> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers.insert(reqwest::header::RANGE, range.map_err(|e| malformed(operation, e.to_string()))?);
        }
        let url = self.transport.base.endpoint(name, "blobs", &digest.to_string());
        let call = Call { method: Method::GET, url, headers, timeout: None, form: None, operation };
        let answer = self.auth.send(&self.transport, name, &call).await?;
        if offset > 0 && answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(answer.response);
        }
        answer.success(&self.transport, operation).await
    }

    /// Whether this caller may have a blob; one attempt.
    pub(crate) async fn has_blob(
        &self,
        name: &str,
        digest: &Digest,
        operation: &str,
    ) -> Result<(), RegistryError> {
        let url = self.transport.base.endpoint(name, "blobs", &digest.to_string());
        let timeout = Some(self.transport.settings.document_timeout);
        let (method, headers) = (Method::HEAD, HeaderMap::new());
        let call = Call { method, url, headers, timeout, form: None, operation };
        let answer = self.auth.send(&self.transport, name, &call).await?;
        match answer.response.status().as_u16() {
            // The registry itself has sent us on, to an address that may be good for GET only.
            _ if !answer.at_origin => Ok(()),
            400 | 405 => self.blob(name, digest, 0, operation).await.map(drop),
            _ => answer.success(&self.transport, operation).await.map(drop),
        }
    }

    /// One request for a manifest.
    pub(crate) async fn request(
        &self,
        method: Method,
        name: &str,
        reference: &str,
        operation: &str,
    ) -> Result<Answer, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPT));
        let url = self.transport.base.endpoint(name, "manifests", reference);
        let timeout = Some(self.transport.settings.document_timeout);
        let call = Call { method, url, headers, timeout, form: None, operation };
        self.auth.send(&self.transport, name, &call).await
    }

    /// A manifest's bytes, equal to what the place's header and `wanted` say; one attempt.
    pub(crate) async fn manifest(
        &self,
        name: &str,
        reference: &str,
        wanted: Option<&Digest>,
        operation: &str,
    ) -> Result<Fetched, RegistryError> {
        let limit = self.transport.settings.max_manifest;
        let answer = self.request(Method::GET, name, reference, operation).await?;
        let response = answer.success(&self.transport, operation).await?;
        let stated = stated_digest(&response, operation)?;
        let content_type = content_type(&response);
        let bytes = self.transport.body(response, limit, "the manifest", operation).await?;
        for expected in stated.iter().chain(wanted) {
            expect_digest(expected, &digest_like(expected, &bytes), operation)?;
        }
        Ok(Fetched { bytes, content_type })
    }

    /// An image configuration's verified bytes; one attempt.
    pub(crate) async fn config(
        &self,
        name: &str,
        digest: &Digest,
        size: u64,
        operation: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let settings = &self.transport.settings;
        let response = self.blob(name, digest, 0, operation).await?;
        let body = self.transport.body(response, settings.max_config, "the image configuration", operation);
        let bytes = tokio::time::timeout(settings.document_timeout, body).await;
        let bytes = bytes.map_err(|_| RegistryError::Unreachable {
            operation: operation.to_owned(),
            host: host_of(&self.transport.base.url),
            cause: "timed out".to_owned(),
        })??;
        expect_size(size, bytes.len() as u64, operation)?;
        expect_digest(digest, &digest_like(digest, &bytes), operation)?;
        Ok(bytes)
    }
}

pub(crate) fn malformed(operation: &str, cause: String) -> RegistryError {
    RegistryError::Malformed { operation: operation.to_owned(), cause }
}

/// `Docker-Content-Digest`, refused where it is there but no digest.
pub(crate) fn stated_digest(response: &Response, operation: &str) -> Result<Option<Digest>, RegistryError> {
    let Some(value) = response.headers().get(CONTENT_DIGEST) else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let digest = Digest::parse(text);
    digest.map(Some).map_err(|e| malformed(operation, format!("Docker-Content-Digest {}: {e}", quote(text))))
}

pub(crate) fn content_type(response: &Response) -> Option<String> {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

pub(crate) fn sha256(bytes: &[u8], operation: &str) -> Result<Digest, RegistryError> {
    let mut hasher = crate::hash::Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    Digest::parse(&hasher.finish()).map_err(|e| malformed(operation, e.to_string()))
}

pub(crate) fn expect_digest(expected: &Digest, actual: &str, operation: &str) -> Result<(), RegistryError> {
    if expected.to_string() == actual {
        return Ok(());
    }
    Err(RegistryError::DigestMismatch {
        operation: operation.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_owned(),
    })
}

pub(crate) fn expect_size(expected: u64, actual: u64, operation: &str) -> Result<(), RegistryError> {
    if expected == actual {
        return Ok(());
    }
    Err(RegistryError::SizeMismatch { operation: operation.to_owned(), expected, actual })
}
