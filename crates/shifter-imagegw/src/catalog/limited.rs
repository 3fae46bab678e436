//! A time limit on every step of a catalog: a database that accepts and never answers costs a request a 503, not its
//! life. Limits of the servers and drivers do not cover that case. Says nothing of opening and migrating.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Catalog, CatalogError, Change, Lease, Meaning, Meant, NewJob, Record, Turn, Use, Version};
use crate::model::{Image, Job, TagKey};

/// Longest wait for one step; longer than what the databases take to give up a connection by themselves.
pub(super) const LONGEST_STEP: Duration = Duration::from_secs(10);

/// A catalog whose steps end in time.
pub(super) struct Limited(pub(super) Arc<dyn Catalog>);

/// Waits for a step. What was asked may still be done by the database: as after a broken connection, the next step's
/// condition tells.
async fn within<T>(
    operation: &'static str,
    step: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    match tokio::time::timeout(LONGEST_STEP, step).await {
        Ok(result) => result,
        Err(_) => {
            let source = format!("it gave no answer within {} seconds", LONGEST_STEP.as_secs());
            Err(CatalogError::Unavailable { operation, source: source.into() })
        }
    }
}

#[async_trait]
impl Catalog for Limited {
    async fn lookup(&self, key: &TagKey) -> Result<Option<Meaning>, CatalogError> {
        within("looking up a tag", self.0.lookup(key)).await
    }

    fn remember(&self) {
        self.0.remember();
    }

    fn recall(&self, key: &TagKey) -> Option<Arc<Meaning>> {
        self.0.recall(key)
    }

    fn doubt(&self, key: Option<&TagKey>) {
        self.0.doubt(key);
    }

    fn lateness(&self) -> Option<Duration> {
        self.0.lateness()
    }

    async fn list(&self, system: Option<&str>) -> Result<Vec<Record>, CatalogError> {
        within("reading images", self.0.list(system)).await
    }

    async fn version(&self) -> Result<Option<Version>, CatalogError> {
        within("asking whether images changed", self.0.version()).await
    }

    async fn record(&self, system: &str, id: &str) -> Result<Option<Record>, CatalogError> {
        within("reading an image", self.0.record(system, id)).await
    }

    async fn image_of_digest(&self, system: &str, digest: &str) -> Result<Option<Image>, CatalogError> {
        within("looking up a digest", self.0.image_of_digest(system, digest)).await
    }

    async fn store(&self, record: &Record) -> Result<bool, CatalogError> {
        within("storing an image", self.0.store(record)).await
    }

    async fn set_expiration(&self, system: &str, id: &str, at: f64) -> Result<(), CatalogError> {
        within("moving an image's expiration", self.0.set_expiration(system, id, at)).await
    }

    async fn retired(&self, system: Option<&str>, id: Option<&str>) -> Result<Vec<Record>, CatalogError> {
        within("reading removed images", self.0.retired(system, id)).await
    }

    async fn turn(&self, record: &Record, turn: &Turn) -> Result<bool, CatalogError> {
        within("changing an image's state", self.0.turn(record, turn)).await
    }

    async fn forget(&self, record: &Record) -> Result<(), CatalogError> {
        within("forgetting a removed image", self.0.forget(record)).await
    }

    async fn history(&self, key: &TagKey) -> Result<Vec<(String, f64)>, CatalogError> {
        within("reading what a tag meant", self.0.history(key)).await
    }

    async fn all_meanings(&self) -> Result<Vec<Meant>, CatalogError> {
        within("reading what tags meant", self.0.all_meanings()).await
    }

    async fn add_meanings(&self, meanings: &[Meant]) -> Result<(), CatalogError> {
        within("adding what tags meant", self.0.add_meanings(meanings)).await
    }

    async fn add_uses(&self, uses: &[Use]) -> Result<(), CatalogError> {
        within("noting lookups", self.0.add_uses(uses)).await
    }

    async fn uses(&self, system: &str, limit: u32) -> Result<Vec<Use>, CatalogError> {
        within("reading lookups", self.0.uses(system, limit)).await
    }

    async fn trim_uses(&self, keep: u32) -> Result<(), CatalogError> {
        within("forgetting old lookups", self.0.trim_uses(keep)).await
    }

    async fn enter_job(&self, new: &NewJob) -> Result<Option<Job>, CatalogError> {
        within("entering a pull", self.0.enter_job(new)).await
    }

    async fn job(&self, number: i64) -> Result<Option<Job>, CatalogError> {
        within("reading a pull", self.0.job(number)).await
    }

    async fn job_of(&self, key: &TagKey, uid: u32) -> Result<Option<Job>, CatalogError> {
        within("reading a caller's pull", self.0.job_of(key, uid)).await
    }

    async fn unfinished(&self, system: Option<&str>) -> Result<Vec<Job>, CatalogError> {
        within("reading the queue", self.0.unfinished(system)).await
    }

    async fn change_job(&self, number: i64, change: &Change<'_>) -> Result<Option<Job>, CatalogError> {
        within("changing a pull", self.0.change_job(number, change)).await
    }

    async fn fly(&self, lease: Lease, digest: &str) -> Result<bool, CatalogError> {
        within("beginning to make an image", self.0.fly(lease, digest)).await
    }

    async fn forget_end(&self, number: i64) -> Result<bool, CatalogError> {
        within("forgetting a pull", self.0.forget_end(number)).await
    }

    async fn forget_ends_before(&self, before: f64) -> Result<(), CatalogError> {
        within("forgetting old pulls", self.0.forget_ends_before(before)).await
    }

    /// As long as it takes: it answers no caller.
    async fn copy_to(&self, file: &Path) -> Result<(), CatalogError> {
        self.0.copy_to(file).await
    }

    async fn close(&self) {
        if tokio::time::timeout(LONGEST_STEP, self.0.close()).await.is_err() {
            tracing::warn!("the catalog's database did not end the connections in time");
        }
    }
}
