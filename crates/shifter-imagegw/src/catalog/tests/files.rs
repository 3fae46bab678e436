//! Files that jobs work on: one job at a time, whatever its system, on every database.

use super::suite::{Case, Opened, cases, started};
use super::*;

pub(super) const CASES: [Case; 1] = cases![one_job_at_a_time_works_on_a_file_whatever_its_system];

async fn one_job_at_a_time_works_on_a_file_whatever_its_system(opened: Opened) {
    let catalog = &opened.catalog;
    let here = opened.claimed().await;
    let mut new = new_job("b:1", 8);
    new.key.system = "sysb".into();
    let there = started(opened.submit(&new, false).await);
    let there = catalog.claim(there.number, "you").await.unwrap().unwrap();
    for digest in ["sha256:aa", "filed aa"] {
        assert!(catalog.fly(here.lease(), digest).await.unwrap());
        assert!(
            catalog.fly(there.lease(), digest).await.unwrap(),
            "{digest}: systems make images each for itself"
        );
    }
    assert!(catalog.fly(here.lease(), "file aa").await.unwrap());
    assert!(catalog.fly(here.lease(), "file aa").await.unwrap(), "it is its own");
    assert!(!catalog.fly(there.lease(), "file aa").await.unwrap());
    assert!(catalog.fly(there.lease(), "file bb").await.unwrap());
    assert!(catalog.cancel(here.number, "no longer wanted").await.unwrap());
    assert!(catalog.fly(there.lease(), "file aa").await.unwrap());
    // Whoever comes at the same moment.
    for round in 0..20 {
        let digest = format!("file {round}");
        let mut flights = tokio::task::JoinSet::new();
        let mut jobs = Vec::new();
        for number in 0..4 {
            let mut new = new_job("c:1", 100 + number);
            new.key.system = format!("sys{number}");
            let job = started(opened.submit(&new, false).await);
            let job = catalog.claim(job.number, "me").await.unwrap().unwrap();
            let (catalog, digest, lease) = (catalog.clone(), digest.clone(), job.lease());
            flights.spawn(async move { catalog.fly(lease, &digest).await.unwrap() });
            jobs.push(job);
        }
        let flying = flights.join_all().await.into_iter().filter(|is_flying| *is_flying).count();
        assert_eq!(flying, 1, "{digest}");
        for job in jobs {
            assert!(catalog.cancel(job.number, "x").await.unwrap());
            assert!(catalog.forget_end(job.number).await.unwrap());
        }
    }
}
