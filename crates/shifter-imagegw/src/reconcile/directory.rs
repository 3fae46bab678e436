//! What lies in an image directory, here or on other hosts: files by image, and leftovers. Reads `.meta` files, decides
//! nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use shifter_core::image_type::is_image_id;

use crate::publish;
use crate::transfer::{Store, TransferError};

/// Longest `.meta` that is read; the runtime takes no longer one.
const LONGEST_META: u64 = 4 << 20;

/// Files of other hosts that are read at a time: each takes some round trips.
const AT_A_TIME: usize = 16;

/// The files of one image.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    /// Size by format, of regular files.
    images: BTreeMap<String, u64>,
    /// The text of `.meta`.
    pub(super) meta: Option<String>,
    /// Why that is not known although it is there.
    pub(super) unread: Option<String>,
    /// When the latest of them was written.
    pub(super) changed: Option<SystemTime>,
    /// Hosts that lack the image, or have another one; and its `.meta`.
    pub(super) lacking: [Vec<String>; 2],
}

impl Files {
    /// The size of the image file of this format.
    pub(super) fn image(&self, format: &str) -> Option<u64> {
        self.images.get(format).copied()
    }

    /// Formats of which there is an image file.
    pub(super) fn formats(&self) -> impl Iterator<Item = &String> {
        self.images.keys()
    }
}

/// All of a directory that is ours.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: BTreeMap<String, Files>,
    /// Parts whose writer is dead; of other hosts, those clear them away that next send there.
    pub(super) leftovers: Vec<PathBuf>,
}

impl Contents {
    /// A host that has none of the images that others have, as where a file system is not mounted.
    pub(super) fn bare_host(&self) -> Option<&String> {
        let has_none = |host: &&String| self.images.values().all(|files| files.lacking[0].contains(*host));
        self.images.values().next()?.lacking[0].iter().find(has_none)
    }
}

/// Reads a directory of other hosts.
pub(super) async fn read_far(store: &Store) -> Result<Contents, TransferError> {
    let (mut contents, mut to_read) = (Contents::default(), Vec::new());
    for (name, listed) in store.list().await? {
        let Some((id, end)) = parts(&name) else { continue };
        let files = contents.images.entry(id.to_owned()).or_default();
        files.changed = files.changed.max(UNIX_EPOCH.checked_add(Duration::from_secs(listed.modified)));
        if end == "meta" {
            files.lacking[1] = listed.missing_on;
            to_read.push(id.to_owned());
        } else {
            files.lacking[0] = listed.missing_on;
            files.images.insert(end.to_owned(), listed.size);
        }
    }
    let read = |id: String| async move { store.read_meta(&id).await.map(|bytes| (id, bytes)) };
    let mut read = futures_util::stream::iter(to_read).map(read).buffer_unordered(AT_A_TIME);
    while let Some((id, bytes)) = read.try_next().await? {
        let bytes = bytes.filter(|bytes| bytes.len() as u64 <= LONGEST_META);
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        contents.images.entry(id).or_default().meta = text;
    }
    Ok(contents)
}

/// Identifier and ending of a name that is ours.
fn parts(name: &str) -> Option<(&str, &str)> {
    let is_plain = |end: &str| end.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.split_once('.').filter(|(id, end)| is_image_id(id) && is_plain(end))
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
        let Some((id, end)) = name.to_str().and_then(parts) else { continue };
        let found = match entry.metadata() {
            Ok(found) if found.is_file() => found,
            // It went meanwhile, or is a directory or a link of the site's.
            _ => continue,
        };
        let files = contents.images.entry(id.to_owned()).or_default();
        files.changed = files.changed.max(found.modified().ok());
        if end == "meta" {
            match read_meta(&entry.path(), found.len()) {
                Ok(text) => files.meta = text,
                Err(error) => files.unread = Some(error.to_string()),
            }
        } else {
            files.images.insert(end.to_owned(), found.len());
        }
    }
    Ok(contents)
}

/// One that cannot be read, being somebody else's for instance, must not end the looking.
fn read_meta(path: &Path, length: u64) -> std::io::Result<Option<String>> {
    if length > LONGEST_META {
        return Ok(None);
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // It went meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
