//! The files of published images as others change them: their locks, and `.meta` as what the catalog grants.
//!
//! Nodes believe `.meta`. Whoever changes grants writes it under the image's lock and compares with what
//! is stored afterwards, so that in the end the union of the stored grants stands there, also where another
//! process changed them at the same moment. Systems that share a directory share its files, their locks and
//! the union.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{PullError, Puller};
use crate::acl;
use crate::catalog::{Record, State, patiently};
use crate::config::Platform;
use crate::model::{Grant, Image};
use crate::transfer::Store;

/// How long another process may take to remove an image's files.
const REMOVAL: Duration = Duration::from_secs(5);

/// An image in hand, wherever its files are; given back with this value.
pub(crate) struct Held(#[expect(dead_code, reason = "locks are held, not read")] Vec<OwnedMutexGuard<()>>);

impl Puller {
    /// Waits until nobody else in this process makes, grants or removes an image.
    pub(crate) async fn hold(&self, platform: &Platform, id: &str) -> Held {
        Held(self.images.lock_all(lock_names(platform, id)).await)
    }

    /// The same, unless somebody does.
    pub(crate) fn try_hold(&self, platform: &Platform, id: &str) -> Option<Held> {
        self.images.try_lock_all(lock_names(platform, id)).map(Held)
    }

    /// The records of all systems for which these files are an image that can be used.
    pub(crate) async fn sharing(&self, platform: &Platform, id: &str) -> Result<Vec<Record>, PullError> {
        let mut records = Vec::new();
        for (system, other) in &self.config.platforms {
            if std::ptr::eq(other, platform) || other.shares_files_with(platform) {
                records.extend(patiently(|| self.catalog.record(system, id)).await?);
            }
        }
        Ok(records)
    }

    /// Writes `.meta` as it is to be once a record is stored. Refused where too many would be named.
    pub(crate) async fn write_meta(&self, platform: &Platform, record: &Record) -> Result<(), PullError> {
        let Image { system, id, .. } = &record.image;
        let others = self.sharing(platform, id).await?;
        let others = others.iter().filter(|other| other.image.system != *system);
        let grants: Vec<Grant> = others.chain([record]).flat_map(|record| record.grants.clone()).collect();
        self.publish_meta(platform, &record.image, &grants).await
    }

    /// Makes `.meta` say what the catalog says, however often that changes meanwhile. Without an image that
    /// can be used, or without its file, there is none.
    pub(crate) async fn settle_meta(&self, platform: &Platform, id: &str) -> Result<(), PullError> {
        let mut known = self.sharing(platform, id).await?;
        loop {
            let newest = known.iter().max_by(|a, b| a.image.last_pull.total_cmp(&b.image.last_pull));
            match newest {
                Some(newest) if self.has_file(&newest.image).await? => {
                    let grants: Vec<Grant> = known.iter().flat_map(|record| record.grants.clone()).collect();
                    self.publish_meta(platform, &newest.image, &grants).await?;
                }
                _ => {
                    self.store_of(platform)?.remove_meta(id).await?;
                }
            }
            let now = self.sharing(platform, id).await?;
            let revisions = |records: &[Record]| records.iter().map(|one| one.revision).collect::<Vec<_>>();
            if revisions(&now) == revisions(&known) {
                return Ok(());
            }
            known = now;
        }
    }

    /// Whether an image's file is there; of one whose size nobody knows that is believed.
    pub(crate) async fn has_file(&self, image: &Image) -> Result<bool, PullError> {
        Ok(image.size == 0 || self.find_published(image).await?)
    }

    /// How far the removal of an image is; while another process is at it, its end is awaited for a while.
    pub(super) async fn state_after_removal(
        &self,
        system: &str,
        id: &str,
    ) -> Result<Option<State>, PullError> {
        let begun = std::time::Instant::now();
        loop {
            let retired = patiently(|| self.catalog.retired(Some(system), Some(id))).await?;
            match retired.first().map(|record| record.state) {
                Some(State::Expiring) if begun.elapsed() < REMOVAL => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                state => return Ok(state),
            }
        }
    }

    async fn publish_meta(
        &self,
        platform: &Platform,
        image: &Image,
        grants: &[Grant],
    ) -> Result<(), PullError> {
        let acl = acl::for_meta(grants, self.gateway_uid)?;
        let meta = self.config.environment.as_written(image.to_meta(acl)).render();
        Ok(self.store_of(platform)?.publish_meta(&image.id, &meta).await?)
    }

    /// Where a system's images are, or those of one that shares them.
    fn store_of(&self, platform: &Platform) -> Result<Arc<Store>, PullError> {
        let is_it = |other: &Platform| std::ptr::eq(other, platform) || other.shares_files_with(platform);
        let system = self.config.platforms.iter().find(|(_, other)| is_it(other)).map(|(system, _)| system);
        self.store(system.map_or("", String::as_str))
    }
}

/// One for each place that has the image's files: systems that share some of their hosts meet at those, and systems
/// whose directories have merely the same name nowhere.
fn lock_names(platform: &Platform, id: &str) -> BTreeSet<String> {
    let of = |host: &str| format!("{host}:{} {id}", platform.image_dir.display());
    match &platform.remote {
        Some(account) => account.hosts.iter().map(|host| of(host)).collect(),
        None => BTreeSet::from([of("")]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::SocketAddr;

    use crate::config::Platform;
    use crate::tests::Gateway;

    #[tokio::test]
    async fn systems_wait_for_each_other_only_where_they_have_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(dir.path(), SocketAddr::from(([127, 0, 0, 1], 1)), 0).await;
        let puller = gateway.api().jobs.puller();
        let far = gateway.api().config.platforms["far"].clone();
        let on = |hosts: &[&str], directory: &str| -> Platform {
            let mut account = far.remote.clone().unwrap();
            account.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            Platform { remote: Some(account), image_dir: directory.into(), ..far.clone() }
        };
        let here = Platform { image_dir: "/i".into(), ..gateway.api().config.platforms["sysa"].clone() };
        let held = on(&["h2", "h1"], "/i");
        let guard = puller.hold(&held, "aa").await;
        for (other, id, is_free) in [
            (on(&["h1"], "/i"), "aa", false),
            (on(&["h3", "h2"], "/i"), "aa", false),
            (on(&["h1", "h2"], "/i"), "aa", false),
            (on(&["h1"], "/i"), "bb", true),
            (on(&["h3"], "/i"), "aa", true),
            (on(&["h1"], "/j"), "aa", true),
            (here, "aa", true),
        ] {
            assert_eq!(puller.try_hold(&other, id).is_some(), is_free, "{other:?} {id}");
            assert_eq!(held.shares_files_with(&other) && id == "aa", !is_free, "{other:?} {id}");
        }
        drop(guard);
        assert!(puller.try_hold(&on(&["h1", "h2", "h3"], "/i"), "aa").is_some());
    }
}
