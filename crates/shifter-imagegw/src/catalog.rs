//! The catalog: what is published, what tags mean, who earned access, and which pulls are under way.
//!
//! One trait, three databases: SQLite and PostgreSQL (`sql`), MongoDB (`mongo`). Every method of the
//! trait is one atomic step, because a MongoDB server on its own has nothing larger: an image with all
//! that leads to it is one record, replaced only by who read its latest revision; a job is changed only
//! under conditions that are checked in the same step. Decisions are taken elsewhere, from what is read
//! here, and what every database does alike (`submit`, `leases`, `migrate`) is written once.

mod leases;
mod life;
mod limited;
mod migrate;
mod mongo;
mod place;
mod sql;
mod submit;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shifter_core::meta::Acl;

pub(crate) use self::leases::{GRACE, HEARTBEAT, LEASE, Lease, RETRY};
pub(crate) use self::life::{Meant, State, Turn, Use};
#[cfg(test)]
use self::migrate::Outcome;
pub(crate) use self::migrate::{Source, migrate};
pub(crate) use self::place::{Place, PlaceError};
pub(crate) use self::submit::{Submitted, submit};
use crate::model::{Grant, Image, Job, JobStatus, TagKey, now};

/// An error of one of the drivers.
type DriverError = Box<dyn std::error::Error + Send + Sync>;

/// Why the catalog could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    /// Another process holds it.
    #[error("the catalog {} is in use by process {holder}; only one gateway may serve it", .path.display())]
    InUse { path: PathBuf, holder: String },
    /// SQLite's write-ahead log needs shared memory, which network file systems do not give.
    #[error(
        "the catalog {} lies on a network file system ({kind}), where SQLite would corrupt it; \
         move it to a local disk and set DatabaseURI accordingly",
        .path.display()
    )]
    Network { path: PathBuf, kind: String },
    /// The directory or the lock file.
    #[error("opening the catalog failed: {operation} {}: {source}", .path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Connecting for the first time.
    #[error("opening the catalog {place} failed: {source}")]
    Open { place: String, source: DriverError },
    /// A schema this version does not know, or a damaged file.
    #[error("bringing the catalog {place} to this version's schema failed: {source}")]
    Migrate { place: String, source: DriverError },
    /// A catalog that is only read is not brought up to date.
    #[error(
        "the catalog {place} was last served by an older version; start this version's gateway on it once"
    )]
    Older { place: String },
    /// The database does not answer, or not now.
    #[error("{operation} in the catalog failed, because its database cannot be used at the moment: {source}")]
    Unavailable { operation: &'static str, source: DriverError },
    /// A statement.
    #[error("{operation} in the catalog failed: {source}")]
    Failed { operation: &'static str, source: DriverError },
    /// A row that this program cannot have written.
    #[error("{operation} in the catalog failed: {column} holds \"{value}\"")]
    Row { operation: &'static str, column: &'static str, value: String },
    /// Only SQLite's catalog is a file.
    #[error("this catalog is kept by a database server; its own tools copy it")]
    NoFile,
    /// The original's documents have one type per image.
    #[error("the catalog holds image {id} as type {found}; under MongoDB it cannot be of type {wanted}, too")]
    Type { id: String, found: String, wanted: String },
}

impl CatalogError {
    /// Whether the same may well succeed in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, CatalogError::Unavailable { .. })
    }
}

/// A pull as a request asks for it.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) key: TagKey,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) acl: Acl,
    pub(crate) with_credentials: bool,
    /// Of an import: `SENT`, or what tells the file that it names from others. Empty for a pull.
    pub(crate) source: String,
}

/// Stands for a file that was sent: nobody can ask for it again.
pub(crate) const SENT: &str = "sent";

impl NewJob {
    /// Whether a job of the same caller and tag does what is asked for, so that its end is the answer.
    pub(crate) fn is_done_by(&self, job: &Job) -> bool {
        self.source != SENT && (job.source == self.source || job.source.is_empty())
    }
}

/// A tag that means an image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tag {
    pub(crate) itype: String,
    pub(crate) tag: String,
    /// When the registry said so, seconds since the epoch. A tag means what was said last, whoever
    /// came last to write it down.
    pub(crate) asked: f64,
}

/// An image with all that leads to it: the unit that is replaced at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) image: Image,
    /// What registries call it, as `sha256:HEX`; of imported images, what they were made of.
    pub(crate) digests: Vec<String>,
    pub(crate) tags: Vec<Tag>,
    /// All of the image's, whatever tag they were earned under; sorted by type, tag and puller.
    pub(crate) grants: Vec<Grant>,
    /// Only `Ready` ones are found by `lookup`, `list`, `record` and `image_of_digest`.
    pub(crate) state: State,
    /// Kept by an administrator: neither expiry nor a full directory removes it.
    pub(crate) pinned: bool,
    /// Counts replacements; 0: nothing is stored yet, or only by an original gateway or of an expired image.
    pub(crate) revision: i64,
}

impl Record {
    /// A record for an image that has none.
    pub(crate) fn new(image: Image) -> Record {
        let (digests, tags, grants) = Default::default();
        Record { image, digests, tags, grants, state: State::Ready, pinned: false, revision: 0 }
    }

    /// Adds a digest unless it is there.
    pub(crate) fn add_digest(&mut self, digest: String) {
        if !self.digests.contains(&digest) {
            self.digests.push(digest);
        }
    }

    /// Adds a tag; of two times it was asked about, the later counts.
    pub(crate) fn add_tag(&mut self, new: Tag) {
        match self.tags.iter_mut().find(|old| old.itype == new.itype && old.tag == new.tag) {
            Some(old) if old.asked > latest_credible() => old.asked = new.asked,
            Some(old) => old.asked = old.asked.max(new.asked),
            None => self.tags.push(new),
        }
    }

    /// Puts everything into the order in which catalogs return it.
    fn sort(&mut self) {
        self.digests.sort();
        self.tags.sort_by(|a, b| (&a.itype, &a.tag).cmp(&(&b.itype, &b.tag)));
        self.grants.sort_by(|a, b| (&a.key, a.puller).cmp(&(&b.key, b.puller)));
    }

    /// The grants of one of its tags.
    pub(crate) fn grants_of(&self, tag: &Tag) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.key.itype == tag.itype && grant.key.tag == tag.tag)
    }
}

/// Times after this one are from a clock that was wrong, and count less than all others: a tag would
/// stay where it is until that time comes.
fn latest_credible() -> f64 {
    now() + 60.0
}

/// Which of two images a tag means, told by when it was asked about and their ids: the greater one.
fn order(a: &(f64, String), b: &(f64, String)) -> Ordering {
    let latest = latest_credible();
    let is_credible = |of: &(f64, String)| of.0 <= latest;
    is_credible(a).cmp(&is_credible(b)).then_with(|| a.0.total_cmp(&b.0)).then_with(|| a.1.cmp(&b.1))
}

/// What is to become of an unfinished job, and only if it stands as described. Absent: as it is. Who ends a job
/// erases its sealed credentials; who ends, takes or gives it back ends its flight.
#[derive(Debug, Default)]
pub(crate) struct Change<'a> {
    /// Only while this is the job's fence.
    pub(crate) if_fence: Option<i64>,
    /// Only if its lease is over by this time.
    pub(crate) if_free_at: Option<f64>,
    /// Only while this is its access list.
    pub(crate) if_acl: Option<&'a Acl>,
    /// Who takes it: the holder's name, and the next fence.
    pub(crate) holder: Option<&'a str>,
    pub(crate) lease_until: Option<f64>,
    /// Status and message; `updated` becomes the time of the change.
    pub(crate) status: Option<(JobStatus, &'a str)>,
    pub(crate) acl: Option<&'a Acl>,
    pub(crate) public: bool,
    /// A message, where the status stays.
    pub(crate) note: Option<&'a str>,
    /// Sealed credentials.
    pub(crate) sealed: Option<&'a str>,
    /// The file that an import is of from now on.
    pub(crate) source: Option<&'a str>,
}

/// One damaged entry must not hide all others, so it is told to the log and left out.
fn readable<T>(entry: Result<T, CatalogError>) -> Option<T> {
    entry
        .inspect_err(|error| {
            tracing::error!(
                error = crate::convert::sentence(error),
                "an entry cannot be read and is skipped"
            );
        })
        .ok()
}

/// A database that keeps the catalog.
#[async_trait]
pub(crate) trait Catalog: Send + Sync {
    /// The image a tag means, with the grants that this tag has for it.
    async fn lookup(&self, key: &TagKey) -> Result<Option<Meaning>, CatalogError>;

    /// Begins to keep what lookups find, where changes can be heard of; for a process that answers many.
    fn remember(&self) {}

    /// What a lookup found, if that is still true, or was within the last second (`lateness`) and its change is on the
    /// way here. None says nothing.
    fn recall(&self, _key: &TagKey) -> Option<Arc<Meaning>> {
        None
    }

    /// Forgets what is kept of a tag, or of all: before a client is told otherwise than by a lookup what has changed.
    fn doubt(&self, _key: Option<&TagKey>) {}

    /// How long lookups of other processes may tell what was before a change; none where they ask each time.
    fn lateness(&self) -> Option<Duration> {
        None
    }

    /// Every record of a system, or of all, by system and id.
    async fn list(&self, system: Option<&str>) -> Result<Vec<Record>, CatalogError>;

    /// Something that is another whenever any of `list`'s records is, expirations apart; none where only reading them
    /// tells.
    async fn version(&self) -> Result<Option<Version>, CatalogError> {
        Ok(None)
    }

    /// The record of an image.
    async fn record(&self, system: &str, id: &str) -> Result<Option<Record>, CatalogError>;

    /// The image made from a digest.
    async fn image_of_digest(&self, system: &str, digest: &str) -> Result<Option<Image>, CatalogError>;

    /// Replaces a record, or enters it. False, and nothing changed, if `record.revision` is not the
    /// stored one any more. Tags that were asked about later elsewhere stay where they are. A record of
    /// revision 0 also takes an expired one's place, of which nothing stays, but not an expiring one's.
    async fn store(&self, record: &Record) -> Result<bool, CatalogError>;

    /// Moves an image's expiration, seconds since the epoch.
    async fn set_expiration(&self, system: &str, id: &str, at: f64) -> Result<(), CatalogError>;

    /// Records of expiring and expired images, of a system or of all, of one id or of all.
    async fn retired(&self, system: Option<&str>, id: Option<&str>) -> Result<Vec<Record>, CatalogError>;

    /// Moves an image to another state if it still stands as it was read; whether it did.
    async fn turn(&self, record: &Record, turn: &Turn) -> Result<bool, CatalogError>;

    /// Removes an expired record, if it still stands as it was read.
    async fn forget(&self, record: &Record) -> Result<(), CatalogError>;

    /// Which images a tag meant, with the time since when it did, newest first; the last hundred.
    async fn history(&self, key: &TagKey) -> Result<Vec<(String, f64)>, CatalogError>;

    /// Which images all tags meant, in no order.
    async fn all_meanings(&self) -> Result<Vec<Meant>, CatalogError>;

    /// Adds to what tags meant; what is there already stays once.
    async fn add_meanings(&self, meanings: &[Meant]) -> Result<(), CatalogError>;

    /// Notes lookups.
    async fn add_uses(&self, uses: &[Use]) -> Result<(), CatalogError>;

    /// The newest lookups on a system, at most so many, oldest first.
    async fn uses(&self, system: &str, limit: u32) -> Result<Vec<Use>, CatalogError>;

    /// Forgets all lookups but the newest.
    async fn trim_uses(&self, keep: u32) -> Result<(), CatalogError>;

    /// Enters a job that nobody holds yet; none if the caller already has one for the tag.
    async fn enter_job(&self, new: &NewJob) -> Result<Option<Job>, CatalogError>;

    /// One job by number.
    async fn job(&self, number: i64) -> Result<Option<Job>, CatalogError>;

    /// A caller's job for a tag.
    async fn job_of(&self, key: &TagKey, uid: u32) -> Result<Option<Job>, CatalogError>;

    /// Unfinished jobs, of one system or of all, oldest first.
    async fn unfinished(&self, system: Option<&str>) -> Result<Vec<Job>, CatalogError>;

    /// Changes a job that is not over, if the change's conditions hold; the job as it is then.
    async fn change_job(&self, number: i64, change: &Change<'_>) -> Result<Option<Job>, CatalogError>;

    /// Begins to work on a digest, under a lease and as the only job of the system, or of all systems where it is named
    /// as a file: until the job is over, taken or given back. False while another one does, or if the lease is lost.
    async fn fly(&self, lease: Lease, digest: &str) -> Result<bool, CatalogError>;

    /// Removes a job that is over; false if somebody else did.
    async fn forget_end(&self, number: i64) -> Result<bool, CatalogError>;

    /// Removes the jobs that were over before this time.
    async fn forget_ends_before(&self, before: f64) -> Result<(), CatalogError>;

    /// Copies all of it, as of one moment, into an empty file; only what is a file itself can.
    async fn copy_to(&self, _file: &Path) -> Result<(), CatalogError> {
        Err(CatalogError::NoFile)
    }

    /// Ends the connections.
    async fn close(&self);
}

/// The image that a tag means, with the grants that this tag has for it.
pub(crate) type Meaning = (Image, Vec<Grant>);

/// What begins the name of a file that a job works on, as against a registry's digest. The databases' unique indexes
/// have it, too.
pub(crate) const FILE: &str = "file ";

/// What a catalog was at one moment; only equality means anything.
pub(crate) type Version = (i64, i64);

/// For what a catalog is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be used: it is created and brought to this version's schema.
    Use,
    /// To be read: nothing is created or changed.
    Look,
}

/// Opens a catalog. None only where `Look` finds nothing there.
pub(crate) async fn open(place: &Place, purpose: Purpose) -> Result<Option<Arc<dyn Catalog>>, CatalogError> {
    fn shared<C: Catalog + 'static>(catalog: Option<C>) -> Option<Arc<dyn Catalog>> {
        catalog.map(|catalog| Arc::new(limited::Limited(Arc::new(catalog))) as Arc<dyn Catalog>)
    }
    Ok(match place {
        Place::Sqlite(path) => shared(sql::open_sqlite(path, purpose).await?),
        Place::Postgres(uri) => shared(sql::open_postgres(uri, place, purpose).await?),
        Place::Mongo { uri, database } => shared(mongo::Mongo::open(uri, database, place, purpose).await?),
    })
}

/// Opens the catalog of a gateway that is about to serve.
pub(crate) async fn open_for_use(place: &Place) -> Result<Arc<dyn Catalog>, CatalogError> {
    let missing = || CatalogError::Older { place: place.to_string() };
    open(place, Purpose::Use).await?.ok_or_else(missing)
}

/// Does a step again while the database cannot be used, for up to two minutes: what works on a pull
/// outlives a restart of the database. Callers of the API are told instead.
pub(crate) async fn patiently<T, F>(mut step: impl FnMut() -> F) -> Result<T, CatalogError>
where
    F: Future<Output = Result<T, CatalogError>>,
{
    const LONGEST: Duration = Duration::from_secs(120);
    let begun = std::time::Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        match step().await {
            Err(error) if error.is_passing() && begun.elapsed() < LONGEST => {
                tracing::warn!(
                    error = crate::convert::sentence(&error),
                    "waiting for the catalog's database"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(3));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
