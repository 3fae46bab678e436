//! Images that are there: expiry, restore, pins, one's own, limits of size, history and metrics, by ordinary HTTP
//! requests with real munge credentials.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::time::Duration;

use common::site::{Site, local, noise};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::{Built, Image, Layer, dir, file, request};
use shifter_tests::harness::{GatewayOptions, Registry, RegistryOptions};

const KB: usize = 1000;

fn image(seed: u64) -> Built {
    let data = noise(450 * KB, seed);
    Image::new(vec![Layer::new(vec![dir("."), file("data", data.as_slice())])]).build().unwrap()
}

/// A site with images under `TAG:1`, and top-level keys of its gateway.
fn site_with(images: &[(&Built, &str)], more: Value) -> (Site, Registry) {
    let mut running = None;
    let site = Site::with(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for (built, repository) in images {
            sandbox.push(&registry, built, repository, "1").unwrap();
        }
        let locations = vec![local(&registry.url)];
        running = Some(registry);
        let more: Map<String, Value> = more.as_object().unwrap().clone();
        GatewayOptions { locations, more, ..GatewayOptions::default() }
    });
    (site, running.unwrap())
}

/// Status and document of the answer to a user's request, or root's, who is the administrator.
fn ask(site: &Site, user: &str, method: &str, path: &str) -> (u16, Value) {
    let socket = site.munged.socket.display().to_string();
    let account = match user {
        "root" => site.sandbox.root(),
        user => site.sandbox.user(user).unwrap(),
    };
    let credential = account.run(&["munge", "-n", "-S", &socket]).unwrap().success().unwrap();
    let headers = [("authentication", credential.trim_end())];
    let answer = request(&site.gateway.authority, method, path, &headers, b"").unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn told(site: &Site, user: &str, method: &str, path: &str) -> Value {
    let (status, answer) = ask(site, user, method, path);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

fn files_of(images: &[&Built]) -> Vec<String> {
    let mut names: Vec<String> = images
        .iter()
        .flat_map(|built| [format!("{}.meta", built.id()), format!("{}.squashfs", built.id())])
        .collect();
    names.sort();
    names
}

#[test]
fn images_leave_come_back_and_belong_to_who_pulled_them() {
    let [a, b, c, moved] = [1, 2, 3, 4].map(image);
    let more = json!({ "Metrics": true, "ImageExpirationTimeout": "00:00:00:05", "PullUpdateTimeout": 0 });
    let (mut site, registry) = site_with(&[(&a, "a"), (&b, "b"), (&c, "c")], more);
    site.pull("alice", "local/a:1").success().unwrap();
    site.pull("bob", "local/b:1").success().unwrap();
    site.pull("alice", "local/c:1").success().unwrap();

    site.shifterimg("bob", &["lookup", "docker:local/b:1"]).success().unwrap();
    let newest = told(&site, "root", "GET", "/api/metrics/testsystem/?limit=1");
    assert_eq!((&newest[0]["user"], &newest[0]["uid"]), (&json!("bob"), &json!(4202)), "{newest}");
    assert_eq!((&newest[0]["id"], &newest[0]["tag"]), (&json!(b.id()), &json!("local/b:1")), "{newest}");
    assert_eq!(told(&site, "alice", "GET", "/api/metrics/testsystem/"), json!([]));
    assert_eq!(ask(&site, "alice", "GET", "/api/metrics/testsystem/?strict=1").0, 403);
    let denied = site.shifterimg("alice", &["metrics"]);
    assert!(denied.err().contains("only administrators"), "{}", denied.describe());
    denied.failure(4).unwrap();

    let expire = "/api/expire/testsystem/docker/local%2Fa%3A1/";
    assert_eq!(told(&site, "alice", "GET", expire), json!({"status": false}));
    assert_eq!(site.image_files(), files_of(&[&a, &b, &c]));
    assert_eq!(told(&site, "root", "GET", expire), json!({"status": true}));
    assert_eq!(site.image_files(), files_of(&[&b, &c]));
    assert_eq!(told(&site, "root", "GET", expire), json!({"status": null}));
    site.shifterimg("alice", &["lookup", "docker:local/a:1"]).failure(1).unwrap();

    let pin = format!("/api/pin/testsystem?id=sha256:{}", c.id());
    assert_eq!(told(&site, "bob", "POST", &pin), json!({"status": false}));
    assert_eq!(told(&site, "root", "POST", &pin), json!({"status": true}));
    std::thread::sleep(Duration::from_secs(6));
    let expected = json!({"status": [b.id()]});
    assert_eq!(told(&site, "alice", "GET", "/api/autoexpire/testsystem/"), json!({"status": false}));
    assert_eq!(told(&site, "root", "GET", "/api/autoexpire/testsystem/?dry_run=1"), expected);
    assert_eq!(site.image_files(), files_of(&[&b, &c]));
    assert_eq!(told(&site, "root", "GET", "/api/autoexpire/testsystem/"), expected);
    assert_eq!(site.image_files(), files_of(&[&c]));

    let restore = format!("/api/restore/testsystem?id={}", b.id());
    assert_eq!(told(&site, "root", "POST", &restore), json!({"status": true, "file": false}));
    site.pull("bob", "local/b:1").success().unwrap();
    assert_eq!(site.image_files(), files_of(&[&b, &c]));
    let own = "/api/image/testsystem/docker/local%2Fb%3A1";
    assert_eq!(ask(&site, "alice", "DELETE", own).0, 404);
    let seen = told(&site, "alice", "GET", own);
    assert_eq!((&seen["id"], &seen["tags"]), (&json!(b.id()), &json!(["local/b:1"])), "{seen}");
    assert_eq!(told(&site, "bob", "DELETE", own), json!({"status": true}));
    assert_eq!(site.image_files(), files_of(&[&c]));

    site.pull("alice", "local/a:1").success().unwrap();
    site.sandbox.push(&registry, &moved, "a", "1").unwrap();
    site.pull("alice", "local/a:1").success().unwrap();
    let history = told(&site, "alice", "GET", "/api/history/testsystem/docker/local%2Fa%3A1");
    let ids: Vec<&Value> = history["list"].as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
    assert_eq!(ids, [&json!(moved.id()), &json!(a.id())], "{history}");
    site.finish();
}

#[test]
fn a_directory_that_is_too_full_loses_the_longest_unused_image_that_is_not_pinned() {
    let [p, q, r] = [1, 2, 3].map(image);
    let (mut site, _registry) = site_with(&[(&p, "p"), (&q, "q"), (&r, "r")], json!({}));
    let text = fs::read(&site.gateway.config).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config["Platforms"]["testsystem"]["ImageDirSizeLimit"] = json!(0.001);
    fs::write(&site.gateway.config, config.to_string()).unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    for tag in ["p", "q", "r"] {
        site.pull("alice", &format!("local/{tag}:1")).success().unwrap();
    }
    told(&site, "root", "POST", &format!("/api/pin/testsystem?id={}", p.id()));
    let expected = json!({"status": [q.id()]});
    assert_eq!(told(&site, "root", "POST", "/api/autoexpire/testsystem/?dry_run=1"), expected);
    assert_eq!(told(&site, "root", "POST", "/api/autoexpire/testsystem/"), expected);
    assert_eq!(site.image_files(), files_of(&[&p, &r]));
    site.finish();
}
