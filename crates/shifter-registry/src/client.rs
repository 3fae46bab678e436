//! One caller's view of one registry: what a tag names, and which configuration and layers belong to it.
//!
//! Everything returned was verified by digest from the top down: the top-level manifest against the registry's
//! own header and a digest asked for, the platform's manifest and the configuration against their descriptors.
//! Layers are only named here; `BlobCache` fetches them.

use crate::auth::Auth;
use crate::backoff::Retries;
use crate::config::{self, ImageConfig};
use crate::error::{RegistryError, quote};
use crate::location::{AuthMethod, Credentials, Location};
use crate::manifest::{self, Document, LayerDescriptor, Manifest};
use crate::platform::Platform;
use crate::settings::Settings;
use crate::source::{
    Fetched, Source, Tries, content_type, expect_digest, expect_size, malformed, sha256, stated_digest,
};
use crate::transport::Transport;
use reqwest::Method;
use shifter_core::digest::{Algorithm, Digest};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Indexes within indexes that are followed.
const MAX_INDEX_DEPTH: usize = 3;

/// One caller's view of one registry. Make one per job: it holds that caller's credentials and forgets them when
/// it is dropped. It may be shared by the tasks of that job.
pub struct Client {
    origin: Source,
    mirrors: Vec<Source>,
    method: AuthMethod,
    name: String,
    /// Repositories with digests that the registry named to this caller.
    named: Mutex<HashSet<(String, Digest)>>,
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
    /// The platform that was chosen, with its variant where one is named: what the index says of the image, and
    /// where there is no index what the image says of itself.
    pub platform: Platform,
    /// The image configuration.
    pub config: ImageConfig,
    /// Layers, base first, as many as `config.diff_ids`.
    pub layers: Vec<LayerDescriptor>,
    /// Whether the registry demanded the caller's credentials.
    pub private: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("location", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for one caller. Reads the location's CA files; asks nothing of the registry yet.
    pub fn new(
        location: Location,
        credentials: Option<Credentials>,
        settings: Settings,
    ) -> Result<Self, RegistryError> {
        let (method, name) = (location.auth_method, quote(&location.name));
        let settings = location.timeout.map_or(settings.clone(), |timeout| settings.with_silence(timeout));
        let mirrors = location.mirror_locations();
        let mirrors = mirrors
            .map(|mirror| Ok(Source::anonymous(Arc::new(Transport::new(&mirror, settings.clone())?))))
            .collect::<Result<_, RegistryError>>()?;
        let transport = Arc::new(Transport::new(&location, settings)?);
        Ok(Self {
            origin: Source::new(transport, Auth::new(credentials, method, &name)),
            mirrors,
            method,
            name,
            named: Mutex::default(),
        })
    }

    /// A client for another caller of the same registry. The two share open connections and certificates, which
    /// saves reading the system's CAs and TLS handshakes, and nothing that either of them was granted.
    pub fn for_caller(&self, credentials: Option<Credentials>) -> Self {
        let auth = Auth::new(credentials, self.method, &self.name);
        Self {
            origin: Source::new(Arc::clone(&self.origin.transport), auth),
            mirrors: self.mirrors.iter().map(|m| Source::anonymous(Arc::clone(&m.transport))).collect(),
            method: self.method,
            name: self.name.clone(),
            named: Mutex::default(),
        }
    }

    /// What `reference` (a tag, or a digest `sha256:…`) of `repository` names now, by one HEAD request; by GET
    /// where the registry's answer to HEAD lacks the digest. Success proves that the registry lets this caller
    /// read the image. Mirrors are not asked.
    pub async fn head(&self, repository: &str, reference: &str) -> Result<Head, RegistryError> {
        let operation = self.operation("look up", repository, reference);
        let transport = &self.origin.transport;
        let name = transport.base.repository(repository)?;
        let wanted = check_reference(reference)?;
        let mut retries = Retries::new(&transport.settings);
        let answer = loop {
            match self.origin.request(Method::HEAD, &name, reference, &operation).await {
                Ok(answer) => break answer,
                Err(error) => retries.pause_after(error).await?,
            }
        };
        let unsupported = matches!(answer.response.status().as_u16(), 400 | 405);
        let response = if unsupported { None } else { Some(answer.success(transport, &operation).await?) };
        let stated = response.as_ref().map(|r| stated_digest(r, &operation)).transpose()?.flatten();
        // Images are known by SHA-256; a registry that states another digest is asked for the bytes.
        let stated = stated.filter(|d| d.algorithm() == Algorithm::Sha256);
        let (digest, media_type) = match (stated, response) {
            (Some(digest), Some(response)) => (digest, content_type(&response)),
            _ => {
                let fetched = self.get_manifest(&name, reference, wanted.as_ref(), &operation).await?;
                (sha256(&fetched.bytes, &operation)?, fetched.content_type)
            }
        };
        if let Some(wanted) = wanted.filter(|w| w.algorithm() == digest.algorithm()) {
            expect_digest(&wanted, &digest.to_string(), &operation)?;
        }
        self.named().insert((name.clone(), digest.clone()));
        Ok(Head { digest, media_type, private: self.origin.auth.is_private(&name).await })
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
        let name = self.origin.transport.base.repository(repository)?;
        let settings = &self.origin.transport.settings;
        let mut wanted = check_reference(reference)?;
        let is_named = wanted.as_ref().is_some_and(|w| self.named().contains(&(name.clone(), w.clone())));
        if !self.mirrors.is_empty() && !is_named {
            // Mirrors know no callers and may be late: the registry says what the tag means, and to whom.
            let head = self.head(repository, reference).await?;
            wanted = wanted.or(Some(head.digest));
        }
        let named = wanted.as_ref().map_or_else(|| reference.to_owned(), Digest::to_string);
        let mut fetched = self.manifest(repository, &named, wanted.as_ref(), &operation).await?;
        let top_digest = sha256(&fetched.bytes, &operation)?;
        let mut manifest_digest = top_digest.clone();
        let mut promised = None;
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
                    fetched = self.manifest(repository, &text, Some(&choice.digest), &operation).await?;
                    expect_size(choice.size, fetched.bytes.len() as u64, &operation)?;
                    manifest_digest = choice.digest;
                    promised = choice.platform.or(promised);
                }
            }
            depth += 1;
        };
        let config = self.config(repository, &manifest, &operation).await?;
        let platform = self.platform_of(promised, &config, platform, &operation)?;
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
            platform,
            config,
            layers: manifest.layers,
            private: self.origin.auth.is_private(&name).await,
        })
    }

    /// Success where the registry lets this caller have a layer that need not be fetched from it. Of a repository that
    /// answers everybody nothing is asked; mirrors never are.
    pub(crate) async fn may_have(
        &self,
        repository: &str,
        layer: &LayerDescriptor,
    ) -> Result<(), RegistryError> {
        let name = self.origin.transport.base.repository(repository)?;
        if !self.origin.auth.is_private(&name).await {
            return Ok(());
        }
        let operation = self.operation("ask for layer", repository, &layer.digest.to_string());
        let mut retries = Retries::new(&self.origin.transport.settings);
        loop {
            match self.origin.has_blob(&name, &layer.digest, &operation).await {
                Ok(()) => return Ok(()),
                Err(error) => retries.pause_after(error).await?,
            }
        }
    }

    fn named(&self) -> MutexGuard<'_, HashSet<(String, Digest)>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether content may come from elsewhere than the registry itself.
    pub(crate) fn has_mirrors(&self) -> bool {
        !self.mirrors.is_empty()
    }

    /// A manifest from the registry itself, whoever else may have it.
    async fn get_manifest(
        &self,
        name: &str,
        reference: &str,
        wanted: Option<&Digest>,
        operation: &str,
    ) -> Result<Fetched, RegistryError> {
        let mut retries = Retries::new(&self.origin.transport.settings);
        loop {
            match self.origin.manifest(name, reference, wanted, operation).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => retries.pause_after(error).await?,
            }
        }
    }

    /// What is being done, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn method(&self) -> AuthMethod {
        self.method
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.origin.transport
    }

    pub(crate) fn operation(&self, verb: &str, repository: &str, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{verb} {}{separator}{} on {}", quote(repository), quote(reference), self.name)
    }

    /// Where to get content: the mirrors first, the registry itself last.
    pub(crate) fn tries(&self, repository: &str) -> Result<Tries<'_>, RegistryError> {
        Tries::new(&self.mirrors, &self.origin, repository)
    }

    /// Where to get content that nobody else had right: the registry itself.
    pub(crate) fn tries_without_mirrors(&self, repository: &str) -> Result<Tries<'_>, RegistryError> {
        Tries::new(&[], &self.origin, repository)
    }

    /// Limits and time-outs.
    pub(crate) fn settings(&self) -> &Settings {
        &self.origin.transport.settings
    }

    /// A manifest by its digest, or by a tag where there are no mirrors.
    async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        wanted: Option<&Digest>,
        operation: &str,
    ) -> Result<Fetched, RegistryError> {
        let mut tries = self.tries(repository)?;
        loop {
            let (source, name) = tries.current();
            match source.manifest(name, reference, wanted, operation).await {
                // What a mirror calls a document is not covered by the digest.
                Ok(fetched) if tries.is_mirror() => return Ok(Fetched { content_type: None, ..fetched }),
                Ok(fetched) => return Ok(fetched),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn config(
        &self,
        repository: &str,
        manifest: &Manifest,
        operation: &str,
    ) -> Result<ImageConfig, RegistryError> {
        let mut tries = self.tries(repository)?;
        loop {
            let (source, name) = tries.current();
            match source.config(name, &manifest.config_digest, manifest.config_size, operation).await {
                Ok(bytes) => return config::parse(&bytes, operation),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// The platform of an image. One that no index promised must say itself that it is for `wanted`.
    fn platform_of(
        &self,
        promised: Option<Platform>,
        config: &ImageConfig,
        wanted: &Platform,
        operation: &str,
    ) -> Result<Platform, RegistryError> {
        let or_wanted = |text: &str, wanted: &str| if text.is_empty() { wanted } else { text }.to_owned();
        let stated = Platform {
            os: or_wanted(&config.os, &wanted.os),
            architecture: or_wanted(&config.architecture, &wanted.architecture),
            variant: config.variant.clone(),
        };
        if let Some(promised) = promised {
            return Ok(promised);
        }
        if wanted.rank(&stated).is_some() {
            return Ok(stated);
        }
        Err(RegistryError::Platform {
            operation: operation.to_owned(),
            wanted: wanted.to_string(),
            offered: quote(&stated.to_string()),
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
