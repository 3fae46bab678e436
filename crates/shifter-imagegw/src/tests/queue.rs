//! What waits in a running gateway: whose turn it is, what a restart has lost, and what is not taken at all.

use super::*;
use crate::config::Importers;
use crate::model::{Job, TagKey};
use crate::route::Query;

fn key(tag: &str) -> TagKey {
    TagKey { system: "sysa".into(), itype: "docker".into(), tag: tag.into() }
}

/// How a caller's pull of a tag stands in the catalog.
async fn job(gateway: &Gateway, tag: &str, uid: u32) -> Option<Job> {
    gateway.api().catalog.job_of(&key(tag), uid).await.unwrap()
}

/// Waits until that is so.
async fn until(gateway: &Gateway, tag: &str, uid: u32, what: &str, is_so: impl Fn(&Job) -> bool) {
    let begun = Instant::now();
    while !job(gateway, tag, uid).await.is_some_and(|job| is_so(&job)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pull_does_not_wait_for_another_users_fifty() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Sqlite(dir.path().join("c.db"));
    let gateway = Gateway::start_with(dir.path(), address, 300, &place, 1, None).await;
    let (alice, bob) = (caller(1, &[]), caller(2, &[]));
    registry.push("one", "1", "bob's");
    for number in 0..50 {
        let tag = number.to_string();
        registry.push("many", &tag, &tag);
        gateway.request(&alice, &format!("many:{tag}"), "").await.unwrap();
    }
    let wanted = gateway.request(&bob, "one:1", "").await.unwrap();
    assert!(wire::status::is_in_progress(wanted.status.as_deref().unwrap()), "{wanted:?}");
    until(&gateway, "one:1", 2, "Bob's pull ends", |job| job.status.is_over()).await;
    let waiting = gateway.api().catalog.unfinished(None).await.unwrap().len();
    assert!(waiting >= 25, "Alice's pulls still wait when Bob's is done: {waiting}");
    assert_eq!(gateway.pull(&bob, "one:1", "").await.status.as_deref(), Some("READY"));
}

/// The catalog's clock cannot be turned, but the job can be made older.
async fn make_older(dir: &Path, job: &Job) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("c.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let older = sqlx::query("UPDATE jobs SET updated = updated - 700 WHERE job = $1");
    older.bind(job.number).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_whose_password_a_restart_lost_waits_for_its_user_and_then_fails_with_that_reason() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    registry.push("secret/app", "1", "s");
    let alice = caller(1, &[("reg", "alice:pa:ss")]);
    let gateway = Gateway::start(dir.path(), address, 300).await;
    gateway.request(&alice, "secret/app:1", "").await.unwrap();
    let is_begun = |job: &Job| job.fence > 0;
    until(&gateway, "secret/app:1", 1, "it is begun", is_begun).await;
    gateway.stop().await;

    let gateway = Gateway::start(dir.path(), address, 300).await;
    let is_asked = |job: &Job| job.message.contains("waiting for the caller to ask again");
    until(&gateway, "secret/app:1", 1, "its user is asked", is_asked).await;
    let waiting = job(&gateway, "secret/app:1", 1).await.unwrap();
    assert!(!waiting.status.is_over() && !waiting.is_held(), "{waiting:?}");
    let shown = gateway.api().job("sysa", "docker", "secret/app:1", &caller(1, &[])).await.unwrap().image;
    assert!(
        is_asked(&waiting) && wire::status::is_in_progress(shown.status.as_deref().unwrap()),
        "{shown:?}"
    );

    make_older(dir.path(), &waiting).await;
    until(&gateway, "secret/app:1", 1, "it fails", |job| job.status.is_over()).await;
    let told = gateway.request(&alice, "secret/app:1", "").await.unwrap();
    assert_eq!(told.status.as_deref(), Some("FAILURE"), "{told:?}");
    assert_eq!(
        told.status_message.as_deref(),
        Some(
            "the gateway was restarted, and what came with the request, a password or a file, was in its memory only; \
             ask again"
        )
    );
    assert_eq!(gateway.pull(&alice, "secret/app:1", "").await.status.as_deref(), Some("READY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_workers_are_apart_refuses_imports_by_path_and_by_upload() {
    let dir = tempfile::tempdir().unwrap();
    let change = |config: &mut Config| {
        config.import.users = Importers::Everybody;
        config.worker_threads = 0;
    };
    let place = Place::Sqlite(dir.path().join("c.db"));
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let gateway = Gateway::start_as(dir.path(), nowhere, 300, &place, change).await;
    let (api, who, names) = (gateway.api(), caller(0, &[]), ("sysa", "custom", "a:1"));
    let platform = &api.config.platforms["sysa"];
    let path = dir.path().join("file");
    std::fs::write(&path, "file").unwrap();
    let body = serde_json::json!({"filepath": path, "format": "tar"}).to_string();
    let query = Query::parse(Some("format=tar")).unwrap();
    let by_path = api.import(names, platform, body.as_bytes(), &who).await.map(|_| ());
    let sent = api.upload(names, platform, &query, Body::from("file"), &who).await.map(|_| ());
    for refused in [by_path, sent] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Refusal::Unprocessable(_)), "{refused:?}");
        assert!(
            refused.to_string().contains("workers run apart, and a file cannot be given to them"),
            "{refused}"
        );
    }
    assert!(api.catalog.unfinished(None).await.unwrap().is_empty());
    assert_eq!(gateway.names("expand"), [""; 0]);
}
