//! Running pulls: which are taken when, each in a task of its own, its progress, its end, and what becomes of jobs
//! whose process died.
//!
//! The catalog remembers jobs, this file runs them: a job is claimed when there is room and its user's turn has come
//! (`queue`), kept alive by heartbeats, and its work ends when the lease is lost, be it that somebody cancelled it or
//! that another process thought this one dead. `serve` and `worker` run the same. Registry credentials stay in this
//! process's memory, and go sealed into the catalog where workers apart are to have them; a job that had some and lost
//! them goes on when its caller polls again, since every poll brings the credentials along.

mod credentials;
mod hands;
mod imports;
mod polls;
mod queue;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use shifter_api::wire::DENIED;
use shifter_registry::Credentials;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use self::credentials::Brought;
use self::polls::Polls;
use self::queue::{QUEUED, Sight, Step, Turns, WAITING, is_import, next_step};
use crate::audit;
use crate::catalog::{Catalog, CatalogError, Change, HEARTBEAT, Lease, RETRY, SENT, patiently};
use crate::convert::sentence;
use crate::model::{Job, JobStatus, now};
use crate::progress::{Phase, Progress, Standing};
use crate::prometheus::METRICS;
use crate::pull::import::Source;
use crate::pull::{PullError, Puller};
use crate::seal::SealKey;

/// Time between looks at the queue while nothing is heard of it: how long a job that another process gave back, or
/// that an API process entered for workers apart, waits at most where there is room.
const LOOK: Duration = Duration::from_secs(1);

/// Ends of pulls nobody asked about are forgotten after this many seconds.
const FORGET_AFTER: f64 = 86_400.0;

/// Jobs in hand beyond which a user who has one here gets no other. Most of them wait for another's pull of the same
/// image, which costs nothing.
const MANY_IN_HAND: usize = 64;

/// A queued job whose credentials are in this process's memory is marked as waited for so often, seconds.
const MARK: f64 = 60.0;

/// How long tasks may take to notice that the process stops.
const STOPPING: Duration = Duration::from_secs(2);

/// The running jobs.
pub(crate) struct Jobs {
    catalog: Arc<dyn Catalog>,
    puller: Arc<Puller>,
    /// This process, as its leases name it.
    holder: String,
    /// For workers apart.
    seal: Option<SealKey>,
    running: Mutex<HashMap<i64, Running>>,
    /// Credentials of unfinished jobs that callers brought here.
    brought: Mutex<HashMap<i64, Brought>>,
    polls: Mutex<Polls>,
    /// Held during a look, so that there is one at a time.
    order: tokio::sync::Mutex<Order>,
    sight: Mutex<Sight>,
    /// Wakes the look.
    news: Arc<Notify>,
    is_stopping: AtomicBool,
}

#[derive(Default)]
struct Order {
    turns: Turns,
    last_forgotten: f64,
}

struct Running {
    uid: u32,
    location: String,
    progress: Arc<Progress>,
    task: JoinHandle<()>,
    lease: Lease,
    /// Of an import that waits for it.
    turn: Option<oneshot::Sender<Job>>,
}

/// What came with a job.
enum Given {
    Credentials(Option<Credentials>),
    File(Box<Source>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// `seal` is the key that workers apart have, too.
    pub(crate) fn new(catalog: Arc<dyn Catalog>, puller: Arc<Puller>, seal: Option<SealKey>) -> Arc<Jobs> {
        let (running, brought, polls) = Default::default();
        let (order, sight, news, is_stopping) = Default::default();
        let holder = holder();
        Arc::new(Jobs {
            catalog,
            puller,
            holder,
            seal,
            running,
            brought,
            polls,
            order,
            sight,
            news,
            is_stopping,
        })
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.puller
    }

    /// Whether nobody has a job in hand, and what its caller brings is wanted.
    pub(crate) fn may_take(&self, job: &Job) -> bool {
        job.with_credentials && !job.is_held()
    }

    /// Notes that a client asked for a job that will ask again by itself; who waits here is not counted so.
    pub(crate) fn asked(&self, number: i64) {
        locked(&self.polls).asked(number, Instant::now());
    }

    /// How far a job is, if it runs in this process.
    pub(crate) fn standing(&self, number: i64) -> Option<Standing> {
        let standing = locked(&self.running).get(&number)?.progress.get();
        Some(standing).filter(|standing| !standing.line.is_empty())
    }

    /// Whether the end of a job is to be told to several clients, and still fresh enough for that.
    pub(crate) fn is_end_shared(&self, number: i64) -> bool {
        locked(&self.polls).is_end_shared(number, Instant::now())
    }

    fn threads(&self) -> usize {
        self.puller.config().worker_threads
    }

    /// Takes up what dead processes left, and then whatever there is to do, until this value is gone.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), CatalogError> {
        self.look().await?;
        let (jobs, news) = (Arc::downgrade(self), self.news.clone());
        tokio::spawn(async move {
            loop {
                // Where looking fails, there is no use in trying again at once.
                let _ = tokio::time::timeout(LOOK, news.notified()).await;
                let Some(jobs) = jobs.upgrade() else { return };
                if let Err(error) = jobs.look().await {
                    tracing::warn!(error = sentence(&error), "looking for pulls to work on failed");
                    drop(jobs);
                    tokio::time::sleep(LOOK).await;
                }
            }
        });
        Ok(())
    }

    /// Looks at the queue once: claims what there is room for, and sees to jobs that lack their credentials.
    async fn look(self: &Arc<Self>) -> Result<(), CatalogError> {
        let mut order = self.order.lock().await;
        if self.is_stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        let begun = Instant::now();
        let unfinished = async {
            if now() - order.last_forgotten > MARK {
                self.catalog.forget_ends_before(now() - FORGET_AFTER).await?;
                order.last_forgotten = now();
            }
            self.catalog.unfinished(None).await
        };
        let mut jobs = unfinished.await.inspect_err(|_| locked(&self.sight).lost())?;
        locked(&self.sight).saw(Instant::now());
        locked(&self.brought)
            .retain(|number, brought| brought.at >= begun || jobs.iter().any(|job| job.number == *number));
        jobs.retain(|job| self.puller.config().platforms.contains_key(&job.key.system));
        // Imports that wait for their turn are in hand, here or elsewhere, and not at work.
        let (mut able, mut jobs): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| self.waits_here(job));
        let mut at_work: HashMap<u32, usize> = HashMap::new();
        let waits_there = |job: &Job| is_import(job) && job.message == QUEUED;
        for job in jobs.iter().filter(|job| job.is_held() && !waits_there(job)) {
            *at_work.entry(job.uid).or_default() += 1;
        }
        let is_free = |job: &Job| {
            !job.is_held()
                && !locked(&self.running).contains_key(&job.number)
                && locked(&self.sight).is_abandoned(job, begun)
        };
        jobs.retain(is_free);
        for job in jobs {
            let is_able = !job.with_credentials || self.credentials(&job).is_some();
            match next_step(&job, is_able, now()) {
                Step::Start => able.push(job),
                other => self.see_to(&job, &other).await?,
            }
        }
        while self.threads() > 0 {
            let roomy = able.iter().filter(|job| self.has_room_for(job));
            let Some(number) = order.turns.next(roomy, &at_work).map(|job| job.number) else { break };
            let Some(place) = able.iter().position(|job| job.number == number) else { break };
            let job = able.swap_remove(place);
            if is_import(&job) {
                // Never claimed here: its file may be gone with a lease that was lost just now.
                if self.begin(&job) {
                    order.turns.had(job.uid);
                    *at_work.entry(job.uid).or_default() += 1;
                }
                continue;
            }
            let credentials = self.credentials(&job);
            if job.fence > 0 && job.lease_until > 0.0 {
                tracing::info!(job = number, holder = job.holder, "nobody works on this pull any more");
            }
            // Another process may be faster, or the job be over.
            if let Some(claimed) = self.catalog.claim(number, &self.holder).await? {
                order.turns.had(claimed.uid);
                *at_work.entry(claimed.uid).or_default() += 1;
                self.run_in_task(claimed, Given::Credentials(credentials));
            }
        }
        // Nobody else knows that these are not forgotten.
        let is_unmarked = |job: &&Job| job.with_credentials && !job.is_held() && now() - job.updated > MARK;
        for job in able.iter().filter(is_unmarked) {
            let status = Some((JobStatus::Pending, QUEUED));
            let change =
                Change { if_free_at: Some(now()), if_fence: Some(job.fence), status, ..Change::default() };
            self.catalog.change_job(job.number, &change).await?;
        }
        Ok(())
    }

    /// A job that cannot be worked on here.
    async fn see_to(&self, job: &Job, step: &Step) -> Result<(), CatalogError> {
        match step {
            Step::AskCaller => {
                if let Some(job) = self.catalog.claim(job.number, &self.holder).await? {
                    self.catalog.release(job.lease(), WAITING).await?;
                }
            }
            Step::End => {
                let why = match job.source == SENT {
                    true => {
                        "the gateway that has the file was ended before the file was imported; send it again"
                    }
                    false => {
                        "the gateway was restarted, and what came with the request, a password or a file, was in its \
                         memory only; ask again"
                    }
                };
                self.catalog.abandon(job, why).await?;
            }
            Step::Start | Step::Wait => {}
        }
        Ok(())
    }

    /// Whether a job may be taken. Of one registry's, one more than there are threads: while it asks the registry, or
    /// waits for a thread, nothing else does, and short pulls pass between long ones. The rest is left to others.
    fn has_room_for(&self, job: &Job) -> bool {
        let location = self.puller.location(&job.key.tag);
        let running = locked(&self.running);
        let at_work = || running.values().filter(|running| running.turn.is_none());
        let stages = at_work().filter(|running| running.location == location);
        let busy = stages.filter(|running| running.progress.phase() != Phase::Following).count();
        let is_in = at_work().any(|running| running.uid == job.uid);
        busy <= self.threads() && (at_work().count() < MANY_IN_HAND || !is_in)
    }

    /// Runs a job that was claimed; an import when its turn comes.
    fn run_in_task(self: &Arc<Self>, job: Job, given: Given) {
        let (number, lease, uid) = (job.number, job.lease(), job.uid);
        let location = self.puller.location(&job.key.tag);
        let progress = Arc::new(Progress::new(self.news.clone()));
        let (jobs, watched) = (self.clone(), progress.clone());
        let (turn, its_turn) = match &given {
            Given::Credentials(_) => (None, None),
            Given::File(_) => {
                let (turn, its_turn) = oneshot::channel();
                (Some(turn), Some(its_turn))
            }
        };
        let mut running = locked(&self.running);
        // The task waits for this lock before it can take itself off the list.
        let task = tokio::spawn(async move {
            let job = match its_turn {
                Some(turn) => jobs.turn(lease, turn, &watched).await,
                None => Some(job),
            };
            if let Some(job) = job {
                jobs.run(job, given, &watched).await;
            }
            locked(&jobs.running).remove(&number);
            jobs.news.notify_one();
        });
        running.insert(number, Running { uid, location, progress, task, lease, turn });
    }

    async fn run(&self, job: Job, given: Given, progress: &Progress) {
        let (number, lease) = (job.number, job.lease());
        let begun = now();
        let (system, tag, uid) = (&job.key.system, &job.key.tag, job.uid);
        tracing::info!(job = number, attempt = job.fence, system, tag, uid, "pull started");
        if job.fence > 1 {
            self.puller.tidy(system).await;
        }
        // A panic ends this job and nothing else.
        let work = async {
            match given {
                Given::File(source) => self.puller.import(&job, *source, progress).await,
                Given::Credentials(credentials) => self.puller.pull(&job, credentials, progress).await,
            }
        };
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = tokio::select! {
            result = work => result,
            () = self.lose(lease, progress) => Ok(Err(PullError::Lost)),
        };
        let seconds = now() - begun;
        let why = match result {
            Ok(Ok(())) => {
                METRICS.pull_ended(true, seconds);
                tracing::info!(job = number, system, tag, uid, seconds, "pull is ready");
                return;
            }
            Ok(Err(PullError::Lost)) => {
                tracing::info!(job = number, system, tag, uid, seconds, "pull was ended or taken over");
                return;
            }
            Ok(Err(error)) if error.is_denied() => format!("{DENIED}{}", sentence(&error)),
            Ok(Err(error)) => sentence(&error),
            Err(_) => "the pull ended by an internal error; the gateway's log says more".to_owned(),
        };
        METRICS.pull_ended(false, seconds);
        tracing::warn!(job = number, system, tag, uid, seconds, why, "pull failed");
        audit::not_granted(&job, &why);
        let failed = patiently(|| self.catalog.set_status(lease, JobStatus::Failure, &why));
        if let Err(error) = failed.await {
            tracing::error!(job = number, error = sentence(&error), "noting a failed pull failed");
        }
    }

    /// Keeps a lease alive, and tells other processes how far the work is; returns when the lease is lost.
    async fn lose(&self, lease: Lease, progress: &Progress) {
        let mut pause = HEARTBEAT;
        loop {
            tokio::time::sleep(pause).await;
            let line = progress.get().line;
            let told = tokio::time::timeout(HEARTBEAT, self.catalog.tell(lease, &line)).await;
            // Where only this process is cut off, another may take the job meanwhile. The work goes on all the
            // same: what it still writes names a fence that counts no more, and a publish asks for it first.
            let error = match told {
                Ok(Ok(true)) => {
                    pause = HEARTBEAT;
                    continue;
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => sentence(&error),
                Err(late) => late.to_string(),
            };
            tracing::warn!(job = lease.number, error, "prolonging a lease failed");
            pause = RETRY;
        }
    }

    /// Ends a job whoever works on it: here at once, elsewhere at the next heartbeat. False if it is over.
    pub(crate) async fn cancel(&self, number: i64, why: &str) -> Result<bool, CatalogError> {
        let is_cancelled = self.catalog.cancel(number, why).await?;
        if let Some(running) = locked(&self.running).remove(&number) {
            running.task.abort();
        }
        Ok(is_cancelled)
    }

    /// Ends all work, and tells the catalog nothing, as a kill does.
    #[cfg(test)]
    pub(crate) fn abort(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        locked(&self.running).drain().for_each(|(_, running)| running.task.abort());
    }

    /// Ends all work; the catalog keeps the jobs for whoever takes them up next, at once.
    pub(crate) async fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // A look under way may be claiming.
        let looked = tokio::time::timeout(STOPPING, self.order.lock()).await;
        let running: Vec<Running> = locked(&self.running).drain().map(|(_, running)| running).collect();
        running.iter().for_each(|running| running.task.abort());
        drop(looked);
        let mut leases = Vec::new();
        for Running { task, lease, .. } in running {
            // Nothing of it writes any more when somebody else begins.
            let _ = tokio::time::timeout(STOPPING, task).await;
            leases.push(lease);
        }
        self.puller.whole().ended(STOPPING).await;
        for lease in leases {
            match self.catalog.release(lease, QUEUED).await {
                Ok(true) => tracing::info!(job = lease.number, "handed a pull over"),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(job = lease.number, error = sentence(&error), "giving a pull back failed");
                }
            }
        }
    }
}

/// Who we are, for people who look at a lease.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} process {}", host.trim(), std::process::id())
}
