//! Waiting for a pull to move: long polls. A client that has seen a state is answered when there is
//! another one, or when its time is over; meanwhile it costs a sleeping task.
//!
//! Pulls of this process wake their waiters themselves. Those of another process are looked at in the
//! catalog once a second, all of them with one question, however many clients wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use shifter_api::wire;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::catalog::Catalog;
use crate::convert::sentence;
use crate::model::{Job, JobStatus};
use crate::progress::Standing;
use crate::route::{Query, QueryError};

/// Longest wait, seconds.
pub(crate) const LONGEST_WAIT: u64 = 60;

/// Clients that may wait at a time: fewer than connections, or nobody could look anything up.
const MOST_WAITING: usize = 3072;

/// Time between looks at other processes' pulls.
const PERIOD: Duration = Duration::from_secs(1);

/// What a client of `pull` asks for beside the pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) longest: Duration,
    pub(crate) seen: String,
}

impl Wait {
    /// None where the request has neither parameter, as old clients'.
    pub(crate) fn parse(query: &Query) -> Result<Option<Wait>, QueryError> {
        let seconds = query.number("wait", 0, LONGEST_WAIT)?;
        let seen = query.get("seen").unwrap_or_default();
        let is_asked = seconds.is_some() || !seen.is_empty();
        let longest = Duration::from_secs(seconds.unwrap_or(0));
        Ok(is_asked.then(|| Wait { longest, seen: seen.to_owned() }))
    }

    /// Whether the client has seen nothing yet: it begins, where others follow what they began.
    pub(crate) fn begins(&self) -> bool {
        self.seen.is_empty()
    }
}

/// The answer to a pull: the record that old clients know, and for those who wait how far it is.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) image: wire::Image,
    /// While it is unfinished.
    pub(crate) job: Option<Job>,
    /// Of a pull that this process works on.
    pub(crate) standing: Option<Standing>,
    /// Shown where it was asked for.
    pub(crate) state: Option<String>,
}

impl Pulled {
    pub(crate) fn over(image: wire::Image) -> Pulled {
        Pulled { image, job: None, standing: None, state: None }
    }

    /// Without a standing of this process, the catalog's last message is all that is known.
    pub(crate) fn unfinished(image: wire::Image, job: Job, standing: Option<Standing>) -> Pulled {
        let told = || Standing { stage: job.message.clone(), ..Standing::default() };
        let standing = Some(standing.unwrap_or_else(told));
        Pulled { image, job: Some(job), standing, state: None }
    }

    /// Names what a client has seen, so that it can ask for what comes next.
    pub(crate) fn seen(&self) -> String {
        let stage = self.standing.as_ref().map_or("", |standing| &standing.stage);
        let id = self.image.id.as_deref().unwrap_or_default();
        let status = self.image.status.as_deref().unwrap_or_default();
        let hash = blake3::hash(format!("{status}\n{stage}\n{id}").as_bytes());
        hash.to_hex().chars().take(16).collect()
    }
}

impl Serialize for Pulled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            stage: &'a str,
            done: u64,
            total: Option<u64>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            layers: &'a [wire::LayerProgress],
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            image: &'a wire::Image,
            #[serde(skip_serializing_if = "Option::is_none")]
            state: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            progress: Option<Shown<'a>>,
        }
        let standing = self.standing.as_ref().filter(|_| self.state.is_some());
        let progress =
            standing.map(|s| Shown { stage: &s.stage, done: s.done, total: s.total, layers: &s.layers });
        Whole { image: &self.image, state: &self.state, progress }.serialize(serializer)
    }
}

/// Where a job of the catalog stands; none once it is over.
type Look = Option<(JobStatus, String)>;

/// Those who wait for other processes' pulls, by the pull's number.
pub(crate) struct Elsewhere {
    catalog: Arc<dyn Catalog>,
    watched: Mutex<Watched>,
    places: Semaphore,
}

#[derive(Default)]
struct Watched {
    jobs: HashMap<i64, watch::Sender<Look>>,
    is_looking: bool,
}

impl Elsewhere {
    pub(crate) fn new(catalog: Arc<dyn Catalog>) -> Arc<Elsewhere> {
        Arc::new(Elsewhere { catalog, watched: Mutex::default(), places: Semaphore::new(MOST_WAITING) })
    }

    /// A place among those who wait, here or for elsewhere; none if there are too many.
    pub(crate) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// Whether somebody waits for another process's pull.
    pub(crate) fn is_watched(&self, number: i64) -> bool {
        self.watched().jobs.get(&number).is_some_and(|sender| sender.receiver_count() > 0)
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the catalog's job is no longer as it was read.
    pub(crate) async fn changed(self: &Arc<Self>, job: &Job) {
        let read = look(job);
        let mut receiver = {
            let mut watched = self.watched();
            let sender = watched.jobs.entry(job.number);
            let receiver = sender.or_insert_with(|| watch::Sender::new(read.clone())).subscribe();
            if !std::mem::replace(&mut watched.is_looking, true) {
                tokio::spawn(self.clone().keep_looking());
            }
            receiver
        };
        // Closed by whoever stopped looking, which only happens where nobody waits.
        let _ = receiver.wait_for(|now| *now != read).await;
    }

    /// Looks once a period, until nobody waits any more.
    async fn keep_looking(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            {
                let mut watched = self.watched();
                watched.jobs.retain(|_, sender| sender.receiver_count() > 0);
                if watched.jobs.is_empty() {
                    watched.is_looking = false;
                    return;
                }
            }
            let unfinished = match self.catalog.unfinished(None).await {
                Ok(unfinished) => unfinished,
                Err(error) => {
                    tracing::warn!(error = sentence(&error), "looking at other processes' pulls failed");
                    continue;
                }
            };
            let mut looks: HashMap<i64, Look> =
                unfinished.iter().map(|job| (job.number, look(job))).collect();
            for (number, sender) in &self.watched().jobs {
                let now = looks.remove(number).flatten();
                sender.send_if_modified(|before| {
                    let is_new = *before != now;
                    *before = now;
                    is_new
                });
            }
        }
    }
}

fn look(job: &Job) -> Look {
    (!job.status.is_over()).then(|| (job.status, job.message.clone()))
}
