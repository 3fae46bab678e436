//! The image directories that are compared, here and on other hosts, and what is done in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::directory::{self, Contents, Files};
use crate::config::{Access, Config, Platform};
use crate::model::Image;
use crate::publish;
use crate::pull::Puller;
use crate::transfer::Store;

/// An image directory with the systems that have it.
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    pub(super) systems: Vec<&'a str>,
    /// These, and those that have it on some of the hosts: what is theirs is not nobody's.
    pub(super) sharing: Vec<&'a str>,
    store: Arc<Store>,
    /// Hosts that have it; this one where there are none.
    hosts: Vec<&'a str>,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.directory.display())?;
        if self.hosts.is_empty() { Ok(()) } else { write!(f, " on {}", self.hosts.join(", ")) }
    }
}

impl Place<'_> {
    pub(super) async fn read(&self) -> anyhow::Result<Contents> {
        match &*self.store {
            Store::Local(directory) => directory::read(directory).await,
            Store::Remote(_) => Ok(directory::read_far(&self.store).await?),
        }
    }

    /// Whether the image file is there, everywhere. Of one whose size nobody knows that is believed of other hosts.
    pub(super) async fn has(&self, image: &Image) -> anyhow::Result<bool> {
        let Store::Local(directory) = &*self.store else {
            let found = self.store.is_published(&image.id, &image.format, image.size);
            return Ok(image.size == 0 || found.await?);
        };
        match tokio::fs::metadata(publish::image_path(directory, &image.id, &image.format)).await {
            Ok(found) => Ok(image.size == 0 || image.size == found.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context("looking at an image failed"),
        }
    }

    /// Removes `.meta`, as nodes read that, then the image.
    pub(super) async fn remove(&self, id: &str, format: &str) -> anyhow::Result<()> {
        Ok(self.store.remove(id, format).await?)
    }

    /// All of an image that nobody knows.
    pub(super) async fn remove_all(&self, id: &str, files: &Files) -> anyhow::Result<()> {
        self.store.remove_meta(id).await?;
        for format in files.formats() {
            self.remove(id, format).await?;
        }
        Ok(())
    }

    pub(super) async fn write_meta(&self, id: &str, text: &str) -> anyhow::Result<()> {
        Ok(self.store.publish_meta(id, text).await?)
    }

    /// Clears away what dead writers left; on other hosts, who next sends there does that.
    pub(super) async fn tidy(&self) -> anyhow::Result<()> {
        if let Store::Local(directory) = &*self.store {
            let directory = directory.clone();
            tokio::task::spawn_blocking(move || publish::remove_leftovers(&directory)).await??;
        }
        Ok(())
    }
}

/// The directories of a system, or of all. Other hosts' are reached by a running gateway only.
pub(super) fn places<'a>(
    config: &'a Config,
    system: Option<&str>,
    puller: Option<&Puller>,
    lines: &mut Vec<String>,
) -> anyhow::Result<Vec<Place<'a>>> {
    if let Some(name) = system
        && !config.platforms.contains_key(name)
    {
        bail!("system {} is not configured", name.escape_default());
    }
    let hosts = |platform: &'a Platform| -> BTreeSet<&'a str> {
        platform.remote.iter().flat_map(|account| &account.hosts).map(String::as_str).collect()
    };
    let mut groups: BTreeMap<(BTreeSet<&str>, &Path), Vec<&str>> = BTreeMap::new();
    for (name, platform) in &config.platforms {
        groups.entry((hosts(platform), &platform.image_dir)).or_default().push(name);
    }
    let mut places = Vec::new();
    for ((hosts, directory), systems) in groups {
        let wanted = systems.iter().find(|name| system.is_none_or(|wanted| wanted == **name));
        let Some((name, platform)) = wanted.and_then(|name| config.platforms.get_key_value(*name)) else {
            continue;
        };
        let sharing = config.platforms.iter().filter(|(_, other)| other.shares_files_with(platform));
        let sharing = sharing.map(|(name, _)| name.as_str()).collect();
        let store = match puller {
            _ if platform.access == Access::Local => Arc::new(Store::Local(directory.to_owned())),
            Some(puller) => puller.store(name)?,
            None => {
                let systems = systems.join(", ");
                lines.push(format!(
                    "system {systems}: its images are on other hosts, which a running gateway looks at, asked by \
                     AdminSocket; not looked at"
                ));
                continue;
            }
        };
        places.push(Place { directory, systems, sharing, store, hosts: hosts.into_iter().collect() });
    }
    Ok(places)
}
