//! One caller's view of one registry: what a tag names, and which configuration and layers belong to it.
//!
//! Everything returned was verified by digest from the top down: the top-level manifest against the registry's
//! own header and a digest asked for, the platform's manifest and the configuration against their descriptors.
//! Layers are only named here; `BlobCache` fetches them.

use crate::auth::Auth;
use crate::backoff::Retries;
use crate::config::{self, ImageConfig};
use crate::error::{RegistryError, quote};
use crate::hash::digest_like;
use crate::location::{AuthMethod, Credentials, Location};
use crate::manifest::{self, Document, LayerDescriptor};
use crate::platform::Platform;
use crate::settings::Settings;
use crate::transport::{Answer, Call, Transport};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use shifter_core::digest::{Algorithm, Digest};
use std::sync::Arc;

/// The registry's own statement of a manifest's digest (distribution-spec "Pulling manifests").
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Indexes within indexes that are followed.
const MAX_INDEX_DEPTH: usize = 3;

/// One caller's view of one registry. Make one per job: it holds that caller's credentials and forgets them when
/// it is dropped. It may be shared by the tasks of that job.
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    method: AuthMethod,
    auth: Auth,
    name: String,
}

/// What a tag names at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Digest of the top-level manifest.
    pub digest: Digest,
    /// Its media type as the registry says.
    pub media_type: Option<String>,
    /// Whether the registry demanded the caller's credentials.
    pub private: bool,
}

/// An image, found and verified up to its layers' descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// SHA-256 of the exact top-level manifest (of the index, where there is one).
    pub top_digest: Digest,
    /// Digest of the platform's manifest; equals `top_digest` where there is no index.
    pub manifest_digest: Digest,
    /// Digest of the configuration blob.
    pub config_digest: Digest,
    /// The image configuration.
    pub config: ImageConfig,
    /// Layers, base first, as many as `config.diff_ids`.
    pub layers: Vec<LayerDescriptor>,
    /// Whether the registry demanded the caller's credentials.
    pub private: bool,
}

/// A manifest's verified bytes.
struct Fetched {
    bytes: Vec<u8>,
    content_type: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("location", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for one caller. Reads the location's CA file; asks nothing of the registry yet.
    pub fn new(
        location: Location,
        credentials: Option<Credentials>,
        settings: Settings,
    ) -> Result<Self, RegistryError> {
        let transport = Arc::new(Transport::new(&location, settings)?);
        let method = location.auth_method;
        Ok(Self { transport, method, auth: Auth::new(credentials, method), name: quote(&location.name) })
    }

    /// A client for another caller of the same registry. The two share open connections and certificates, which
    /// saves reading the system's CAs and TLS handshakes, and nothing that either of them was granted.
    pub fn for_caller(&self, credentials: Option<Credentials>) -> Self {
        let auth = Auth::new(credentials, self.method);
        Self { transport: Arc::clone(&self.transport), method: self.method, auth, name: self.name.clone() }
    }

    /// What `reference` (a tag, or a digest `sha256:…`) of `repository` names now, by one HEAD request; by GET
    /// where the registry's answer to HEAD lacks the digest. Success proves that the registry lets this caller
    /// read the image.
    pub async fn head(&self, repository: &str, reference: &str) -> Result<Head, RegistryError> {
        let operation = self.operation("look up", repository, reference);
        let name = self.transport.base.repository(repository)?;
        let wanted = check_reference(reference)?;
        let mut retries = Retries::new(&self.transport.settings);
        let answer = loop {
            match self.request(Method::HEAD, &name, reference, &operation).await {
                Ok(answer) => break answer,
                Err(error) => retries.pause_after(error).await?,
            }
        };
        let unsupported = matches!(answer.response.status().as_u16(), 400 | 405);
        let response =
            if unsupported { None } else { Some(answer.success(&self.transport, &operation).await?) };
        let stated = response.as_ref().map(|r| stated_digest(r, &operation)).transpose()?.flatten();
        // Images are known by SHA-256; a registry that states another digest is asked for the bytes.
        let stated = stated.filter(|d| d.algorithm() == Algorithm::Sha256);
        let (digest, media_type) = match (stated, response) {
            (Some(digest), Some(response)) => (digest, content_type(&response)),
            _ => {
                let fetched = self.manifest(&name, reference, wanted.as_ref(), &operation).await?;
                (sha256(&fetched.bytes, &operation)?, fetched.content_type)
            }
        };
        if let Some(wanted) = wanted.filter(|w| w.algorithm() == digest.algorithm()) {
            expect_digest(&wanted, &digest.to_string(), &operation)?;
        }
        Ok(Head { digest, media_type, private: self.auth.is_private(&name).await })
    }

    /// Finds the image that `reference` (a tag, or a digest `sha256:…`) names for `platform`; fetches and
    /// verifies its manifests and configuration.
    pub async fn resolve(
        &self,
        repository: &str,
        reference: &str,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let operation = self.operation("read image", repository, reference);
        let name = self.transport.base.repository(repository)?;
        let wanted = check_reference(reference)?;
        let mut fetched = self.manifest(&name, reference, wanted.as_ref(), &operation).await?;
        let top_digest = sha256(&fetched.bytes, &operation)?;
        let mut manifest_digest = top_digest.clone();
        let mut platform_promised = false;
        let settings = &self.transport.settings;
        let mut depth = 0;
        let manifest = loop {
            let header = fetched.content_type.as_deref();
            match manifest::parse(&fetched.bytes, header, settings, &operation)? {
                Document::Image(manifest) => break manifest,
                Document::Index(_) if depth == MAX_INDEX_DEPTH => {
                    return Err(RegistryError::TooLarge {
                        operation,
                        what: "the nesting of indexes".to_owned(),
                        limit: format!("{MAX_INDEX_DEPTH} levels"),
                    });
                }
                Document::Index(index) => {
                    let choice = manifest::choose(&index, platform, &operation)?;
                    let text = choice.digest.to_string();
                    fetched = self.manifest(&name, &text, Some(&choice.digest), &operation).await?;
                    expect_size(choice.size, fetched.bytes.len() as u64, &operation)?;
                    manifest_digest = choice.digest;
                    platform_promised |= choice.names_platform;
                }
            }
            depth += 1;
        };
        let limit = settings.max_config;
        let bytes =
            self.small_blob(&name, &manifest.config_digest, manifest.config_size, limit, &operation).await?;
        let config = config::parse(&bytes, &operation)?;
        if !platform_promised {
            self.check_platform(&config, platform, &operation)?;
        }
        if config.diff_ids.len() != manifest.layers.len() {
            let (layers, ids) = (manifest.layers.len(), config.diff_ids.len());
            return Err(malformed(
                &operation,
                format!("{layers} layers, but {ids} diff_ids in the configuration"),
            ));
        }
        Ok(Resolved {
            top_digest,
            manifest_digest,
            config_digest: manifest.config_digest,
            config,
            layers: manifest.layers,
            private: self.auth.is_private(&name).await,
        })
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
        let call = Call { method: Method::GET, url, headers, timeout: None, operation };
        let answer = self.auth.send(&self.transport, name, &call).await?;
        if offset > 0 && answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(answer.response);
        }
        answer.success(&self.transport, operation).await
    }

    /// What is being done, for messages.
    pub(crate) fn operation(&self, verb: &str, repository: &str, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{verb} {}{separator}{} on {}", quote(repository), quote(reference), self.name)
    }

    async fn request(
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
        self.auth.send(&self.transport, name, &Call { method, url, headers, timeout, operation }).await
    }

    /// A manifest's bytes, equal to what the registry's header and `wanted` say.
    async fn manifest(
        &self,
        name: &str,
        reference: &str,
        wanted: Option<&Digest>,
        operation: &str,
    ) -> Result<Fetched, RegistryError> {
        let limit = self.transport.settings.max_manifest;
        let once = async || {
            let answer = self.request(Method::GET, name, reference, operation).await?;
            let response = answer.success(&self.transport, operation).await?;
            let stated = stated_digest(&response, operation)?;
            let content_type = content_type(&response);
            let bytes = self.transport.body(response, limit, "the manifest", operation).await?;
            for expected in stated.iter().chain(wanted) {
                expect_digest(expected, &digest_like(expected, &bytes), operation)?;
            }
            Ok(Fetched { bytes, content_type })
        };
        let mut retries = Retries::new(&self.transport.settings);
        loop {
            match once().await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => retries.pause_after(error).await?,
            }
        }
    }

    async fn small_blob(
        &self,
        name: &str,
        digest: &Digest,
        size: u64,
        limit: u64,
        operation: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let once = async || {
            let response = self.blob(name, digest, 0, operation).await?;
            let body = self.transport.body(response, limit, "the image configuration", operation);
            let deadline = self.transport.settings.document_timeout;
            let bytes =
                tokio::time::timeout(deadline, body).await.map_err(|_| RegistryError::Unreachable {
                    operation: operation.to_owned(),
                    host: self.name.clone(),
                    cause: "timed out".to_owned(),
                })??;
            expect_size(size, bytes.len() as u64, operation)?;
            expect_digest(digest, &digest_like(digest, &bytes), operation)?;
            Ok(bytes)
        };
        let mut retries = Retries::new(&self.transport.settings);
        loop {
            match once().await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => retries.pause_after(error).await?,
            }
        }
    }

    /// An image that no index promised for the platform must say itself that it is for it.
    fn check_platform(
        &self,
        config: &ImageConfig,
        wanted: &Platform,
        operation: &str,
    ) -> Result<(), RegistryError> {
        let or_wanted = |text: &str, wanted: &str| if text.is_empty() { wanted } else { text }.to_owned();
        let offered = Platform {
            os: or_wanted(&config.os, &wanted.os),
            architecture: or_wanted(&config.architecture, &wanted.architecture),
            variant: config.variant.clone(),
        };
        if wanted.rank(&offered).is_some() {
            return Ok(());
        }
        Err(RegistryError::Platform {
            operation: operation.to_owned(),
            wanted: wanted.to_string(),
            offered: quote(&offered.to_string()),
        })
    }
}

/// Checks a reference; gives the digest if it is one.
fn check_reference(reference: &str) -> Result<Option<Digest>, RegistryError> {
    let fail = |what, rule: String| RegistryError::Name { what, name: quote(reference), rule };
    if reference.contains(':') {
        return Digest::parse(reference).map(Some).map_err(|e| fail("digest", e.to_string()));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = reference.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if first && reference.len() <= 128 && reference.bytes().all(legal) {
        return Ok(None);
    }
    Err(fail("tag", "at most 128 letters, digits, _ . and -, the first no . or -".to_owned()))
}

fn malformed(operation: &str, cause: String) -> RegistryError {
    RegistryError::Malformed { operation: operation.to_owned(), cause }
}

/// `Docker-Content-Digest`, refused where it is there but no digest.
fn stated_digest(response: &Response, operation: &str) -> Result<Option<Digest>, RegistryError> {
    let Some(value) = response.headers().get(CONTENT_DIGEST) else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let digest = Digest::parse(text);
    digest.map(Some).map_err(|e| malformed(operation, format!("Docker-Content-Digest {}: {e}", quote(text))))
}

fn content_type(response: &Response) -> Option<String> {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn sha256(bytes: &[u8], operation: &str) -> Result<Digest, RegistryError> {
    let mut hasher = crate::hash::Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    Digest::parse(&hasher.finish()).map_err(|e| malformed(operation, e.to_string()))
}

fn expect_digest(expected: &Digest, actual: &str, operation: &str) -> Result<(), RegistryError> {
    if expected.to_string() == actual {
        return Ok(());
    }
    Err(RegistryError::DigestMismatch {
        operation: operation.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_owned(),
    })
}

fn expect_size(expected: u64, actual: u64, operation: &str) -> Result<(), RegistryError> {
    if expected == actual {
        return Ok(());
    }
    Err(RegistryError::SizeMismatch { operation: operation.to_owned(), expected, actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_cannot_become_other_urls() {
        for (text, good) in [
            ("latest", true),
            ("_1.2-x", true),
            (&*format!("sha256:{}", "a".repeat(64)), true),
            ("", false),
            (".hidden", false),
            ("-x", false),
            ("a/b", false),
            ("a?b", false),
            ("..", false),
            ("sha256:short", false),
            ("md5:abc", false),
            (&*"x".repeat(129), false),
        ] {
            assert_eq!(check_reference(text).is_ok(), good, "{text}");
        }
    }
}
