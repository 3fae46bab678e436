//! A queue with as many pulls as a gateway accepts.

use super::http::exchange;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_a_full_queue_is_told_when_to_come_again() {
    let (registry, registry_address) = Registry::start().await;
    registry.push("app", "1", "x");
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    let address = gateway.listen().await;
    // Of a thousand users, all at work elsewhere; one transaction, since each would wait for the disk.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("c.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let until = crate::model::now() + 10_000.0;
    sqlx::query(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000) \
         INSERT INTO jobs (system, itype, tag, uid, gid, uids, gids, status, message, with_credentials, created, \
         updated, fence, holder, lease_until) \
         SELECT 'sysa', 'docker', 'other:1', 5000 + n, 1, '', '', 'PULLING', '', 0, $1, $1, 1, 'elsewhere', $1 FROM n",
    )
    .bind(until)
    .execute(&pool)
    .await
    .unwrap();
    let bodies = [
        ("POST", "/api/pull/sysa/docker/app%3A1/", ""),
        ("POST", "/api/pull/sysa/docker/app%3A1/", r#"{"allowed_uids":"7"}"#),
    ];
    let who = "good:alice:users::1:10001";
    for (method, target, body) in bodies {
        let (status, head, said) = exchange(address, method, target, who, body).await;
        assert_eq!(status, 503, "{said}");
        assert!(head.lines().any(|line| line.starts_with("retry-after: ")), "{head}");
        assert!(said.contains("too many unfinished pulls"), "{said}");
    }
    // What is no pull is answered, and whoever waits for their own still hears of it.
    assert_eq!(exchange(address, "GET", "/api/list/sysa/", who, "").await.0, 200);
    let theirs = "good:other:users::5001:1";
    assert_eq!(exchange(address, "POST", "/api/pull/sysa/docker/other%3A1/", theirs, "").await.0, 200);
    sqlx::query("DELETE FROM jobs WHERE uid = 5002").execute(&pool).await.unwrap();
    pool.close().await;
    let (status, _, said) = exchange(address, "POST", "/api/pull/sysa/docker/app%3A1/", who, "").await;
    assert_eq!(status, 200, "{said}");
    gateway.pull(&caller(1, &[]), "app:1", "").await;
}
