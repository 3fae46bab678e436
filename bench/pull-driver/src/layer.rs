//! Layers made entry by entry, so that ten gigabytes need no more memory than their gzip blob, and images of
//! layers that several images share.
//!
//! The archive's bytes come from the fixture builder. It makes no layer wrong on purpose; that is for tests.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shifter_tests::fixture::{Built, Entry, Manifest, architecture, archive, digest_of};

/// Zero bytes at the end of every archive (POSIX.1-2017 pax, "ustar Interchange Format").
const END: usize = 1024;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A finished layer.
#[derive(Clone)]
pub(crate) struct Layer {
    /// `sha256:…` of the blob.
    pub(crate) digest: String,
    /// `sha256:…` of the archive.
    pub(crate) diff_id: String,
    /// The blob.
    pub(crate) blob: Vec<u8>,
    /// Bytes of the archive.
    pub(crate) unpacked: u64,
    /// Entries of the archive.
    pub(crate) entries: u64,
}

/// A layer in the making.
pub(crate) struct LayerWriter {
    gzip: GzEncoder<Vec<u8>>,
    hash: Sha256,
    unpacked: u64,
    entries: u64,
}

impl LayerWriter {
    /// `level` is gzip's.
    pub(crate) fn new(level: u32) -> Self {
        Self {
            gzip: GzEncoder::new(Vec::new(), Compression::new(level)),
            hash: Sha256::new(),
            unpacked: 0,
            entries: 0,
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) -> Result<()> {
        let bytes = archive(&[entry]);
        self.entries += 1;
        self.put(&bytes[..bytes.len() - END])
    }

    pub(crate) fn finish(mut self) -> Result<Layer> {
        self.put(&[0; END])?;
        let blob = self.gzip.finish().context("compress a layer")?;
        let diff_id: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Layer {
            digest: digest_of(&blob),
            diff_id: format!("sha256:{diff_id}"),
            blob,
            unpacked: self.unpacked,
            entries: self.entries,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.unpacked += bytes.len() as u64;
        self.gzip.write_all(bytes).context("compress a layer")
    }
}

/// The OCI image of these layers, oldest first.
pub(crate) fn image(layers: &[Layer]) -> Result<Built> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "config": {},
        // Charliecloud takes no image without.
        "history": layers.iter().map(|_| json!({"created_by": "bench"})).collect::<Vec<_>>(),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let described: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "size": layer.blob.len(),
                "digest": layer.digest,
            })
        })
        .collect();
    let config_digest = digest_of(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(),
            "digest": config_digest,
        },
        "layers": described,
    }))?;
    let top = digest_of(&manifest);
    let mut blobs: BTreeMap<String, Vec<u8>> =
        layers.iter().map(|layer| (layer.digest.clone(), layer.blob.clone())).collect();
    blobs.insert(config_digest, config);
    let manifest = Manifest { media_type: MANIFEST.to_owned(), bytes: manifest };
    Ok(Built { blobs, manifests: BTreeMap::from([(top.clone(), manifest)]), top })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shifter_tests::fixture::{Image, Layer as FixtureLayer, dir, file};

    #[test]
    fn a_layer_made_entry_by_entry_is_the_one_made_at_once() -> Result<()> {
        let entries = vec![dir("a"), file("a/b", b"content"), file("c", vec![7; 1000])];
        let mut writer = LayerWriter::new(1);
        for entry in entries.clone() {
            writer.push(entry)?;
        }
        let layer = writer.finish()?;
        assert_eq!(layer.diff_id, digest_of(&archive(&entries)));
        assert_eq!((layer.entries, layer.unpacked), (3, archive(&entries).len() as u64));

        let expected = Image::new(vec![FixtureLayer::new(entries)]).build()?;
        let ours = image(&[layer])?;
        let ids = |built: &Built| -> Vec<String> {
            built
                .blobs
                .values()
                .filter_map(|blob| serde_json::from_slice::<Value>(blob).ok())
                .map(|config| config["rootfs"]["diff_ids"].to_string())
                .collect()
        };
        assert_eq!(ids(&ours), ids(&expected));
        assert_eq!(ours.layer_digests().len(), 1);
        Ok(())
    }
}
