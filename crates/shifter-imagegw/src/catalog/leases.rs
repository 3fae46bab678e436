//! Who works on a job: leases, heartbeats and fences, the same on every database.
//!
//! A lease is a time until which a job belongs to one process. Each claim raises the job's fence, and
//! whatever a worker writes afterwards names the fence it got: a worker that was asleep while its lease
//! ran out and somebody else took over finds every door closed. Times are the hosts' own clocks, which
//! must agree within a few seconds; disagreement costs work done twice, never a wrong catalog.

use std::time::Duration;

use shifter_core::meta::Acl;

use super::{Catalog, CatalogError, Change};
use crate::model::{Job, JobStatus, now};

/// How long a job belongs to its worker without a sign of life: three heartbeats, and what a busy host is late.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// Time between signs of life, and so until a cancelled job ends wherever it runs.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(4);

/// Time after a sign of life that failed, or took as long as the time between two, until the next.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How long after a database's return every living holder has prolonged its lease: the sign of life that was under way
/// fails, and the next one takes its longest.
pub(crate) const GRACE: Duration = Duration::from_secs(9);
const _: () = assert!(GRACE.as_secs() == 2 * HEARTBEAT.as_secs() + RETRY.as_secs());
// Whoever has not looked for so long cannot have missed that a lease ran out and its holder lives.
const _: () = assert!(GRACE.as_secs() + HEARTBEAT.as_secs() < LEASE.as_secs());

/// One claim of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) number: i64,
    pub(crate) fence: i64,
}

impl Job {
    /// The claim that this copy of the job was read under.
    pub(crate) fn lease(&self) -> Lease {
        Lease { number: self.number, fence: self.fence }
    }

    /// Whether some process has it in hand at the moment.
    pub(crate) fn is_held(&self) -> bool {
        self.lease_until > now()
    }
}

impl dyn Catalog + '_ {
    /// Takes an unfinished job that nobody holds; none if it is held or over.
    pub(crate) async fn claim(&self, number: i64, holder: &str) -> Result<Option<Job>, CatalogError> {
        let now = now();
        let lease_until = Some(now + LEASE.as_secs_f64());
        let change = Change { if_free_at: Some(now), holder: Some(holder), lease_until, ..Change::default() };
        self.change_job(number, &change).await
    }

    /// Takes a job that nobody holds, if it still stands as it was read, though nothing is done yet; `message` tells the
    /// caller, and the job's source and access list are written down.
    pub(crate) async fn take(
        &self,
        job: &Job,
        holder: &str,
        message: &str,
    ) -> Result<Option<Job>, CatalogError> {
        let (now, status) = (now(), Some((JobStatus::Pending, message)));
        let change = Change {
            if_fence: Some(job.fence),
            if_free_at: Some(now),
            holder: Some(holder),
            lease_until: Some(now + LEASE.as_secs_f64()),
            status,
            source: Some(&job.source),
            acl: Some(&job.acl),
            ..Change::default()
        };
        self.change_job(job.number, &change).await
    }

    /// Prolongs a lease; false if it is lost, or the job cancelled.
    pub(crate) async fn heartbeat(&self, lease: Lease) -> Result<bool, CatalogError> {
        self.tell(lease, "").await
    }

    /// Prolongs a lease and says how far the work is, if that is not empty; false as for `heartbeat`.
    pub(crate) async fn tell(&self, lease: Lease, note: &str) -> Result<bool, CatalogError> {
        let lease_until = Some(now() + LEASE.as_secs_f64());
        let note = Some(note).filter(|note| !note.is_empty());
        self.under(lease, Change { lease_until, note, ..Change::default() }).await
    }

    /// Gives a job back unfinished, so that another process may take it at once; `message` tells the caller.
    pub(crate) async fn release(&self, lease: Lease, message: &str) -> Result<bool, CatalogError> {
        let status = Some((JobStatus::Pending, message));
        self.under(lease, Change { lease_until: Some(0.0), status, ..Change::default() }).await
    }

    /// Leaves sealed credentials with a job that nobody has in hand, for whoever takes it.
    pub(crate) async fn seal(&self, number: i64, sealed: &str) -> Result<bool, CatalogError> {
        let change = Change { sealed: Some(sealed), ..Change::default() };
        Ok(self.change_job(number, &change).await?.is_some())
    }

    /// Moves a job on; false if it is no longer the holder's.
    pub(crate) async fn set_status(
        &self,
        lease: Lease,
        status: JobStatus,
        message: &str,
    ) -> Result<bool, CatalogError> {
        self.under(lease, Change { status: Some((status, message)), ..Change::default() }).await
    }

    /// Notes that the registry gives the job's tag to everybody, so others may see it in the queue.
    pub(crate) async fn set_public(&self, lease: Lease) -> Result<bool, CatalogError> {
        self.under(lease, Change { public: true, ..Change::default() }).await
    }

    /// Ends a job well; with an access list, only if that is still the one asked for.
    pub(crate) async fn finish(&self, lease: Lease, acl: Option<&Acl>) -> Result<bool, CatalogError> {
        let ready = Some((JobStatus::Ready, ""));
        self.under(lease, Change { if_acl: acl, status: ready, ..Change::default() }).await
    }

    /// Ends a job that nobody has in hand, if it still stands as it was read.
    pub(crate) async fn abandon(&self, job: &Job, why: &str) -> Result<bool, CatalogError> {
        let status = Some((JobStatus::Failure, why));
        self.under(job.lease(), Change { if_free_at: Some(now()), status, ..Change::default() }).await
    }

    /// Ends a job whoever holds it, who learns of it at the next heartbeat; false if it is over.
    pub(crate) async fn cancel(&self, number: i64, why: &str) -> Result<bool, CatalogError> {
        let change = Change { status: Some((JobStatus::Failure, why)), ..Change::default() };
        Ok(self.change_job(number, &change).await?.is_some())
    }

    async fn under(&self, lease: Lease, change: Change<'_>) -> Result<bool, CatalogError> {
        let change = Change { if_fence: Some(lease.fence), ..change };
        Ok(self.change_job(lease.number, &change).await?.is_some())
    }
}
