//! An image in files rather than in a registry: an OCI image layout (image-spec image-layout.md), or what `docker save`
//! writes, both unpacked in a directory that nobody else can write to.
//!
//! The same rules hold as for a registry's documents. Documents named by a digest must have it; of layers only the
//! `diff_id` is told, which whoever reads the layer verifies. Nothing outside of the directory is opened, wherever its
//! links lead.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shifter_core::digest::Digest;

use crate::config::{self, ImageConfig};
use crate::error::{RegistryError, quote};
use crate::hash::digest_like;
use crate::manifest::{self, Compression, Document};
use crate::platform::Platform;
use crate::settings::Settings;

/// For messages.
const OPERATION: &str = "read the archive";

/// Indexes below `index.json`.
const MAX_DEPTH: usize = 2;

/// An image, found.
#[derive(Clone, Debug)]
pub struct LocalImage {
    /// What it is for, as far as anything says.
    pub platform: Platform,
    /// The image configuration.
    pub config: ImageConfig,
    /// Layers, base first.
    pub layers: Vec<LocalLayer>,
}

/// A layer's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLayer {
    /// A regular file in the directory.
    pub path: PathBuf,
    /// How it is packed.
    pub compression: Compression,
    /// Digest of its tar, which is not verified here.
    pub diff_id: Digest,
}

/// One image of `docker save`'s manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// Finds the image for a platform.
///
/// # Errors
/// If the directory holds no image, several, none for the platform, or one that contradicts itself.
pub fn open_layout(directory: &Path, wanted: &Platform) -> Result<LocalImage, RegistryError> {
    let directory = directory.canonicalize().map_err(|error| malformed(error.to_string()))?;
    let settings = Settings::default();
    let found = if directory.join("index.json").symlink_metadata().is_ok() {
        oci(&directory, wanted, &settings)?
    } else if directory.join("manifest.json").symlink_metadata().is_ok() {
        saved(&directory, &settings)?
    } else {
        return Err(malformed(
            "it holds neither index.json (OCI) nor manifest.json (docker save)".to_owned(),
        ));
    };
    let (promised, config, files) = found;
    if config.diff_ids.len() != files.len() {
        let (layers, ids) = (files.len(), config.diff_ids.len());
        return Err(malformed(format!("{layers} layers, but {ids} diff_ids in the configuration")));
    }
    let platform = promised.unwrap_or_else(|| Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
    });
    if wanted.rank(&platform).is_none() {
        return Err(RegistryError::Platform {
            operation: OPERATION.to_owned(),
            wanted: wanted.to_string(),
            offered: quote(&platform.to_string()),
        });
    }
    let layers = files.into_iter().zip(config.diff_ids.iter().cloned());
    let layers =
        layers.map(|((path, compression), diff_id)| LocalLayer { path, compression, diff_id }).collect();
    Ok(LocalImage { platform, config, layers })
}

type Found = (Option<Platform>, ImageConfig, Vec<(PathBuf, Compression)>);

fn oci(directory: &Path, wanted: &Platform, settings: &Settings) -> Result<Found, RegistryError> {
    let mut bytes = read(&within(directory, "index.json")?, settings.max_manifest)?;
    let mut promised = None;
    for _ in 0..=MAX_DEPTH {
        let manifest = match manifest::parse(&bytes, None, settings, OPERATION)? {
            Document::Index(index) => {
                let choice = manifest::choose(&index, wanted, OPERATION)?;
                bytes = blob(directory, &choice.digest, settings.max_manifest)?;
                promised = choice.platform.or(promised);
                continue;
            }
            Document::Image(manifest) => manifest,
        };
        let config = blob(directory, &manifest.config_digest, settings.max_config)?;
        let config = config::parse(&config, OPERATION)?;
        let file = |layer: &manifest::LayerDescriptor| {
            Ok((within(directory, &blob_name(&layer.digest))?, layer.compression))
        };
        let files = manifest.layers.iter().map(file).collect::<Result<_, RegistryError>>()?;
        return Ok((promised, config, files));
    }
    Err(malformed("its indexes are nested too deeply".to_owned()))
}

fn saved(directory: &Path, settings: &Settings) -> Result<Found, RegistryError> {
    let bytes = read(&within(directory, "manifest.json")?, settings.max_manifest)?;
    let images: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|error| malformed(format!("manifest.json: {}", quote(&error.to_string()))))?;
    let image = match images.as_slice() {
        [image] => image,
        images => {
            return Err(malformed(format!("it holds {} images; save one at a time", images.len())));
        }
    };
    if image.layers.len() > settings.max_layers {
        return Err(malformed(format!("it has {} layers", image.layers.len())));
    }
    let config = read(&within(directory, &image.config)?, settings.max_config)?;
    let config = config::parse(&config, OPERATION)?;
    let file = |name: &String| {
        let path = within(directory, name)?;
        let compression = sniff(&path)?;
        Ok((path, compression))
    };
    let files = image.layers.iter().map(file).collect::<Result<_, RegistryError>>()?;
    Ok((None, config, files))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}

/// A document that is what its name says.
fn blob(directory: &Path, digest: &Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let bytes = read(&within(directory, &blob_name(digest))?, limit)?;
    if digest_like(digest, &bytes) != digest.to_string() {
        return Err(malformed(format!("the content of blob {digest} has another digest")));
    }
    Ok(bytes)
}

/// The regular file of this name in the directory, links followed as long as they stay there.
fn within(directory: &Path, name: &str) -> Result<PathBuf, RegistryError> {
    let missing = || malformed(format!("{} is missing", quote(name)));
    let path = directory.join(name.trim_start_matches('/')).canonicalize().map_err(|_| missing())?;
    if path.starts_with(directory) && path.is_file() { Ok(path) } else { Err(missing()) }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|error| malformed(error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(RegistryError::TooLarge {
            operation: OPERATION.to_owned(),
            what: "one of its documents".to_owned(),
            limit: format!("{limit} bytes"),
        });
    }
    Ok(bytes)
}

/// By the first bytes: `docker save` gives no media types, and tars are all it writes.
fn sniff(path: &Path) -> Result<Compression, RegistryError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    read.map_err(|error| malformed(error.to_string()))?;
    Ok(Compression::of_start(&start))
}

impl Compression {
    /// What a file that begins like this is packed with (RFC 1952, RFC 8878); a plain tar if with nothing known.
    pub fn of_start(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

fn malformed(cause: String) -> RegistryError {
    RegistryError::Malformed { operation: OPERATION.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs::{create_dir_all, write};

    use super::*;

    struct Layout(tempfile::TempDir);

    impl Layout {
        fn new() -> Layout {
            Layout(tempfile::tempdir().unwrap())
        }

        fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
            let path = self.0.path().join(name);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, bytes).unwrap();
        }

        /// Stores a blob; its descriptor.
        fn blob(&self, media_type: &str, bytes: &str) -> String {
            let digest = digest(bytes);
            self.put(&blob_name(&Digest::parse(&digest).unwrap()), bytes);
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
        }

        fn open(&self) -> Result<LocalImage, String> {
            open_layout(self.0.path(), &Platform::linux("amd64")).map_err(|error| error.to_string())
        }
    }

    fn digest(bytes: &str) -> String {
        let like = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        digest_like(&like, bytes.as_bytes())
    }

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn config(architecture: &str, layers: &[&str]) -> String {
        let ids: Vec<String> = layers.iter().map(|tar| format!("\"{}\"", digest(tar))).collect();
        format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"Env":["A=b"]}},
                "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        )
    }

    fn oci_layout(architecture: &str, platform: &str) -> Layout {
        let layout = Layout::new();
        let config = layout.blob(CONFIG, &config(architecture, &["tar"]));
        let layer = layout.blob(LAYER, "packed");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let manifest = layout.blob(MANIFEST, &manifest);
        let manifest = manifest.replacen('{', &format!("{{{platform}"), 1);
        layout.put("index.json", format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#));
        layout
    }

    #[test]
    fn an_oci_layout_is_an_image() {
        for platform in ["", r#""platform":{"os":"linux","architecture":"amd64"},"#] {
            let layout = oci_layout("amd64", platform);
            let image = layout.open().unwrap();
            assert_eq!(image.config.env, ["A=b"]);
            assert_eq!(image.platform, Platform::linux("amd64"));
            let [layer] = image.layers.as_slice() else { panic!("{image:?}") };
            assert_eq!(std::fs::read_to_string(&layer.path).unwrap(), "packed");
            assert_eq!((layer.compression, layer.diff_id.to_string()), (Compression::Gzip, digest("tar")));
        }
    }

    #[test]
    fn what_docker_save_writes_is_an_image() {
        let layout = Layout::new();
        layout.put("abc.json", config("amd64", &["one", "two", "two"]));
        layout.put("1/layer.tar", b"\x1f\x8bpacked");
        layout.put("2/layer.tar", b"\x28\xb5\x2f\xfdpacked");
        create_dir_all(layout.0.path().join("3")).unwrap();
        std::os::unix::fs::symlink("../2/layer.tar", layout.0.path().join("3/layer.tar")).unwrap();
        let layers = r#"["1/layer.tar","2/layer.tar","3/layer.tar"]"#;
        layout.put(
            "manifest.json",
            format!(r#"[{{"Config":"abc.json","RepoTags":["a:1"],"Layers":{layers}}}]"#),
        );
        let image = layout.open().unwrap();
        let packed: Vec<Compression> = image.layers.iter().map(|layer| layer.compression).collect();
        assert_eq!(packed, [Compression::Gzip, Compression::Zstd, Compression::Zstd]);
        assert_eq!(image.layers[2].path, image.layers[1].path);
    }

    #[test]
    fn what_is_none_or_contradicts_itself_is_refused() {
        assert!(Layout::new().open().unwrap_err().contains("neither index.json"));
        let other = oci_layout("arm64", "");
        assert!(other.open().unwrap_err().contains("linux/arm64"), "{:?}", other.open());
        let forged = oci_layout("amd64", "");
        let name = blob_name(&Digest::parse(&digest(&config("amd64", &["tar"]))).unwrap());
        forged.put(&name, config("amd64", &["other"]));
        assert!(forged.open().unwrap_err().contains("has another digest"), "{:?}", forged.open());
        let short = oci_layout("amd64", "");
        std::fs::remove_file(short.0.path().join(&name)).unwrap();
        assert!(short.open().unwrap_err().contains("is missing"), "{:?}", short.open());
        for (manifest, expected) in [
            (r#"[]"#, "holds 0 images"),
            (r#"[{"Config":"c","Layers":[]},{"Config":"c","Layers":[]}]"#, "holds 2 images"),
            (r#"{"Config":1}"#, "manifest.json"),
            (r#"[{"Config":"../../etc/passwd","Layers":[]}]"#, "is missing"),
            (r#"[{"Config":"/etc/passwd","Layers":[]}]"#, "is missing"),
            (r#"[{"Config":"link","Layers":[]}]"#, "is missing"),
            (r#"[{"Config":"c.json","Layers":["missing"]}]"#, "is missing"),
            (r#"[{"Config":"c.json","Layers":[]}]"#, "0 layers, but 1 diff_ids"),
        ] {
            let layout = Layout::new();
            layout.put("c.json", config("amd64", &["one"]));
            std::os::unix::fs::symlink("/etc/passwd", layout.0.path().join("link")).unwrap();
            layout.put("manifest.json", manifest);
            let error = layout.open().unwrap_err();
            assert!(error.contains(expected), "{manifest}: {error}");
        }
    }
}
