//! Small images in memory, and a well-behaved registry that serves them, for scripts to deviate from.

use crate::server::{Reply, Request, Server};
use sha2::{Digest as _, Sha256};
use shifter_core::digest::Digest;
use shifter_registry::{Client, Compression, Credentials, LayerDescriptor, Location, Settings};
use std::collections::HashMap;
use std::time::Duration;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// Bytes that do not repeat, the same each time for a `seed`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// An image: its documents by digest, and the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) media_type: &'static str,
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) layers: Vec<(String, Vec<u8>)>,
    /// Of the layers; computed once, since large layers take long to digest without optimization.
    digests: Vec<String>,
}

impl Image {
    /// An image for linux/`architecture` of `layers`, each a media type and its bytes.
    pub(crate) fn new(media_type: &'static str, architecture: &str, layers: Vec<(&str, Vec<u8>)>) -> Self {
        let digests: Vec<String> = layers.iter().map(|(_, bytes)| sha256(bytes)).collect();
        let diff_ids: Vec<String> = digests.iter().map(|digest| format!("\"{digest}\"")).collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let config_type = if media_type == OCI_MANIFEST {
            "application/vnd.oci.image.config.v1+json"
        } else {
            "application/vnd.docker.container.image.v1+json"
        };
        let described: Vec<String> = layers
            .iter()
            .zip(&digests)
            .map(|((kind, bytes), digest)| {
                format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, bytes.len())
            })
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"{config_type}","digest":"{}","size":{}}},"layers":[{}]}}"#,
            sha256(config.as_bytes()),
            config.len(),
            described.join(",")
        );
        let layers = layers.into_iter().map(|(kind, bytes)| (kind.to_owned(), bytes)).collect();
        Self { media_type, manifest, config, layers, digests }
    }

    /// One uncompressed layer of `length` bytes.
    pub(crate) fn simple(length: usize, seed: u64) -> Self {
        let layer = noise(length, seed);
        Self::new(OCI_MANIFEST, "amd64", vec![("application/vnd.oci.image.layer.v1.tar", layer)])
    }

    pub(crate) fn digest(&self) -> String {
        sha256(self.manifest.as_bytes())
    }

    pub(crate) fn layer(&self) -> LayerDescriptor {
        let bytes = &self.layers[0].1;
        LayerDescriptor {
            digest: Digest::parse(&self.digests[0]).unwrap(),
            size: bytes.len() as u64,
            compression: Compression::None,
        }
    }

    /// What an honest registry answers for this image as `a/b:1`, `Range` included.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let mut blobs: HashMap<String, &[u8]> =
            self.layers.iter().zip(&self.digests).map(|((_, b), d)| (d.clone(), b.as_slice())).collect();
        blobs.insert(sha256(self.config.as_bytes()), self.config.as_bytes());
        let path = request.path.as_str();
        if let Some(reference) = path.strip_prefix("/v2/a/b/manifests/")
            && (reference == "1" || reference == self.digest())
        {
            return Reply::new(200, self.manifest.as_bytes())
                .with("Content-Type", self.media_type)
                .with("Docker-Content-Digest", self.digest());
        }
        let blob = path.strip_prefix("/v2/a/b/blobs/").and_then(|digest| blobs.get(digest));
        let Some(blob) = blob else {
            return Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"x"}]}"#);
        };
        let start = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        match start.map(|s| s.parse::<usize>().unwrap()) {
            Some(start) => Reply::new(206, &blob[start..])
                .with("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
            None => Reply::new(200, *blob),
        }
    }

    /// Serves the image honestly.
    pub(crate) fn serve(&self) -> Server {
        let image = self.clone();
        Server::start(move |request, _| image.answer(request))
    }
}

/// Quick retries, so that tests end.
pub(crate) fn settings() -> Settings {
    Settings {
        retries: 2,
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_secs(5),
        read_timeout: Duration::from_secs(10),
        ..Settings::default()
    }
}

pub(crate) fn location(url: &str) -> Location {
    Location { url: Some(url.to_owned()), ..Location::named("test") }
}

pub(crate) fn client(url: &str) -> Client {
    Client::new(location(url), None, settings()).unwrap()
}

pub(crate) fn user(password: &str) -> Option<Credentials> {
    Some(Credentials { username: "alice".to_owned(), password: password.to_owned() })
}
