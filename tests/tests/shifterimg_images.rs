//! What `shifterimg images` lists for whom, and how `pull` ends, for people and for scripts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::asked::{Asked as _, image, site};
use common::site::Site;
use serde_json::{Value, json};
use shifter_tests::fixture::{Harm, Part};

/// The tags in the table, in its order.
fn tags(site: &Site, user: &str, words: &str) -> String {
    let said = site.asks(user, words).success().unwrap();
    let last = |line: &str| line.split_whitespace().last().unwrap_or_default().to_owned();
    said.lines().map(last).collect::<Vec<String>>().join(" ")
}

#[test]
fn a_list_shows_what_its_reader_may_use_and_what_was_asked_for() {
    let [mine, shared, open] = ["mine", "shared", "open"].map(image);
    let images = [("closed/mine:1", &mine), ("closed/shared:2", &shared), ("open/app:3", &open)];
    let (site, _proxy) = site(&images, json!({}));
    site.hide_the_administrators_files();
    for user in ["alice", "bob"] {
        site.logs_in(user);
    }
    site.check(&[
        ("alice", "pull docker:closed/mine:1", 0, "READY", "yours alone"),
        ("alice", "pull -u carol docker:closed/shared:2", 0, "READY", ""),
        ("bob", "pull docker:open/app:3", 0, "READY", ""),
    ]);
    for (user, words, expected) in [
        ("alice", "images", "closed/mine:1 closed/shared:2 open/app:3"),
        ("carol", "images", "closed/shared:2 open/app:3"),
        ("bob", "images", "open/app:3"),
        ("alice", "images --mine", "closed/mine:1 closed/shared:2"),
        ("carol", "images --mine", ""),
        ("bob", "--mine images", "open/app:3"),
        ("alice", "images --name closed/*", "closed/mine:1 closed/shared:2"),
        ("alice", "images --name */app:?", "open/app:3"),
        ("bob", "images --name closed/*", ""),
        ("alice", "images --label kind", "closed/mine:1 closed/shared:2 open/app:3"),
        ("alice", "images --label kind=test --label word=open", "open/app:3"),
        ("alice", "images --label word=other", ""),
        ("bob", "images --label word=mine", ""),
        ("alice", "images --mine --name *:2 --label word=shared", "closed/shared:2"),
    ] {
        assert_eq!(tags(&site, user, words), expected, "{user}: {words}");
    }
    let line = site.asks("bob", "images").success().unwrap();
    let start = format!("testsystem docker     READY    {}   20", &open.id()[..10]);
    assert!(line.starts_with(&start) && line.ends_with("open/app:3                    \n"), "{line:?}");
    let document = site.asks("carol", "--json images --name closed/*").success().unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let list = document["list"].as_array().unwrap();
    assert_eq!(list.len(), 1, "{document}");
    assert_eq!(
        (&list[0]["id"], &list[0]["tag"]),
        (&json!(shared.id()), &json!(["closed/shared:2"])),
        "{document}"
    );
    assert_eq!(list[0]["status"], "READY", "{document}");
    for (user, words, id) in [
        ("carol", "--json lookup docker:closed/shared:2", shared.id()),
        ("alice", "--json lookup docker:closed/mine:1", mine.id()),
    ] {
        let found: Value = serde_json::from_str(&site.asks(user, words).success().unwrap()).unwrap();
        assert_eq!(found["id"], json!(id), "{user}: {words}");
    }
    site.finish();
}

#[test]
fn the_exit_status_of_a_pull_tells_ready_failed_unfinished_and_denied_apart() {
    let (open, slow, broken) = (image("open"), image("slow"), image("broken"));
    let images = [("open/app:1", &open), ("slow:1", &slow), ("broken:1", &broken), ("closed/app:1", &open)];
    let (site, proxy) = site(&images, json!({}));
    site.hide_the_administrators_files();
    site.logs_in("alice");
    proxy.order("broken", Part::Blob(broken.layer_digests()[1].clone()), Harm::Corrupt);
    proxy.order("slow", Part::Blob(slow.layer_digests()[1].clone()), Harm::Stall);
    site.check(&[
        ("alice", "pull docker:open/app:1", 0, "status: READY\n", ""),
        ("alice", "pull open/app:1", 0, "status: READY\n", ""),
        ("alice", "pull docker:broken:1", 1, "status: FAILURE\n", "Pulling Image docker:broken:1 failed: "),
        ("alice", "pull docker:open/none:1", 1, "status: FAILURE\n", "has no such image"),
        ("alice", "pull docker:open/app:none", 1, "status: FAILURE\n", "has no such image"),
        ("bob", "pull docker:closed/app:1", 4, "status: FAILURE\n", "run shifterimg login local"),
        ("alice", "pull --no-wait docker:slow:1", 3, "status: ", ""),
        ("alice", "pull --user nosuchuser docker:open/app:1", 1, "", "no user \"nosuchuser\" is known"),
        ("alice", "pull docker://open/app:1", 1, "", "write docker:open/app:1"),
    ]);
    proxy.wait_for_harm("slow").unwrap();
    let going = site.asks("alice", "--json pull --no-wait docker:slow:1");
    assert_eq!(going.status.code(), Some(3), "{}", going.describe());
    let going: Value = serde_json::from_str(&going.out()).unwrap();
    assert_eq!(going["status"], "PULLING", "{going}");
    // Once it goes on, who waits sees a line for each status and no more, ever later ones.
    let waiting = site.account("alice").spawn(&["shifterimg", "pull", "docker:slow:1"]).unwrap();
    proxy.heal();
    let out = waiting.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && text.ends_with("status: READY\n"), "{text}");
    assert!(!text.contains(['\r', '\u{1b}']), "{text:?}");
    let status = |line: &str| line.rsplit_once("status: ").unwrap().1.split(' ').next().unwrap().to_owned();
    let mut statuses: Vec<String> = text.lines().map(status).collect();
    let all = statuses.len();
    statuses.dedup();
    assert_eq!(statuses.len(), all, "{text}");
    let ready = site.asks("alice", "--json pull docker:slow:1");
    let ready: Value = serde_json::from_str(&ready.success().unwrap()).unwrap();
    assert_eq!((&ready["status"], &ready["id"]), (&json!("READY"), &json!(slow.id())), "{ready}");
    site.finish();
}
