//! Images that are there: what administrators do with them, and their owners; each on every database.

use serde_json::{Value, json};

use super::*;
use crate::catalog::tests::servers::Server;
use crate::catalog::{State, Turn};
use crate::model::{TagKey, now};

const ADMIN: &str = "good:op:ops::1000:1000";
const ALICE: &str = "good:alice:users::1:10001";
const BOB: &str = "good:bob:users::2:10002";

/// A gateway with a listener, on a database of each kind.
struct Site {
    gateway: Gateway,
    registry: Registry,
    address: SocketAddr,
    place: Place,
    _dir: tempfile::TempDir,
    _server: Server,
}

impl Site {
    async fn on(server: Server, change: impl Fn(&mut Config)) -> Site {
        let (registry, registry_address) = Registry::start().await;
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let gateway = Gateway::start_as(dir.path(), registry_address, 0, &place, change).await;
        let address = gateway.listen().await;
        Site { gateway, registry, address, place, _dir: dir, _server: server }
    }

    async fn ask(&self, method: &str, target: &str, who: &str) -> (u16, Value) {
        let (status, _, body) = exchange(self.address, method, target, who, "").await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn answer(&self, method: &str, target: &str, who: &str) -> Value {
        let (status, body) = self.ask(method, target, who).await;
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    async fn finds(&self, tag: &str, who: &str) -> bool {
        let (status, body) = self.ask("GET", &format!("/api/lookup/sysa/docker/{tag}/"), who).await;
        assert!(status == 200 || status == 404, "{body}");
        status == 200
    }

    /// Pushes an image and pulls it as alice; its id.
    async fn publish(&self, repository: &str, seed: &str) -> String {
        let id = self.registry.push(repository, "1", seed);
        let credentials = caller(1, &[("reg", "alice:pa:ss")]);
        let image = self.gateway.pull(&credentials, &format!("{repository}:1"), "").await;
        assert_eq!(image.id.as_deref(), Some(id.as_str()), "{image:?}");
        id
    }

    fn has_files(&self, id: &str) -> bool {
        let names = self.gateway.names("images");
        let is_there = |suffix: &str| names.contains(&format!("{id}.{suffix}"));
        assert_eq!(is_there("squashfs"), is_there("meta"), "{names:?}");
        is_there("meta")
    }

    async fn set_expiration(&self, id: &str, at: f64) {
        self.gateway.api().catalog.set_expiration("sysa", id, at).await.unwrap();
    }
}

fn key(tag: &str) -> TagKey {
    TagKey { system: "sysa".into(), itype: "docker".into(), tag: tag.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_image_is_gone_for_all_and_comes_back_with_its_id() {
    for server in Server::all() {
        let site = Site::on(server, |_| {}).await;
        let id = site.publish("app", "one").await;
        let expire = "/api/expire/sysa/docker/app%3A1/";
        for method in ["GET", "POST"] {
            assert_eq!(site.answer(method, expire, ALICE).await, json!({"status": false}));
        }
        assert_eq!(
            site.answer("GET", "/api/expire/sysa/docker/nosuch%3A1/", ADMIN).await,
            json!({"status": null})
        );
        assert!(site.has_files(&id) && site.finds("app:1", BOB).await);

        assert_eq!(site.answer("GET", expire, ADMIN).await, json!({"status": true}));
        assert!(!site.has_files(&id) && !site.finds("app:1", BOB).await);
        assert_eq!(site.answer("GET", expire, ADMIN).await, json!({"status": null}));
        assert_eq!(site.answer("GET", "/api/list/sysa/", ALICE).await, json!({"list": []}));

        let restore = format!("/api/restore/sysa?id=sha256:{id}");
        assert_eq!(site.answer("POST", &restore, ALICE).await, json!({"status": false}));
        assert_eq!(site.ask("GET", &restore, ADMIN).await.0, 405);
        let nobodys = format!("/api/restore/sysa/?id={}", "0".repeat(64));
        assert_eq!(site.answer("POST", &nobodys, ADMIN).await, json!({"status": null}));
        assert_eq!(site.answer("POST", &restore, ADMIN).await, json!({"status": true, "file": false}));
        assert!(site.finds("app:1", BOB).await);
        assert_eq!(site.gateway.names("images"), [""; 0], "no .meta without an image");
        let image = site.gateway.pull(&caller(2, &[]), "app:1", "").await;
        assert_eq!((image.id.as_deref(), site.has_files(&id)), (Some(id.as_str()), true));
        assert_eq!(site.answer("POST", &restore, ADMIN).await, json!({"status": true, "file": true}));

        // By id; and who pulls an expired image gets it anew, with no grant of its earlier life.
        assert_eq!(
            site.answer("POST", &format!("/api/expire/sysa?id={id}"), ADMIN).await,
            json!({"status": true})
        );
        assert_eq!(site.ask("POST", "/api/expire/sysa", ADMIN).await.0, 422);
        site.gateway.pull(&caller(7, &[]), "app:1", "").await;
        let record = site.gateway.api().catalog.record("sysa", &id).await.unwrap().unwrap();
        assert_eq!(record.grants.iter().map(|grant| grant.puller).collect::<Vec<_>>(), [7]);
        assert!(site.has_files(&id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_was_removing_is_removed_by_the_next_run() {
    for server in Server::all() {
        let site = Site::on(server, |_| {}).await;
        let (old, young) = (site.publish("old", "one").await, site.publish("young", "two").await);
        let catalog = &site.gateway.api().catalog;
        for (id, expiration) in [(&old, now() - 3600.0), (&young, now())] {
            let record = catalog.record("sysa", id).await.unwrap().unwrap();
            let turn = Turn { to: State::Expiring, expiration, if_expired_by: None };
            assert!(catalog.turn(&record, &turn).await.unwrap());
        }
        assert!(site.has_files(&old) && site.has_files(&young));
        assert_eq!(site.answer("GET", "/api/autoexpire/sysa/?dry_run=1", ADMIN).await, json!({"status": []}));
        assert!(site.has_files(&old));
        assert_eq!(site.answer("GET", "/api/autoexpire/sysa/", ADMIN).await, json!({"status": []}));
        assert!(!site.has_files(&old) && site.has_files(&young), "another process may be at the young one");
        let state = |id: String| async move {
            let mut found = site_retired(catalog, &id).await;
            found.pop().unwrap().state
        };
        assert_eq!((state(old).await, state(young).await), (State::Expired, State::Expiring));
    }
}

async fn site_retired(catalog: &Arc<dyn crate::catalog::Catalog>, id: &str) -> Vec<crate::catalog::Record> {
    catalog.retired(Some("sysa"), Some(id)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn autoexpire_takes_what_nobody_used_and_nothing_that_is_pinned_or_pulled() {
    for server in Server::all() {
        let site = Site::on(server, |_| {}).await;
        let mut ids = Vec::new();
        for (seed, repository) in ["unused", "used", "pinned", "pulled", "unarmed"].iter().enumerate() {
            ids.push(site.publish(repository, &format!("s{seed}")).await);
        }
        let (past, future) = (now() - 5.0, now() + 1000.0);
        for (id, at) in ids.iter().zip([past, future, past, past, 0.0]) {
            site.set_expiration(id, at).await;
        }
        let pin = |verb: &str| format!("/api/{verb}/sysa?id={}", ids[2]);
        assert_eq!(site.answer("POST", &pin("pin"), BOB).await, json!({"status": false}));
        assert_eq!(site.answer("POST", &pin("pin"), ADMIN).await, json!({"status": true}));
        // As another process has it in its queue.
        let catalog = &site.gateway.api().catalog;
        let job = crate::catalog::NewJob {
            key: key("pulled:1"),
            uid: 5,
            gid: 5,
            acl: Default::default(),
            with_credentials: true,
            source: String::new(),
        };
        let job = catalog.enter_job(&job).await.unwrap().unwrap();

        assert_eq!(site.answer("GET", "/api/autoexpire/sysa", ALICE).await, json!({"status": false}));
        let expected = json!({"status": [ids[0]]});
        assert_eq!(site.answer("POST", "/api/autoexpire/sysa?dry_run=1", ADMIN).await, expected);
        assert!(ids.iter().all(|id| site.has_files(id)));
        assert_eq!(site.answer("POST", "/api/autoexpire/sysa", ADMIN).await, expected);
        let left: Vec<bool> = ids.iter().map(|id| site.has_files(id)).collect();
        assert_eq!(left, [false, true, true, true, true]);
        let unarmed = catalog.record("sysa", &ids[4]).await.unwrap().unwrap();
        assert!(unarmed.image.expiration > future, "its time begins now");

        let (status, body) = site.ask("GET", "/api/expire/sysa/docker/pulled:1", ADMIN).await;
        assert!(
            status == 409 && body["error"].as_str().unwrap().contains("is being pulled"),
            "{status} {body}"
        );
        let (status, body) = site.ask("GET", "/api/expire/sysa/docker/pinned:1", ADMIN).await;
        assert!(
            status == 409 && body["error"].as_str().unwrap().contains("unpin it first"),
            "{status} {body}"
        );
        assert!(catalog.cancel(job.number, "no longer wanted").await.unwrap());
        assert_eq!(site.answer("POST", &pin("unpin"), ADMIN).await, json!({"status": true}));
        let both = site.answer("GET", "/api/autoexpire/sysa/", ADMIN).await;
        let mut gone: Vec<&str> =
            both["status"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        let mut expected = vec![ids[2].as_str(), ids[3].as_str()];
        gone.sort();
        expected.sort();
        assert_eq!(gone, expected);
        // A record is kept for a restore as long as an image lives unused, and no longer.
        let mut expired = site_retired(catalog, &ids[0]).await.remove(0);
        let long_ago = Turn { to: State::Expired, expiration: now() - 91.0 * 86_400.0, if_expired_by: None };
        assert!(catalog.turn(&expired, &long_ago).await.unwrap());
        site.answer("GET", "/api/autoexpire/sysa/", ADMIN).await;
        assert!(site_retired(catalog, &ids[0]).await.is_empty());
        expired = site_retired(catalog, &ids[2]).await.remove(0);
        assert_eq!(expired.state, State::Expired);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_directory_loses_the_longest_unused_images() {
    for server in Server::all() {
        // Each image has 11 bytes.
        let limit = |config: &mut Config| config.platforms.get_mut("sysa").unwrap().size_limit = Some(25);
        let site = Site::on(server, limit).await;
        let (mut ids, begun) = (Vec::new(), now());
        for (number, repository) in ["a", "b", "c", "d"].iter().enumerate() {
            ids.push(site.publish(repository, repository).await);
            site.set_expiration(&ids[number], begun + 1000.0 - number as f64).await;
        }
        site.answer("POST", &format!("/api/pin/sysa?id={}", ids[3]), ADMIN).await;
        // The pinned one is the longest unused.
        let expected = json!({"status": [ids[2], ids[1]]});
        assert_eq!(site.answer("GET", "/api/autoexpire/sysa?dry_run=1", ADMIN).await, expected);
        assert_eq!(site.answer("GET", "/api/autoexpire/sysa", ADMIN).await, expected);
        let left: Vec<bool> = ids.iter().map(|id| site.has_files(id)).collect();
        assert_eq!(left, [true, false, false, true]);
        assert_eq!(site.answer("GET", "/api/autoexpire/sysa", ADMIN).await, json!({"status": []}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_removes_their_own_and_the_last_one_the_image() {
    for server in Server::all() {
        let site = Site::on(server, |_| {}).await;
        let id = site.publish("secret/app", "s").await;
        let bob = caller(2, &[("reg", "alice:pa:ss")]);
        site.gateway.pull(&bob, "secret/app:1", r#"{"allowed_uids":"3"}"#).await;
        assert!(site.gateway.meta(&id).contains("\nUSERACL: 1,2,3\n"));
        let own = "/api/image/sysa/docker/secret%2Fapp%3A1";
        let (absent, _) = site.ask("DELETE", "/api/image/sysa/docker/nosuch", "good:c:c::3:3").await;
        // Shared with them, but not theirs.
        assert_eq!((site.ask("DELETE", own, "good:c:c::3:3").await.0, absent), (404, 404));
        assert_eq!(site.ask("DELETE", &format!("{own}?all=1"), ALICE).await.0, 403);
        assert_eq!(site.answer("DELETE", own, ALICE).await, json!({"status": true}));
        assert!(!site.finds("secret/app:1", ALICE).await && site.finds("secret/app:1", BOB).await);
        assert!(site.gateway.meta(&id).contains("\nUSERACL: 2,3\n"), "{}", site.gateway.meta(&id));
        assert_eq!(site.ask("DELETE", own, ALICE).await.0, 404);
        assert_eq!(site.answer("DELETE", own, BOB).await, json!({"status": true}));
        assert!(!site.has_files(&id) && !site.finds("secret/app:1", BOB).await);
        // The last one's comes back with a restore.
        site.answer("POST", &format!("/api/restore/sysa?id={id}"), ADMIN).await;
        assert!(!site.finds("secret/app:1", ALICE).await && site.finds("secret/app:1", BOB).await);
        assert_eq!(site.answer("DELETE", &format!("{own}?all=1"), ADMIN).await, json!({"status": true}));
        assert_eq!(site.ask("DELETE", &format!("{own}?all=1"), ADMIN).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systems_that_share_a_directory_share_access_and_do_not_remove_each_others_images() {
    let twin = |config: &mut Config| {
        let twin = config.platforms["sysa"].clone();
        config.platforms.insert("twin".to_owned(), twin);
    };
    let site = Site::on(Server::sqlite(), twin).await;
    let id = site.publish("secret/app", "s").await;
    let bob = caller(2, &[("reg", "alice:pa:ss")]);
    site.gateway.pull_on("twin", &bob, "secret/app:1", "").await;
    assert!(site.gateway.meta(&id).contains("\nUSERACL: 1,2\n"), "{}", site.gateway.meta(&id));
    let expire = |system: &str| format!("/api/expire/{system}/docker/secret%2Fapp%3A1");
    assert_eq!(site.answer("GET", &expire("sysa"), ADMIN).await, json!({"status": true}));
    assert!(site.has_files(&id) && site.gateway.meta(&id).contains("\nUSERACL: 2\n"));
    assert_eq!(site.answer("GET", &expire("twin"), ADMIN).await, json!({"status": true}));
    assert!(!site.has_files(&id));
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_are_told_to_administrators_newest_last() {
    for server in Server::all() {
        let site = Site::on(server, |config| config.metrics = true).await;
        let id = site.publish("app", "one").await;
        for _ in 0..3 {
            assert!(site.finds("app:1", BOB).await);
        }
        assert!(!site.finds("nosuch:1", BOB).await);
        assert!(site.finds("app:1", "good:root:root::0:0").await);
        let all = site.answer("GET", "/api/metrics/sysa/", ADMIN).await;
        assert_eq!(all.as_array().unwrap().len(), 4, "{all}");
        let newest = site.answer("GET", "/api/metrics/sysa?limit=1", ADMIN).await;
        assert_eq!(newest[0], all[3]);
        let time = newest[0]["time"].as_f64().unwrap();
        assert!((now() - time).abs() < 60.0);
        let expected = json!([{
            "user": "root", "uid": 0, "system": "sysa", "type": "docker", "tag": "app:1", "id": id, "time": time,
        }]);
        assert_eq!(newest, expected);
        assert_eq!(all[0]["uid"], 2);
        assert_eq!(site.answer("GET", "/api/metrics/sysa/?limit=9", BOB).await, json!([]));
        assert_eq!(site.ask("GET", "/api/metrics/sysa/?limit=x", ADMIN).await.0, 422);
        site.gateway.api().managing.uses.close().await;
    }
    let site = Site::on(Server::sqlite(), |_| {}).await;
    site.publish("app", "one").await;
    assert!(site.finds("app:1", BOB).await);
    assert_eq!(site.answer("GET", "/api/metrics/sysa/", ADMIN).await, json!([]));
    assert_eq!(site.gateway.api().catalog.uses("sysa", 9).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_tells_all_of_itself_and_of_its_tag_to_those_who_may_use_it() {
    for server in Server::all() {
        let site = Site::on(server, |_| {}).await;
        let first = site.publish("secret/app", "one").await;
        let second = site.publish("secret/app", "two").await;
        let bob = caller(2, &[("reg", "alice:pa:ss")]);
        site.gateway.pull(&bob, "secret/app:1", "").await;
        for verb in ["image", "history"] {
            let target = format!("/api/{verb}/sysa/docker/secret%2Fapp%3A1");
            let stranger = site.ask("GET", &target, "good:c:c::3:3").await;
            let nothing = site.ask("GET", &target.replace("app", "nil"), "good:c:c::3:3").await;
            assert_eq!((stranger.0, stranger.1["error"].clone()), (404, nothing.1["error"].clone()));
        }
        let history =
            |who: &'static str| site.answer("GET", "/api/history/sysa/docker/secret%2Fapp%3A1", who);
        let shown = |answer: &Value| -> Vec<String> {
            let list = answer["list"].as_array().unwrap();
            assert!(list.iter().all(|entry| entry["since"].as_f64().is_some_and(|since| since > 1.0e9)));
            list.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(shown(&history(ALICE).await), [second.clone(), first]);
        assert_eq!(shown(&history(BOB).await), std::slice::from_ref(&second), "earlier ones were not bob's");

        let seen = site.answer("GET", "/api/image/sysa/docker/secret%2Fapp%3A1/", ALICE).await;
        let lookup = site.answer("GET", "/api/lookup/sysa/docker/secret%2Fapp%3A1/", ALICE).await;
        for (name, value) in lookup.as_object().unwrap() {
            assert_eq!(&seen[name], value, "{name}");
        }
        let expected = json!({
            "format": "squashfs", "size": 11, "sha256": sha256(b"image bytes"), "architecture": "amd64",
            "cmd": ["sh"], "user": "", "volumes": [], "stop_signal": "", "pinned": false, "tags": ["secret/app:1"],
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&seen[name], value, "{name}");
        }
        assert!(seen["expiration"].as_f64().is_some_and(|at| at > now()), "{seen}");
        assert_eq!(seen.as_object().unwrap().len(), 13 + 11);

        // By its identifier, to the same users.
        let by_id = format!("/api/image/sysa/id/{second}/");
        for who in [ALICE, BOB] {
            let again = site.answer("GET", &by_id, who).await;
            for name in ["id", "size", "cmd", "tags", "pinned"] {
                assert_eq!(again[name], seen[name], "{name}");
            }
            assert_eq!((&again["itype"], &again["tag"]), (&json!("id"), &seen["tag"]));
        }
        let stranger = site.ask("GET", &by_id, "good:c:c::3:3").await;
        let nothing = site.ask("GET", &by_id.replace(&second, &"0".repeat(64)), "good:c:c::3:3").await;
        assert_eq!((stranger.0, &stranger.1["error"]), (404, &nothing.1["error"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_full_is_refused_to_who_asks_for_more() {
    let site = Site::on(Server::sqlite(), |_| {}).await;
    let id = site.registry.push("secret/app", "1", "s");
    let list = |from: u32| {
        let ids: Vec<String> = (from..from + 600).map(|uid| uid.to_string()).collect();
        format!(r#"{{"allowed_uids":"{}"}}"#, ids.join(","))
    };
    let of = |uid| caller(uid, &[("reg", "alice:pa:ss")]);
    site.gateway.pull(&of(1), "secret/app:1", &list(1)).await;
    let refused = site.gateway.pull(&of(5000), "secret/app:1", &list(5000)).await;
    assert_eq!(refused.status.as_deref(), Some("FAILURE"));
    let why = refused.status_message.unwrap();
    assert!(why.contains("more than 1000 users or groups") && why.contains("with a group"), "{why}");
    let meta = site.gateway.meta(&id);
    let acl = meta.lines().find_map(|line| line.strip_prefix("USERACL: ")).unwrap();
    assert_eq!(acl.split(',').count(), 600, "the others keep what they have");
}

#[tokio::test(flavor = "multi_thread")]
async fn meta_says_what_is_granted_however_grants_come_and_go_at_once() {
    for server in [Server::postgres(), Server::mongo()] {
        let (registry, address) = Registry::start().await;
        let id = registry.push("secret/app", "1", "one");
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let mut gateways = Vec::new();
        for _ in 0..2 {
            gateways.push(Arc::new(Gateway::start_on(dir.path(), address, 0, &place).await));
        }
        let pull = |gateway: Arc<Gateway>, uid: u32| async move {
            let caller = caller(uid, &[("reg", "alice:pa:ss")]);
            let image = gateway.pull(&caller, "secret/app:1", "").await;
            assert_eq!(image.status.as_deref(), Some("READY"), "{image:?}");
        };
        pull(gateways[0].clone(), 100).await;
        for uid in 1..=6 {
            pull(gateways[0].clone(), uid).await;
        }
        let mut tasks = Vec::new();
        for uid in 1..=6_u32 {
            tasks.push(tokio::spawn(pull(gateways[uid as usize % 2].clone(), uid + 10)));
            // Both at once: one finds nothing left to do after it has written.
            for gateway in &gateways {
                let (gateway, id) = (gateway.clone(), id.clone());
                tasks.push(tokio::spawn(async move {
                    let keeper = &gateway.api().managing.keeper;
                    while keeper.give_up(&key("secret/app:1"), &id, uid).await.unwrap()
                        == crate::keeper::Outcome::Busy
                    {
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        let (_, grants) = gateways[0].api().catalog.lookup(&key("secret/app:1")).await.unwrap().unwrap();
        let pullers: Vec<String> = grants.iter().map(|grant| grant.puller.to_string()).collect();
        assert_eq!(pullers, ["11", "12", "13", "14", "15", "16", "100"], "{place}");
        let expected = format!("\nUSERACL: {}\n", pullers.join(","));
        assert!(gateways[0].meta(&id).contains(&expected), "{}", gateways[0].meta(&id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_original_gateway_expires_and_belongs_to_no_caller() {
    let site = Site::on(Server::mongo(), |_| {}).await;
    let Place::Mongo { uri, database } = &site.place else { panic!("{}", site.place) };
    let client = mongodb::Client::with_uri_str(uri).await.unwrap();
    let images = client.database(database).collection::<bson::Document>("images");
    let id = "0f".repeat(32);
    images.insert_one(bson::doc! {
        "format": "squashfs", "userACL": [], "groupACL": [], "private": false, "tag": ["old:1"], "status": "READY",
        "system": "sysa", "itype": "docker", "pulltag": "old:1", "last_pull": 5.0, "id": &id,
    }).await.unwrap();
    for suffix in ["squashfs", "meta"] {
        std::fs::write(site.gateway.dir.join(format!("images/{id}.{suffix}")), "FORMAT: squashfs\n").unwrap();
    }
    assert!(site.finds("old:1", BOB).await && site.has_files(&id));
    assert_eq!(site.ask("DELETE", "/api/image/sysa/docker/old%3A1", BOB).await.0, 404);
    assert_eq!(site.answer("GET", "/api/expire/sysa/docker/old%3A1/", ADMIN).await, json!({"status": true}));
    assert!(!site.finds("old:1", BOB).await && !site.has_files(&id));
    let document = images.find_one(bson::doc! { "id": &id }).await.unwrap().unwrap();
    assert_eq!(document.get_str("status").unwrap(), "EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_on_a_host_that_is_down_is_not_removed_now_but_later() {
    let site = Site::on(Server::sqlite(), |_| {}).await;
    let id = site.publish("app", "one").await;
    // The same image on the system whose host nobody answers at.
    let catalog = &site.gateway.api().catalog;
    let mut record = catalog.record("sysa", &id).await.unwrap().unwrap();
    record.image.system = "far".into();
    record.revision = 0;
    record.grants.iter_mut().for_each(|grant| grant.key.system = "far".into());
    assert!(catalog.store(&record).await.unwrap());
    let (status, head, body) =
        exchange(site.address, "DELETE", "/api/image/far/docker/app%3A1/", ALICE, "").await;
    assert_eq!(status, 503, "{body}");
    assert!(head.contains("\r\nretry-after: ") && body.contains("host h: "), "{head}: {body}");
}
