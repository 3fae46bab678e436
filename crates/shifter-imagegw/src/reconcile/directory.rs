//! What lies in an image directory: files by image, and leftovers. Reads `.meta` files, decides nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use shifter_core::image_type::is_image_id;

use crate::publish;

/// Longest `.meta` that is read; the runtime takes no longer one.
const LONGEST_META: u64 = 4 << 20;

/// The files of one image.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    /// Size by format, of regular files.
    images: BTreeMap<String, u64>,
    /// The text of `.meta`.
    pub(super) meta: Option<String>,
    /// `.meta` first.
    pub(super) paths: Vec<PathBuf>,
    /// When the latest of them was written.
    pub(super) changed: Option<SystemTime>,
}

impl Files {
    /// The size of the image file of this format.
    pub(super) fn image(&self, format: &str) -> Option<u64> {
        self.images.get(format).copied()
    }
}

/// All of a directory that is ours.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: BTreeMap<String, Files>,
    /// Parts whose writer is dead.
    pub(super) leftovers: Vec<PathBuf>,
}

/// Reads a directory; names that are not ours are passed over.
pub(super) async fn read(directory: &Path) -> anyhow::Result<Contents> {
    let directory = directory.to_owned();
    tokio::task::spawn_blocking(move || {
        look(&directory).with_context(|| format!("looking through {} failed", directory.display()))
    })
    .await?
}

fn look(directory: &Path) -> std::io::Result<Contents> {
    let mut contents = Contents { images: BTreeMap::new(), leftovers: publish::leftovers(directory)? };
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((id, end)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        if !is_image_id(id) || !end.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            continue;
        }
        let found = match entry.metadata() {
            Ok(found) if found.is_file() => found,
            // It went meanwhile, or is a directory or a link of the site's.
            _ => continue,
        };
        let files = contents.images.entry(id.to_owned()).or_default();
        files.changed = files.changed.max(found.modified().ok());
        if end == "meta" {
            files.meta = read_meta(&entry.path(), found.len());
            files.paths.insert(0, entry.path());
        } else {
            files.images.insert(end.to_owned(), found.len());
            files.paths.push(entry.path());
        }
    }
    Ok(contents)
}

/// One that cannot be read, being somebody else's for instance, is as good as none, and must not end the looking.
fn read_meta(path: &Path, length: u64) -> Option<String> {
    if length > LONGEST_META {
        return None;
    }
    let read = std::fs::read(path)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot be read"));
    read.ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
