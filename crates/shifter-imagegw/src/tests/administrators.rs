//! What only administrators may do, tried by everybody else (ST50).

use super::*;
use crate::routes;

const ALICE: &str = "good:alice:users::1:10001";

/// All that could have changed.
async fn state(gateway: &Gateway) -> String {
    let catalog = &gateway.api().catalog;
    let (records, retired) = (catalog.list(None).await.unwrap(), catalog.retired(None, None).await.unwrap());
    format!("{records:?} {retired:?} {:?} {:?}", gateway.names("images"), gateway.names("arm"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_for_administrators_does_anything_for_others() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    let listening = gateway.listen().await;
    let (there, gone) = (registry.push("app", "1", "one"), registry.push("old", "1", "two"));
    registry.push_for("arm64", "app", "arm", "three");
    for tag in ["app:1", "old:1"] {
        gateway.pull(&caller(1, &[]), tag, "").await;
    }
    gateway.pull_on("arm", &caller(1, &[]), "app:arm", "").await;
    gateway.api().managing.keeper.remove("sysa", &gone).await.unwrap();
    // One that could expire.
    gateway.api().catalog.set_expiration("sysa", &there, 1.0).await.unwrap();
    let before = state(&gateway).await;

    let closed = |route: &&routes::Route| {
        ["administrators", "As POST, for old clients"].iter().any(|words| route.summary.contains(words))
    };
    let mut tried: Vec<(&str, &str)> = routes::all().filter(closed).map(|r| (r.method, r.path)).collect();
    tried.push(("DELETE", "/api/image/{system}/{itype}/{tag}?all=1"));
    assert!(tried.len() >= 10, "{tried:?}");
    // The owner, root, who is called or grouped as the administrator's number, and the administrator of another system.
    for (who, system, tag) in [
        (ALICE, "sysa", "app:1"),
        ("good:root:root::0:0", "sysa", "app:1"),
        ("good:1000:1000::7:1000", "sysa", "app:1"),
        ("good:uid%3A1000:users::7:7", "sysa", "app:1"),
        ("good:op:ops::1000:1000", "arm", "app:arm"),
    ] {
        for (method, path) in &tried {
            let target = path.replace("{system}", system).replace("{itype}", "docker").replace("{tag}", tag);
            for id in [&there, &gone] {
                let mark = if target.contains('?') { '&' } else { '?' };
                let target = format!("{target}{mark}id={id}");
                let (status, _, body) = exchange(listening, method, &target, who, "").await;
                let is_refused =
                    matches!((status, body.as_str()), (200, "{\"status\":false}" | "[]") | (403, _));
                assert!(is_refused, "{who}: {method} {target}: {status} {body}");
            }
        }
    }
    assert_eq!(state(&gateway).await, before);
    // Whom it is for, it works for.
    let expire = format!("/api/expire/sysa?id={there}");
    let (status, _, body) = exchange(listening, "POST", &expire, "good:op:ops::1000:1000", "").await;
    assert_eq!((status, body.as_str()), (200, "{\"status\":true}"));
    assert_ne!(state(&gateway).await, before);
}
