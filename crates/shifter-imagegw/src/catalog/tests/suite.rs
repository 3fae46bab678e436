//! The conformance suite: what every database must do, case by case, each in a catalog of its own.

use std::pin::Pin;

use super::servers::Server;
use super::*;

pub(super) type Case = (&'static str, fn(Opened) -> Pin<Box<dyn Future<Output = ()> + Send>>);

pub(super) struct Opened {
    pub(super) catalog: Arc<dyn Catalog>,
    place: Place,
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => { [$((stringify!($case), |opened| Box::pin($case(opened)))),*] };
}

pub(super) use cases;

const CASES: [Case; 22] = cases![
    a_caller_has_one_pull_per_tag_and_hears_its_end_once,
    a_hundred_requests_at_once_make_one_job,
    an_access_list_given_while_pulling_is_the_one_that_counts,
    a_job_belongs_to_one_worker_at_a_time,
    a_hundred_claims_at_once_have_one_winner,
    who_lost_the_lease_changes_nothing_any_more,
    a_job_is_given_up_only_as_it_was_seen,
    a_cancelled_job_stays_cancelled,
    a_job_given_back_is_free_at_once,
    tags_move_and_everything_survives_reopening,
    a_tag_means_what_was_said_last,
    a_clock_that_was_ahead_pins_no_tag,
    of_two_replacements_of_one_revision_one_wins,
    twenty_writers_of_one_record_lose_nothing,
    anything_that_can_be_written_is_read_back,
    several_digests_are_one_image,
    systems_do_not_mix,
    ends_are_told_once_or_kept_or_forgotten,
    nobody_can_fill_the_queue_alone,
    one_job_at_a_time_makes_a_digest,
    sealed_credentials_go_with_the_jobs_end,
    lists_longer_than_requests_may_be_are_read_back,
];

#[tokio::test]
async fn sqlite_keeps_every_promise_of_the_catalog() {
    check(&Server::sqlite()).await;
}

#[tokio::test]
async fn postgresql_keeps_every_promise_of_the_catalog() {
    check(&Server::postgres()).await;
}

#[tokio::test]
async fn mongodb_keeps_every_promise_of_the_catalog() {
    check(&Server::mongo()).await;
}

async fn check(server: &Server) {
    let mut broken = Vec::new();
    for (name, case) in
        CASES.into_iter().chain(super::life::CASES).chain(super::remembered::CASES).chain(super::files::CASES)
    {
        let place = server.place().await;
        let catalog = open_for_use(&place).await.unwrap();
        // A task of its own, so that all broken promises are named.
        if tokio::spawn(case(Opened { catalog, place })).await.is_err() {
            broken.push(name);
        }
    }
    assert_eq!(broken, [""; 0]);
}

pub(super) fn started(submitted: Submitted) -> Job {
    match submitted {
        Submitted::Started(job) => job,
        other => panic!("{other:?}"),
    }
}

impl Opened {
    pub(super) async fn submit(&self, new: &NewJob, fresh: bool) -> Submitted {
        submit(&*self.catalog, new, fresh, 300.0, &|_| false).await.unwrap()
    }

    /// A job for `a:1` of uid 7 in a worker's hands.
    pub(super) async fn claimed(&self) -> Job {
        let job = started(self.submit(&new_job("a:1", 7), false).await);
        self.catalog.claim(job.number, "me").await.unwrap().unwrap()
    }

    /// Lets a lease run out.
    async fn forget_worker(&self, job: &Job) {
        let past = Change { lease_until: Some(now() - 1.0), ..Change::default() };
        self.catalog.change_job(job.number, &past).await.unwrap().unwrap();
    }

    pub(super) async fn meaning(&self, tag: &str) -> Option<(String, usize)> {
        let found = self.catalog.lookup(&key(tag)).await.unwrap();
        found.map(|(image, grants)| (image.id, grants.len()))
    }
}

async fn a_caller_has_one_pull_per_tag_and_hears_its_end_once(opened: Opened) {
    let catalog = &opened.catalog;
    let new = new_job("a:1", 7);
    let job = started(opened.submit(&new, false).await);
    assert_eq!((job.status, job.message.as_str(), job.fence), (JobStatus::Init, "", 0));
    assert_eq!(catalog.job(job.number).await.unwrap(), Some(job.clone()));
    // Polls find it; another caller's pull of the same tag is its own.
    assert!(matches!(opened.submit(&new, true).await, Submitted::Going(j) if j == job));
    let other = started(opened.submit(&new_job("a:1", 8), false).await);
    assert_ne!(other.number, job.number);

    let lease = catalog.claim(job.number, "me").await.unwrap().unwrap().lease();
    assert!(catalog.set_status(lease, JobStatus::Failure, "the registry said no").await.unwrap());
    assert!(!catalog.set_status(lease, JobStatus::Pulling, "too late").await.unwrap());
    let over = opened.submit(&new, false).await;
    assert!(
        matches!(&over, Submitted::Over(j) if j.status == JobStatus::Failure && j.message == "the registry said no"),
        "{over:?}"
    );
    // Told once; retried at once.
    started(opened.submit(&new, false).await);
}

async fn lists_longer_than_requests_may_be_are_read_back(opened: Opened) {
    let catalog = &opened.catalog;
    let acl = Acl { uids: (0..1500).chain([u32::MAX]).collect(), gids: vec![u32::MAX] };
    let job = catalog.enter_job(&NewJob { acl: acl.clone(), ..new_job("a:1", 7) }).await.unwrap().unwrap();
    assert_eq!(job.acl, acl);
    assert_eq!(catalog.unfinished(None).await.unwrap(), [job]);
    let mut long = record("aa", "a:1", 1.0, 7, false);
    long.grants[0].acl = acl;
    assert!(catalog.store(&long).await.unwrap());
    assert_eq!(catalog.list(None).await.unwrap(), [stored(long)]);
}

async fn a_hundred_requests_at_once_make_one_job(opened: Opened) {
    let tasks = (0..100).map(|_| {
        let catalog = opened.catalog.clone();
        tokio::spawn(
            async move { submit(&*catalog, &new_job("a:1", 7), false, 300.0, &|_| false).await.unwrap() },
        )
    });
    let mut begun = 0;
    for task in tasks.collect::<Vec<_>>() {
        begun += usize::from(matches!(task.await.unwrap(), Submitted::Started(_)));
    }
    assert_eq!(begun, 1);
    assert_eq!(opened.catalog.unfinished(None).await.unwrap().len(), 1);
}

async fn an_access_list_given_while_pulling_is_the_one_that_counts(opened: Opened) {
    let job = opened.claimed().await;
    let acl = Acl { uids: vec![7, 8], gids: vec![] };
    let again = NewJob { acl: acl.clone(), ..new_job("a:1", 7) };
    assert!(matches!(opened.submit(&again, false).await, Submitted::Going(j) if j.acl == acl));
    // Ending with the list as it was read before must not succeed.
    assert!(!opened.catalog.finish(job.lease(), Some(&job.acl)).await.unwrap());
    assert!(opened.catalog.finish(job.lease(), Some(&acl)).await.unwrap());
    assert!(!opened.catalog.finish(job.lease(), Some(&acl)).await.unwrap(), "an ended job cannot end again");
}

async fn a_job_belongs_to_one_worker_at_a_time(opened: Opened) {
    let catalog = &opened.catalog;
    let job = opened.claimed().await;
    assert!(job.is_held());
    assert_eq!((job.fence, job.holder.as_str()), (1, "me"));
    assert_eq!(catalog.claim(job.number, "you").await.unwrap(), None);
    assert_eq!(catalog.claim(job.number + 99, "you").await.unwrap(), None, "there is no such job");
    assert!(catalog.heartbeat(job.lease()).await.unwrap());
    opened.forget_worker(&job).await;
    // A slow heartbeat brings it back while nobody took it.
    assert!(catalog.heartbeat(job.lease()).await.unwrap());
    assert_eq!(catalog.claim(job.number, "you").await.unwrap(), None);
    opened.forget_worker(&job).await;
    let taken = catalog.claim(job.number, "you").await.unwrap().unwrap();
    assert_eq!((taken.fence, taken.holder.as_str(), taken.is_held()), (2, "you", true));
}

async fn a_hundred_claims_at_once_have_one_winner(opened: Opened) {
    let job = started(opened.submit(&new_job("a:1", 7), false).await);
    for fence in 1..4 {
        let claims = (0..100).map(|number| {
            let (catalog, job) = (opened.catalog.clone(), job.number);
            tokio::spawn(async move { catalog.claim(job, &format!("worker {number}")).await.unwrap() })
        });
        let mut won = Vec::new();
        for claim in claims.collect::<Vec<_>>() {
            won.extend(claim.await.unwrap());
        }
        assert_eq!(won.iter().map(|job| job.fence).collect::<Vec<_>>(), [fence]);
        opened.forget_worker(&job).await;
    }
}

async fn who_lost_the_lease_changes_nothing_any_more(opened: Opened) {
    let catalog = &opened.catalog;
    let job = opened.claimed().await;
    opened.forget_worker(&job).await;
    let taken = catalog.claim(job.number, "you").await.unwrap().unwrap();
    let lost = job.lease();
    assert!(!catalog.heartbeat(lost).await.unwrap());
    assert!(!catalog.release(lost, "").await.unwrap());
    assert!(!catalog.set_status(lost, JobStatus::Failure, "dead").await.unwrap());
    assert!(!catalog.set_public(lost).await.unwrap());
    assert!(!catalog.finish(lost, Some(&job.acl)).await.unwrap());
    assert_eq!(catalog.job(job.number).await.unwrap(), Some(taken.clone()));
    assert!(catalog.set_public(taken.lease()).await.unwrap());
    assert!(catalog.set_status(taken.lease(), JobStatus::Transfer, "nearly").await.unwrap());
    let read = catalog.job(job.number).await.unwrap().unwrap();
    assert_eq!((read.public, read.status, read.message.as_str()), (true, JobStatus::Transfer, "nearly"));
    assert!(read.updated >= taken.updated);
}

async fn a_job_is_given_up_only_as_it_was_seen(opened: Opened) {
    let catalog = &opened.catalog;
    let seen = opened.claimed().await;
    assert!(!catalog.abandon(&seen, "nobody asks").await.unwrap(), "it is held");
    assert!(catalog.release(seen.lease(), "").await.unwrap());
    let taken = catalog.claim(seen.number, "another").await.unwrap().unwrap();
    assert!(catalog.release(taken.lease(), "").await.unwrap());
    assert!(!catalog.abandon(&seen, "nobody asks").await.unwrap(), "it was somebody's since");
    assert!(catalog.abandon(&taken, "nobody asks").await.unwrap());
    let read = catalog.job(seen.number).await.unwrap().unwrap();
    assert_eq!((read.status, read.message.as_str()), (JobStatus::Failure, "nobody asks"));
}

async fn a_cancelled_job_stays_cancelled(opened: Opened) {
    let catalog = &opened.catalog;
    let job = opened.claimed().await;
    assert!(!catalog.forget_end(job.number).await.unwrap(), "it is not over");
    assert!(catalog.cancel(job.number, "no longer wanted").await.unwrap());
    assert!(!catalog.cancel(job.number, "again").await.unwrap());
    assert!(!catalog.heartbeat(job.lease()).await.unwrap());
    assert!(!catalog.finish(job.lease(), Some(&job.acl)).await.unwrap());
    opened.catalog.change_job(job.number, &Change::default()).await.unwrap();
    assert_eq!(catalog.claim(job.number, "you").await.unwrap(), None);
    assert_eq!(catalog.unfinished(None).await.unwrap(), []);
    let read = catalog.job(job.number).await.unwrap().unwrap();
    assert_eq!((read.status, read.message.as_str()), (JobStatus::Failure, "no longer wanted"));
}

async fn a_job_given_back_is_free_at_once(opened: Opened) {
    let job = opened.claimed().await;
    assert!(opened.catalog.release(job.lease(), "").await.unwrap());
    let again = opened.catalog.claim(job.number, "you").await.unwrap().unwrap();
    assert_eq!(again.fence, 2);
    assert!(!opened.catalog.heartbeat(job.lease()).await.unwrap());
}

async fn tags_move_and_everything_survives_reopening(opened: Opened) {
    let catalog = opened.catalog.clone();
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    let mut both = catalog.record("sysa", "aa").await.unwrap().unwrap();
    assert_eq!(both, stored(record("aa", "a:1", 1.0, 7, true)));
    both.add_tag(Tag { itype: "docker".into(), tag: "b:1".into(), asked: 2.0 });
    both.grants.push(grant("b:1", "aa", 8, false));
    assert!(catalog.store(&both).await.unwrap());
    assert!(catalog.store(&record("bb", "a:1", 3.0, 9, false)).await.unwrap());
    let pending = started(opened.submit(&new_job("c:1", 7), false).await);
    catalog.close().await;
    let Opened { place, catalog: last } = opened;
    drop((catalog, last));

    let catalog = open_for_use(&place).await.unwrap();
    let reopened = Opened { catalog: catalog.clone(), place };
    assert_eq!(reopened.meaning("a:1").await, Some(("bb".to_owned(), 1)));
    assert_eq!(reopened.meaning("b:1").await, Some(("aa".to_owned(), 1)));
    assert_eq!(reopened.meaning("c:1").await, None);
    assert_eq!(catalog.lookup(&key("b:1")).await.unwrap().unwrap().0, image("aa"));
    // The old image keeps what was granted under the tag: the tag may come back.
    let old = catalog.record("sysa", "aa").await.unwrap().unwrap();
    assert_eq!(old.grants, [grant("a:1", "aa", 7, true), grant("b:1", "aa", 8, false)]);
    let shown = tags(&*catalog, "sysa").await;
    assert_eq!(shown, [("aa".into(), vec!["b:1".to_owned()]), ("bb".into(), vec!["a:1".to_owned()])]);
    assert_eq!(catalog.unfinished(None).await.unwrap(), [pending]);
    // Numbers are not used again.
    let next = started(reopened.submit(&new_job("d:1", 7), false).await);
    assert_eq!(catalog.unfinished(None).await.unwrap().last(), Some(&next));
}

async fn a_tag_means_what_was_said_last(opened: Opened) {
    let catalog = &opened.catalog;
    for (id, asked, expected) in
        [("aa", 5.0, "aa"), ("bb", 9.0, "bb"), ("cc", 7.0, "bb"), ("dd", 9.5, "dd"), ("ee", 2.0, "dd")]
    {
        assert!(catalog.store(&record(id, "a:1", asked, 7, true)).await.unwrap());
        assert_eq!(opened.meaning("a:1").await, Some((expected.to_owned(), 1)), "after {id}");
    }
    let shown = tags(&**catalog, "sysa").await;
    let of = |id: &str| shown.iter().find(|(known, _)| known == id).unwrap().1.clone();
    assert_eq!((of("aa"), of("cc"), of("dd")), (vec![], vec![], vec!["a:1".to_owned()]));
    // Who read a record before the tag left it does not bring it back.
    let mut old = catalog.record("sysa", "bb").await.unwrap().unwrap();
    old.add_tag(Tag { itype: "docker".into(), tag: "a:1".into(), asked: 9.0 });
    assert!(catalog.store(&old).await.unwrap());
    assert_eq!(opened.meaning("a:1").await, Some(("dd".to_owned(), 1)));
}

async fn a_clock_that_was_ahead_pins_no_tag(opened: Opened) {
    let catalog = &opened.catalog;
    let present = now();
    for (id, asked, expected) in [
        ("aa", present + 3600.0, "aa"),
        ("bb", present, "bb"),
        ("cc", present - 9.0, "bb"),
        ("dd", present + 1.0, "dd"),
    ] {
        assert!(catalog.store(&record(id, "a:1", asked, 7, true)).await.unwrap());
        assert_eq!(opened.meaning("a:1").await, Some((expected.to_owned(), 1)), "after {id}");
    }
    // The image itself is asked about again.
    assert!(catalog.store(&record("ee", "b:1", present + 3600.0, 7, true)).await.unwrap());
    let mut again = catalog.record("sysa", "ee").await.unwrap().unwrap();
    again.add_tag(Tag { itype: "docker".into(), tag: "b:1".into(), asked: present });
    assert!(catalog.store(&again).await.unwrap());
    assert_eq!(catalog.record("sysa", "ee").await.unwrap().unwrap().tags, again.tags);
    assert_eq!(again.tags[0].asked, present);
}

async fn of_two_replacements_of_one_revision_one_wins(opened: Opened) {
    let catalog = &opened.catalog;
    let first = record("aa", "a:1", 1.0, 7, true);
    assert!(catalog.store(&first).await.unwrap());
    assert!(!catalog.store(&record("aa", "a:1", 1.0, 8, false)).await.unwrap(), "entered twice");
    let read = catalog.record("sysa", "aa").await.unwrap().unwrap();
    let slow = Record { grants: vec![grant("a:1", "aa", 9, false)], ..read.clone() };
    let fast = Record { grants: vec![grant("a:1", "aa", 8, false)], ..read };
    assert!(catalog.store(&fast).await.unwrap());
    assert!(!catalog.store(&slow).await.unwrap());
    let read = catalog.record("sysa", "aa").await.unwrap().unwrap();
    assert_eq!((read.revision, read.grants), (2, fast.grants));
}

async fn twenty_writers_of_one_record_lose_nothing(opened: Opened) {
    let writers = (0..20).map(|uid| {
        let catalog = opened.catalog.clone();
        tokio::spawn(async move {
            let tag = format!("t:{uid}");
            loop {
                let known = catalog.record("sysa", "aa").await.unwrap();
                let mut new = known.unwrap_or_else(|| Record::new(image("aa")));
                new.add_tag(Tag { itype: "docker".into(), tag: tag.clone(), asked: 1.0 });
                new.grants.push(grant(&tag, "aa", uid, false));
                if catalog.store(&new).await.unwrap() {
                    return;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let read = opened.catalog.record("sysa", "aa").await.unwrap().unwrap();
    assert_eq!((read.tags.len(), read.grants.len(), read.revision), (20, 20, 20));
}

async fn anything_that_can_be_written_is_read_back(opened: Opened) {
    let tag = "ü/a'b\"$.c\\d:1";
    let mut odd = record(&"0f".repeat(32), tag, 1.25, u32::MAX - 1, false);
    odd.image.config = RunConfig::default();
    odd.image.size = i64::MAX as u64;
    odd.image.expiration = 0.0;
    odd.grants[0].acl = Acl { uids: vec![], gids: vec![0, u32::MAX - 1] };
    assert!(opened.catalog.store(&odd).await.unwrap());
    assert_eq!(opened.catalog.list(Some("sysa")).await.unwrap(), [stored(odd.clone())]);
    opened.catalog.set_expiration("sysa", &odd.image.id, 1.7e9 + 0.125).await.unwrap();
    let read = opened.catalog.lookup(&key(tag)).await.unwrap().unwrap();
    assert_eq!((read.0.expiration, &read.1), (1.7e9 + 0.125, &odd.grants));

    let new = NewJob {
        acl: Acl { uids: vec![4_000_000_000], gids: vec![1, 2] },
        with_credentials: true,
        ..new_job(tag, u32::MAX - 1)
    };
    let job = started(opened.submit(&new, false).await);
    assert_eq!((&job.acl, job.with_credentials, job.uid), (&new.acl, true, u32::MAX - 1));
    assert_eq!(opened.catalog.job_of(&key(tag), u32::MAX - 1).await.unwrap(), Some(job));
}

async fn several_digests_are_one_image(opened: Opened) {
    let mut one = record("aa", "a:1", 1.0, 7, true);
    one.add_digest("sha256:bb".to_owned());
    assert!(opened.catalog.store(&one).await.unwrap());
    for (system, digest, expected) in [
        ("sysa", "sha256:aa", true),
        ("sysa", "sha256:bb", true),
        ("sysa", "sha256:cc", false),
        ("sysa", "bb", false),
        ("sysb", "sha256:aa", false),
    ] {
        let found = opened.catalog.image_of_digest(system, digest).await.unwrap();
        assert_eq!(found.is_some_and(|found| found == one.image), expected, "{system} {digest}");
    }
}

async fn systems_do_not_mix(opened: Opened) {
    let catalog = &opened.catalog;
    let mut there = record("aa", "a:1", 2.0, 8, false);
    there.image.system = "sysb".into();
    there.grants[0].key.system = "sysb".into();
    let here = record("aa", "a:1", 1.0, 7, true);
    assert!(catalog.store(&here).await.unwrap() && catalog.store(&there).await.unwrap());
    assert_eq!(opened.meaning("a:1").await, Some(("aa".to_owned(), 1)));
    let (here, there) = (stored(here), stored(there));
    assert_eq!(catalog.list(None).await.unwrap(), [here.clone(), there.clone()]);
    assert_eq!(catalog.list(Some("sysb")).await.unwrap(), [there]);
    assert_eq!(catalog.record("sysa", "aa").await.unwrap(), Some(here));
    let job = started(opened.submit(&new_job("a:1", 7), false).await);
    assert_eq!(catalog.unfinished(Some("sysa")).await.unwrap(), [job]);
    assert_eq!(catalog.unfinished(Some("sysb")).await.unwrap(), []);
}

async fn ends_are_told_once_or_kept_or_forgotten(opened: Opened) {
    let catalog = &opened.catalog;
    let new = new_job("a:1", 7);
    let job = opened.claimed().await;
    catalog.forget_ends_before(now() + 10.0).await.unwrap();
    assert!(catalog.job(job.number).await.unwrap().is_some(), "unfinished pulls stay");
    assert!(catalog.set_status(job.lease(), JobStatus::Failure, "no").await.unwrap());
    for _ in 0..3 {
        let over = submit(&**catalog, &new, false, 300.0, &|number| number == job.number).await.unwrap();
        assert!(matches!(over, Submitted::Over(_)), "{over:?}");
    }
    catalog.forget_ends_before(now() - 10.0).await.unwrap();
    assert!(matches!(opened.submit(&new, false).await, Submitted::Over(_)));
    assert!(!catalog.forget_end(job.number).await.unwrap());
    let job = opened.claimed().await;
    assert!(catalog.cancel(job.number, "x").await.unwrap());
    catalog.forget_ends_before(now() + 10.0).await.unwrap();
    assert!(catalog.job(job.number).await.unwrap().is_none());
    assert!(matches!(opened.submit(&new, true).await, Submitted::Fresh));
}

async fn nobody_can_fill_the_queue_alone(opened: Opened) {
    for number in 0..100 {
        started(opened.submit(&new_job(&format!("a:{number}"), 7), false).await);
    }
    assert!(matches!(opened.submit(&new_job("b:1", 7), false).await, Submitted::TooMany));
    started(opened.submit(&new_job("b:1", 8), false).await);
}

async fn one_job_at_a_time_makes_a_digest(opened: Opened) {
    let catalog = &opened.catalog;
    let first = opened.claimed().await;
    let second = started(opened.submit(&new_job("b:1", 8), false).await);
    let second = catalog.claim(second.number, "you").await.unwrap().unwrap();
    assert!(catalog.fly(first.lease(), "sha256:aa").await.unwrap());
    assert!(catalog.fly(first.lease(), "sha256:aa").await.unwrap(), "it is its own");
    assert!(!catalog.fly(second.lease(), "sha256:aa").await.unwrap());
    assert!(catalog.fly(second.lease(), "sha256:bb").await.unwrap(), "another digest is another matter");
    // Signs of life and progress do not end it; a worker that was thought dead does not keep it.
    assert!(catalog.tell(first.lease(), "half done").await.unwrap());
    assert!(!catalog.fly(second.lease(), "sha256:aa").await.unwrap());
    opened.forget_worker(&first).await;
    assert!(!catalog.fly(second.lease(), "sha256:aa").await.unwrap());
    let taken = catalog.claim(first.number, "another").await.unwrap().unwrap();
    assert_eq!(taken.message, "half done");
    assert!(!catalog.fly(first.lease(), "sha256:aa").await.unwrap(), "its lease is lost");
    for end in 0..3 {
        assert!(catalog.fly(second.lease(), "sha256:aa").await.unwrap(), "{end}");
        assert!(!catalog.fly(taken.lease(), "sha256:aa").await.unwrap(), "{end}");
        let back = match end {
            0 => catalog.fly(second.lease(), "sha256:bb").await.unwrap(),
            1 => catalog.release(second.lease(), "given back").await.unwrap(),
            _ => continue,
        };
        assert!(back && catalog.fly(taken.lease(), "sha256:aa").await.unwrap(), "{end}");
        assert!(catalog.fly(taken.lease(), "sha256:cc").await.unwrap());
    }
    assert!(catalog.cancel(second.number, "no longer wanted").await.unwrap());
    assert!(catalog.fly(taken.lease(), "sha256:aa").await.unwrap());
}

async fn sealed_credentials_go_with_the_jobs_end(opened: Opened) {
    let catalog = &opened.catalog;
    for end in 0..3 {
        let job = opened.claimed().await;
        assert_eq!(job.sealed, "");
        assert!(catalog.seal(job.number, "9:abc").await.unwrap());
        assert!(catalog.set_status(job.lease(), JobStatus::Pulling, "x").await.unwrap());
        assert_eq!(catalog.job(job.number).await.unwrap().unwrap().sealed, "9:abc");
        assert!(match end {
            0 => catalog.set_status(job.lease(), JobStatus::Failure, "no").await.unwrap(),
            1 => catalog.finish(job.lease(), None).await.unwrap(),
            _ => catalog.cancel(job.number, "no longer wanted").await.unwrap(),
        });
        assert_eq!(catalog.job(job.number).await.unwrap().unwrap().sealed, "");
        assert!(!catalog.seal(job.number, "9:late").await.unwrap());
        assert!(catalog.forget_end(job.number).await.unwrap());
    }
}
