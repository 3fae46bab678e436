//! Manifests and indexes: what a document is, whether it says what it claims, and what it refers to.
//!
//! Pure functions of bytes. Both meanings of one document must agree: the media type in the HTTP header, the one
//! in the document and the fields present (the ambiguity behind CVE-2021-41190 is refused). `urls` of
//! descriptors are never looked at: foreign layers come from the same registry or not at all.

use crate::error::{RegistryError, quote};
use crate::platform::Platform;
use crate::settings::Settings;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::IgnoredAny;
use shifter_core::digest::Digest;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `Accept` of manifest requests: all that we read, so that an index is never exchanged for the server's choice.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How a layer's tar is packed, as its media type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, possibly of several members.
    Gzip,
    /// zstd, possibly of several frames.
    Zstd,
}

/// One layer as the registry stores it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerDescriptor {
    /// Digest of the stored (packed) bytes.
    pub digest: Digest,
    /// Number of stored bytes.
    pub size: u64,
    /// How they are packed.
    pub compression: Compression,
}

/// A document under `/manifests/`, understood.
pub(crate) enum Document {
    /// One image.
    Image(Manifest),
    /// A choice of images.
    Index(Box<ImageIndex>),
}

/// The parts of an image manifest that are used.
pub(crate) struct Manifest {
    pub(crate) config_digest: Digest,
    pub(crate) config_size: u64,
    pub(crate) layers: Vec<LayerDescriptor>,
}

/// The fields by which a document shows what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Reads a manifest or index. `content_type` is the HTTP header, `operation` goes into messages.
pub(crate) fn parse(
    bytes: &[u8],
    content_type: Option<&str>,
    settings: &Settings,
    operation: &str,
) -> Result<Document, RegistryError> {
    let malformed = |cause: String| RegistryError::Malformed { operation: operation.to_owned(), cause };
    let header = content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_ascii_lowercase());
    // serde reads structures from arrays too; a manifest is an object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed("the manifest is not JSON as expected: no object".to_owned()));
    }
    let shape: Shape = serde_json::from_slice(bytes)
        .map_err(|e| malformed(format!("the manifest is not JSON as expected: {}", quote(&e.to_string()))))?;
    let is_schema1 = |t: &str| t.contains("distribution.manifest.v1");
    if shape.schema_version == Some(1)
        || shape.fs_layers.is_some()
        || header.as_deref().is_some_and(is_schema1)
        || shape.media_type.as_deref().is_some_and(is_schema1)
    {
        return Err(RegistryError::Unsupported {
            operation: operation.to_owned(),
            cause:
                "it is a Docker schema 1 image, a format withdrawn because its content cannot be verified; \
                    push the image again with a current tool"
                    .to_owned(),
        });
    }
    if shape.schema_version != Some(2) {
        return Err(malformed("schemaVersion is not 2".to_owned()));
    }
    let is_index = match (shape.manifests.is_some(), shape.layers.is_some() || shape.config.is_some()) {
        (true, true) => {
            return Err(malformed("the document is both an index and an image".to_owned()));
        }
        (false, false) => return Err(malformed("the document is neither an index nor an image".to_owned())),
        (is_index, _) => is_index,
    };
    if let (Some(inner), Some(outer)) = (&shape.media_type, &header)
        && is_manifest_type(outer)
        && inner != outer
    {
        return Err(malformed(format!(
            "the registry calls it {} and the document itself {}",
            quote(outer),
            quote(inner)
        )));
    }
    for claimed in [shape.media_type.as_deref(), header.as_deref()].into_iter().flatten() {
        let agrees = match claimed {
            OCI_INDEX | DOCKER_LIST => is_index,
            OCI_MANIFEST | DOCKER_MANIFEST => !is_index,
            // Registries that serve files as they are send these; the document speaks for itself then.
            "application/json" | "application/octet-stream" | "text/plain" => true,
            other => {
                return Err(RegistryError::Unsupported {
                    operation: operation.to_owned(),
                    cause: format!("its media type {} is not that of a container image", quote(other)),
                });
            }
        };
        if !agrees {
            return Err(malformed(format!("its media type {} does not fit its content", quote(claimed))));
        }
    }
    if is_index {
        let index: ImageIndex = serde_json::from_slice(bytes)
            .map_err(|e| malformed(format!("index: {}", quote(&e.to_string()))))?;
        return Ok(Document::Index(Box::new(index)));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes)
        .map_err(|e| malformed(format!("manifest: {}", quote(&e.to_string()))))?;
    image(&manifest, settings, operation).map(Document::Image)
}

fn is_manifest_type(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST)
}

fn image(manifest: &ImageManifest, settings: &Settings, operation: &str) -> Result<Manifest, RegistryError> {
    let config = manifest.config();
    match config.media_type().as_ref() {
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" => {}
        other => {
            return Err(RegistryError::Unsupported {
                operation: operation.to_owned(),
                cause: format!("it is no container image but an artifact ({})", quote(other)),
            });
        }
    }
    let too_large = |what: String, limit: String| RegistryError::TooLarge {
        operation: operation.to_owned(),
        what,
        limit,
    };
    if config.size() > settings.max_config {
        return Err(too_large(
            "the image configuration".to_owned(),
            format!("{} bytes", settings.max_config),
        ));
    }
    if manifest.layers().len() > settings.max_layers {
        return Err(too_large(
            format!("the number of layers ({})", manifest.layers().len()),
            format!("{} layers", settings.max_layers),
        ));
    }
    let total = manifest.layers().iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size()));
    if total > settings.max_image {
        return Err(too_large("the image".to_owned(), format!("{} bytes", settings.max_image)));
    }
    let layers = manifest
        .layers()
        .iter()
        .map(|layer| {
            if layer.size() > settings.max_layer {
                return Err(too_large("a layer".to_owned(), format!("{} bytes", settings.max_layer)));
            }
            Ok(LayerDescriptor {
                digest: digest(layer, operation)?,
                size: layer.size(),
                compression: compression(layer.media_type(), operation)?,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Manifest { config_digest: digest(config, operation)?, config_size: config.size(), layers })
}

fn digest(descriptor: &Descriptor, operation: &str) -> Result<Digest, RegistryError> {
    let text = descriptor.digest().as_ref();
    Digest::parse(text).map_err(|e| RegistryError::Malformed {
        operation: operation.to_owned(),
        cause: format!("digest {}: {e}", quote(text)),
    })
}

/// Packing by media type: Docker's names, OCI's, and the "foreign" or "non-distributable" ones of both.
fn compression(media_type: &MediaType, operation: &str) -> Result<Compression, RegistryError> {
    let text = media_type.as_ref();
    let rest = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ]
    .iter()
    .find_map(|prefix| text.strip_prefix(prefix));
    match rest {
        Some("") => Ok(Compression::None),
        Some("+gzip" | ".gzip") => Ok(Compression::Gzip),
        Some("+zstd" | ".zstd") => Ok(Compression::Zstd),
        _ => Err(RegistryError::Unsupported {
            operation: operation.to_owned(),
            cause: format!("a layer has the media type {}, which is no tar, gzip or zstd layer", quote(text)),
        }),
    }
}

/// What was chosen from an index.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// What the index says it is for. It is believed: configurations of multi-platform images often name the
    /// builder's architecture.
    pub(crate) platform: Option<Platform>,
}

/// The manifest of an index that suits `wanted` best.
pub(crate) fn choose(
    index: &ImageIndex,
    wanted: &Platform,
    operation: &str,
) -> Result<Choice, RegistryError> {
    let offered = |descriptor: &Descriptor| {
        descriptor.platform().as_ref().map(|p| Platform {
            os: p.os().to_string(),
            architecture: p.architecture().to_string(),
            variant: p.variant().clone(),
        })
    };
    let manifests = index.manifests();
    let best = manifests
        .iter()
        .filter(|descriptor| is_manifest_type(descriptor.media_type().as_ref()))
        .filter_map(|descriptor| Some((wanted.rank(&offered(descriptor)?)?, descriptor)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, descriptor)| descriptor);
    // An index of one image without a platform is what tools write for a single image; its configuration is
    // compared with the platform afterwards.
    let best = best.or(match manifests.as_slice() {
        [only] if only.platform().is_none() => Some(only),
        _ => None,
    });
    let Some(descriptor) = best else {
        // Attestations are listed as unknown/unknown; nobody can run them.
        let mut list: Vec<String> = manifests
            .iter()
            .filter_map(offered)
            .map(|p| quote(&p.to_string()))
            .filter(|p| p != "unknown/unknown")
            .take(32)
            .collect();
        list.dedup();
        return Err(RegistryError::Platform {
            operation: operation.to_owned(),
            wanted: wanted.to_string(),
            offered: if list.is_empty() { "no platform".to_owned() } else { list.join(", ") },
        });
    };
    Ok(Choice {
        digest: digest(descriptor, operation)?,
        size: descriptor.size(),
        platform: offered(descriptor),
    })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
