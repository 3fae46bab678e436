//! Who hangs up, or cancels, between the files and the catalog: both agree all the same.

use std::pin::pin;
use std::task::{Context, Waker};

use super::*;
use crate::keeper::Outcome;
use crate::model::TagKey;

const TAG: &str = "secret/app:1";

fn key() -> TagKey {
    TagKey { system: "sysa".into(), itype: "docker".into(), tag: TAG.into() }
}

/// Has a future begun and dropped after so many steps; what it came to, if it did.
async fn dropped_after<T>(steps: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    for _ in 0..steps {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(done);
        }
        // For what it waits for to happen.
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    None
}

/// `.meta`'s line of users, and the same by the catalog; none where there is no image, or no `.meta`.
async fn said(gateway: &Gateway, id: &str) -> [Option<String>; 2] {
    let meta = std::fs::read_to_string(gateway.dir.join(format!("images/{id}.meta"))).ok();
    let line =
        meta.map(|text| text.lines().find_map(|line| line.strip_prefix("USERACL: ")).unwrap().to_owned());
    let record = gateway.api().catalog.record("sysa", id).await.unwrap();
    let pullers = |record: crate::catalog::Record| -> Vec<String> {
        record.grants.iter().map(|grant| grant.puller.to_string()).collect()
    };
    [line, record.map(|record| pullers(record).join(","))]
}

/// They agree, within a moment.
async fn agree(gateway: &Gateway, id: &str, what: &str) {
    let begun = Instant::now();
    loop {
        let [files, catalog] = said(gateway, id).await;
        if files == catalog {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{what}: {files:?} {catalog:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn site(dir: &Path) -> (Registry, Gateway, String) {
    let (registry, address) = Registry::start().await;
    let id = registry.push("secret/app", "1", "one");
    let gateway = Gateway::start(dir, address, 0).await;
    gateway.pull(&caller(1, &[("reg", "alice:pa:ss")]), TAG, "").await;
    (registry, gateway, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_no_grant_half_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway, id) = site(dir.path()).await;
    let keeper = &gateway.api().managing.keeper;
    for steps in 0.. {
        gateway.pull(&caller(2, &[("reg", "alice:pa:ss")]), TAG, "").await;
        let key = key();
        let outcome = dropped_after(steps, keeper.give_up(&key, &id, 2)).await;
        // Who gives up, waits for who does.
        agree(&gateway, &id, &format!("after {steps} steps")).await;
        if let Some(outcome) = outcome {
            assert_eq!(outcome.unwrap(), Outcome::Done);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_no_image_half_restored_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway, id) = site(dir.path()).await;
    let keeper = &gateway.api().managing.keeper;
    for steps in 0.. {
        let removed = dropped_after(steps, keeper.remove("sysa", &id)).await.map(Result::unwrap);
        agree(&gateway, &id, &format!("removed, {steps} steps")).await;
        while keeper.remove("sysa", &id).await.unwrap() == Outcome::Busy {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // As after an expiry that left the files: with them, it is whole again.
        std::fs::write(dir.path().join(format!("images/{id}.squashfs")), "image bytes").unwrap();
        let restored = dropped_after(steps, keeper.restore("sysa", &id)).await.map(Result::unwrap);
        agree(&gateway, &id, &format!("restored, {steps} steps")).await;
        while keeper.restore("sysa", &id).await.unwrap().0 == Outcome::Busy {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if removed == Some(Outcome::Done) && restored == Some((Outcome::Done, true)) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_cancelled_while_it_is_granted_leaves_files_and_catalog_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway, id) = site(dir.path()).await;
    let mut cancelled = 0;
    for uid in 2..60 {
        let caller = caller(uid, &[("reg", "alice:pa:ss")]);
        gateway.request(&caller, TAG, "").await.unwrap();
        tokio::time::sleep(Duration::from_micros(u64::from(uid) * 600)).await;
        cancelled += u32::from(gateway.api().cancel("sysa", "docker", TAG, &caller).await.is_ok());
        agree(&gateway, &id, &format!("{uid}")).await;
    }
    assert!(cancelled > 5, "{cancelled}");
}
