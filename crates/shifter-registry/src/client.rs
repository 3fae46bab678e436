//! One caller's view of one registry (skeleton of the API; behaviour arrives with the next commits).

use crate::{Credentials, ImageConfig, LayerDescriptor, Location, Platform, RegistryError, Settings};
use shifter_core::digest::Digest;

/// One caller's view of one registry.
pub struct Client {
    _location: Location,
}

/// What a tag names at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Digest of the top-level manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: Option<String>,
    /// Whether the registry demanded the caller's credentials.
    pub private: bool,
}

/// An image, found and verified up to its layers' descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// SHA-256 of the exact top-level manifest (index, where there is one).
    pub top_digest: Digest,
    /// Digest of the platform's manifest; equals `top_digest` where there is no index.
    pub manifest_digest: Digest,
    /// Digest of the configuration blob.
    pub config_digest: Digest,
    /// The image configuration.
    pub config: ImageConfig,
    /// Layers, base first.
    pub layers: Vec<LayerDescriptor>,
    /// Whether the registry demanded the caller's credentials.
    pub private: bool,
}

impl Client {
    /// A client for one caller; nothing is asked of the registry yet.
    pub fn new(
        location: Location,
        _credentials: Option<Credentials>,
        _settings: Settings,
    ) -> Result<Self, RegistryError> {
        Ok(Self { _location: location })
    }

    /// What `reference` (a tag, or `sha256:…`) of `repository` names now, by one HEAD request.
    pub async fn head(&self, _repository: &str, reference: &str) -> Result<Head, RegistryError> {
        Err(RegistryError::Unsupported { operation: reference.to_owned(), cause: "being laid".to_owned() })
    }

    /// Finds the image for `platform` and verifies manifests and configuration.
    pub async fn resolve(
        &self,
        _repository: &str,
        reference: &str,
        _platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        Err(RegistryError::Unsupported { operation: reference.to_owned(), cause: "being laid".to_owned() })
    }
}
