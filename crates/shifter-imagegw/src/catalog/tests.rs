//! The catalog's promises on a real file: one job per caller and tag, ends told once, nothing half-done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::model::{JobStatus, now};

pub(crate) fn key(tag: &str) -> TagKey {
    TagKey { system: "sysa".into(), itype: "docker".into(), tag: tag.into() }
}

fn new_job(tag: &str, uid: u32) -> NewJob {
    NewJob { key: key(tag), uid, gid: uid, acl: Acl::default(), with_credentials: false }
}

fn image(id: &str) -> Image {
    Image {
        system: "sysa".into(),
        id: id.into(),
        format: "squashfs".into(),
        config: crate::model::RunConfig { env: vec!["A=b c".into()], ..Default::default() },
        size: 5_000_000_000,
        sha256: "ff".into(),
        last_pull: 1.5,
        expiration: 2.5,
    }
}

fn grant(tag: &str, id: &str, puller: u32, public: bool) -> Grant {
    let acl = Acl { uids: if public { vec![] } else { vec![puller] }, gids: vec![] };
    Grant { key: key(tag), id: id.into(), puller, public, acl, checked: 9.0 }
}

struct Fixture {
    catalog: Catalog,
    dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("c.db")).await.unwrap();
    Fixture { catalog, dir }
}

fn started(submitted: Submitted) -> Job {
    match submitted {
        Submitted::Started(job) => job,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_caller_has_one_pull_per_tag_and_hears_its_end_once() {
    let Fixture { catalog, dir: _dir } = fixture().await;
    let new = new_job("a:1", 7);
    let job = started(catalog.submit(&new, false, 300.0, &|_| false).await.unwrap());
    assert_eq!((job.status, job.message.as_str()), (JobStatus::Init, ""));
    // Polls find it; another caller's pull of the same tag is its own.
    assert!(
        matches!(catalog.submit(&new, true, 300.0, &|_| false).await.unwrap(), Submitted::Going(j) if j.number == job.number)
    );
    let other = started(catalog.submit(&new_job("a:1", 8), false, 300.0, &|_| false).await.unwrap());
    assert_ne!(other.number, job.number);

    catalog.set_status(job.number, JobStatus::Failure, "the registry said no").await.unwrap();
    catalog.set_status(job.number, JobStatus::Pulling, "too late").await.unwrap();
    let over = catalog.submit(&new, false, 300.0, &|_| false).await.unwrap();
    assert!(
        matches!(&over, Submitted::Over(j) if j.status == JobStatus::Failure && j.message == "the registry said no"),
        "{over:?}"
    );
    // Told once; retried at once.
    started(catalog.submit(&new, false, 300.0, &|_| false).await.unwrap());
}

#[tokio::test]
async fn a_hundred_requests_at_once_make_one_job() {
    let Fixture { catalog, dir: _dir } = fixture().await;
    let catalog = std::sync::Arc::new(catalog);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let catalog = catalog.clone();
            tokio::spawn(async move {
                catalog.submit(&new_job("a:1", 7), false, 300.0, &|_| false).await.unwrap()
            })
        })
        .collect();
    let mut begun = 0;
    for task in tasks {
        begun += usize::from(matches!(task.await.unwrap(), Submitted::Started(_)));
    }
    assert_eq!(begun, 1);
    assert_eq!(catalog.unfinished(Some("sysa")).await.unwrap().len(), 1);
    assert_eq!(catalog.unfinished(Some("sysb")).await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_access_list_given_while_pulling_is_the_one_that_counts() {
    let Fixture { catalog, dir: _dir } = fixture().await;
    let job = started(catalog.submit(&new_job("a:1", 7), false, 300.0, &|_| false).await.unwrap());
    let acl = Acl { uids: vec![7, 8], gids: vec![] };
    let again = NewJob { acl: acl.clone(), ..new_job("a:1", 7) };
    assert!(
        matches!(catalog.submit(&again, false, 300.0, &|_| false).await.unwrap(), Submitted::Going(j) if j.acl == acl)
    );
    // Completing with the list as it was read before must not succeed.
    assert!(
        !catalog
            .complete(&job, &format!("sha256:{}", "aa"), &image("aa"), &[grant("a:1", "aa", 7, false)])
            .await
            .unwrap()
    );
    assert_eq!(catalog.image_of_tag(&key("a:1")).await.unwrap(), None);
    let now = catalog.job(job.number).await.unwrap().unwrap();
    assert!(
        catalog
            .complete(&now, &format!("sha256:{}", "aa"), &image("aa"), &[grant("a:1", "aa", 7, false)])
            .await
            .unwrap()
    );
    assert!(
        !catalog.complete(&now, &format!("sha256:{}", "aa"), &image("aa"), &[]).await.unwrap(),
        "an ended job cannot end again"
    );
}

#[tokio::test]
async fn tags_move_and_everything_survives_reopening() {
    let Fixture { catalog, dir } = fixture().await;
    for (tag, id, uid) in [("a:1", "aa", 7), ("b:1", "aa", 8), ("a:1", "bb", 9)] {
        let job = started(catalog.submit(&new_job(tag, uid), false, 300.0, &|_| false).await.unwrap());
        let mut grants = catalog.grants("sysa", id).await.unwrap();
        grants.push(grant(tag, id, uid, true));
        assert!(catalog.complete(&job, &format!("sha256:{}", id), &image(id), &grants).await.unwrap());
    }
    let pending = started(catalog.submit(&new_job("c:1", 7), false, 300.0, &|_| false).await.unwrap());
    catalog.close().await;
    drop(catalog);

    let catalog = Catalog::open(&dir.path().join("c.db")).await.unwrap();
    assert_eq!(catalog.image_of_tag(&key("a:1")).await.unwrap(), Some(image("bb")));
    assert_eq!(catalog.image_of_tag(&key("b:1")).await.unwrap(), Some(image("aa")));
    assert_eq!(catalog.image_of_digest("sysa", "sha256:aa").await.unwrap(), Some(image("aa")));
    assert_eq!(catalog.grants("sysa", "aa").await.unwrap().len(), 2);
    let listed = catalog.list("sysa").await.unwrap();
    let shown: Vec<_> = listed
        .iter()
        .map(|l| {
            (l.image.id.as_str(), l.tags.iter().map(|(k, g)| (k.tag.as_str(), g.len())).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(shown, [("aa", vec![("b:1", 1)]), ("bb", vec![("a:1", 1)])]);
    assert_eq!(catalog.unfinished(None).await.unwrap(), [pending]);
}

#[tokio::test]
async fn ends_nobody_comes_back_for_are_forgotten() {
    let Fixture { catalog, dir: _dir } = fixture().await;
    let job = started(catalog.submit(&new_job("a:1", 7), false, 300.0, &|_| false).await.unwrap());
    catalog.forget_ends_before(now() + 10.0).await.unwrap();
    assert!(catalog.job(job.number).await.unwrap().is_some(), "unfinished pulls stay");
    catalog.set_status(job.number, JobStatus::Failure, "x").await.unwrap();
    catalog.forget_ends_before(now() + 10.0).await.unwrap();
    assert!(catalog.job(job.number).await.unwrap().is_none());
}

#[tokio::test]
async fn nobody_can_fill_the_queue_alone() {
    let Fixture { catalog, dir: _dir } = fixture().await;
    for number in 0..100 {
        started(catalog.submit(&new_job(&format!("a:{number}"), 7), false, 300.0, &|_| false).await.unwrap());
    }
    assert!(matches!(
        catalog.submit(&new_job("b:1", 7), false, 300.0, &|_| false).await.unwrap(),
        Submitted::TooMany
    ));
    started(catalog.submit(&new_job("b:1", 8), false, 300.0, &|_| false).await.unwrap());
}

#[tokio::test]
async fn an_end_that_several_clients_wait_for_is_kept_for_them() {
    let Fixture { catalog, dir: _dir } = fixture().await;
    let new = new_job("a:1", 7);
    let job = started(catalog.submit(&new, false, 300.0, &|_| false).await.unwrap());
    catalog.set_status(job.number, JobStatus::Failure, "no").await.unwrap();
    for _ in 0..3 {
        let over = catalog.submit(&new, false, 300.0, &|number| number == job.number).await.unwrap();
        assert!(matches!(over, Submitted::Over(_)), "{over:?}");
    }
    assert!(matches!(catalog.submit(&new, false, 300.0, &|_| false).await.unwrap(), Submitted::Over(_)));
    started(catalog.submit(&new, false, 300.0, &|_| false).await.unwrap());
}
