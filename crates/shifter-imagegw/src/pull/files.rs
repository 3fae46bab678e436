//! The files of published images as others change them: their locks, and `.meta` as what the catalog grants.
//!
//! Nodes believe `.meta`. Whoever changes grants writes it under the image's lock and compares with what
//! is stored afterwards, so that in the end the union of the stored grants stands there, also where another
//! process changed them at the same moment. Systems that share a directory share its files, their locks and
//! the union.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{PullError, Puller, blocking};
use crate::acl;
use crate::catalog::{Record, State, patiently};
use crate::config::Platform;
use crate::model::{Grant, Image};
use crate::publish;

/// How long another process may take to remove an image's files.
const REMOVAL: Duration = Duration::from_secs(5);

impl Puller {
    /// Waits until nobody else in this process makes, grants or removes an image.
    pub(crate) async fn hold(&self, platform: &Platform, id: &str) -> OwnedMutexGuard<()> {
        self.images.lock(lock_name(platform, id)).await
    }

    /// The same, unless somebody does.
    pub(crate) fn try_hold(&self, platform: &Platform, id: &str) -> Option<OwnedMutexGuard<()>> {
        self.images.try_lock(lock_name(platform, id))
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
                Some(newest) if self.has_file(platform, &newest.image).await => {
                    let grants: Vec<Grant> = known.iter().flat_map(|record| record.grants.clone()).collect();
                    self.publish_meta(platform, &newest.image, &grants).await?;
                }
                _ => {
                    let (platform, id) = (platform.clone(), id.to_owned());
                    blocking(move || publish::remove_meta(&platform, &id)).await?;
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
    pub(crate) async fn has_file(&self, platform: &Platform, image: &Image) -> bool {
        image.size == 0 || self.is_published(platform, image).await
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
        let meta = image.to_meta(acl::for_meta(grants, self.gateway_uid)?).render();
        let (directory, id) = (platform.image_dir.clone(), image.id.clone());
        blocking(move || publish::publish_meta(&directory, &id, &meta)).await
    }
}

fn lock_name(platform: &Platform, id: &str) -> String {
    format!("{:?} {} {id}", platform.access, platform.image_dir.display())
}
