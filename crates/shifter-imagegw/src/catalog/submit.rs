//! From a request to a job: one per caller and tag, its end told once. The same on every database,
//! made of its atomic steps; where two requests meet in between, the slower one looks again.

use super::{Catalog, CatalogError, Change, NewJob};
use crate::model::{Job, now};

/// Most unfinished pulls in all; beyond that a caller is asked to come back.
const MOST_UNFINISHED: usize = 1000;

/// Most unfinished pulls of one caller, so that nobody can fill the gateway alone. Requests that come
/// at the same moment may pass both limits by their number.
const MOST_OF_ONE_CALLER: usize = 100;

/// How long the end of a pull waits to be told at least, however small `PullUpdateTimeout` is.
const LEAST_TELLING_SECONDS: f64 = 60.0;

/// What became of a submitted pull.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// A new job was made.
    Started(Job),
    /// The caller's earlier one is still going; its access list is now the one just given, unless it is an import of
    /// another file.
    Going(Job),
    /// The caller's earlier one is over; this is told once (or for a moment, where several clients of the
    /// caller wait for it), the next submission starts anew.
    Over(Job),
    /// Nothing to do: the tag was checked recently enough.
    Fresh,
    /// The gateway has as many unfinished pulls as it accepts, in all or of this caller.
    TooMany,
}

/// Enters a pull, or finds the caller's earlier one. `fresh` says that the tag needs no asking;
/// `telling` is how long, in seconds, the end of an earlier pull is worth telling; `is_shared`
/// says whether several clients of the caller wait for that end, so that it is kept for the others.
pub(crate) async fn submit(
    catalog: &dyn Catalog,
    new: &NewJob,
    fresh: bool,
    telling: f64,
    is_shared: &(dyn Fn(i64) -> bool + Sync),
) -> Result<Submitted, CatalogError> {
    loop {
        if let Some(earlier) = catalog.job_of(&new.key, new.uid).await? {
            if !earlier.status.is_over() {
                if earlier.acl == new.acl || !new.is_done_by(&earlier) {
                    return Ok(Submitted::Going(earlier));
                }
                let change = Change { acl: Some(&new.acl), ..Change::default() };
                match catalog.change_job(earlier.number, &change).await? {
                    Some(job) => return Ok(Submitted::Going(job)),
                    None => continue,
                }
            }
            let is_worth_telling = earlier.acl == new.acl
                && new.is_done_by(&earlier)
                && now() - earlier.updated < telling.max(LEAST_TELLING_SECONDS);
            if is_worth_telling && is_shared(earlier.number) {
                return Ok(Submitted::Over(earlier));
            }
            let is_mine_to_tell = catalog.forget_end(earlier.number).await?;
            if is_worth_telling && is_mine_to_tell {
                return Ok(Submitted::Over(earlier));
            }
            if !is_mine_to_tell {
                continue;
            }
        }
        if fresh {
            return Ok(Submitted::Fresh);
        }
        let unfinished = catalog.unfinished(None).await?;
        let own = unfinished.iter().filter(|job| job.uid == new.uid).count();
        if unfinished.len() >= MOST_UNFINISHED || own >= MOST_OF_ONE_CALLER {
            return Ok(Submitted::TooMany);
        }
        if let Some(job) = catalog.enter_job(new).await? {
            return Ok(Submitted::Started(job));
        }
    }
}
