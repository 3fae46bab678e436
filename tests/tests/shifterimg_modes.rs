//! What owners, strangers and administrators get from each mode of `shifterimg`, at a site where root alone reads what
//! users have no need of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::asked::{Asked as _, image, site};
use common::site::Site;
use serde_json::{Value, json};
use shifter_tests::fixture::{Built, Harm, Part};

const NOT_ADMIN: &str = "only administrators";

fn files_of(images: &[&Built]) -> Vec<String> {
    let mut names: Vec<String> = images
        .iter()
        .flat_map(|built| ["meta", "squashfs"].map(|end| format!("{}.{end}", built.id())))
        .collect();
    names.sort();
    names
}

#[test]
fn an_owners_image_is_shown_to_its_owner_and_removed_by_nobody_else() {
    let (mine, open, other) = (image("mine"), image("open"), image("other"));
    let images = [("closed/mine:1", &mine), ("open/app:1", &open), ("closed/mine:2", &other)];
    // Everybody asks the registry, so that everybody has a right of their own.
    let (mut site, _proxy) = site(&images, json!({"PullUpdateTimeout": 0}));
    site.hide_the_administrators_files();
    for user in ["alice", "bob"] {
        site.logs_in(user);
    }
    let (hers, open_id) = (mine.id(), open.id());
    let by_id = format!("inspect id:{hers}");
    site.check(&[
        ("alice", "pull docker:closed/mine:1", 0, "READY", "yours alone"),
        ("alice", "pull docker:open/app:1", 0, "READY", ""),
        ("bob", "pull docker:open/app:1", 0, "READY", ""),
        ("alice", "inspect docker:closed/mine:1", 0, hers, ""),
        ("alice", &by_id, 0, "\"closed/mine:1\"", ""),
        ("alice", "inspect docker:nothing:1", 1, "", "image not found"),
        ("alice", "history docker:closed/mine:1", 0, hers, ""),
        ("bob", "history docker:open/app:1", 0, open_id, ""),
        ("alice", "status", 0, "up ", ""),
        ("carol", "status", 0, "up ", ""),
        // A stranger is told what is told of images that are not there.
        ("carol", "inspect docker:closed/mine:1", 1, "", "image not found"),
        ("carol", &by_id, 1, "", "image not found"),
        ("carol", "history docker:closed/mine:1", 1, "", "image not found"),
        ("carol", "rm docker:closed/mine:1", 1, "", "image not found"),
        ("bob", "rm docker:closed/mine:1", 1, "", "image not found"),
        ("bob", "rm --all docker:closed/mine:1", 4, "", NOT_ADMIN),
        // Whom it is open to has nothing to give up.
        ("carol", "rm docker:open/app:1", 1, "", "image not found"),
    ]);
    let inspected = site.asks("alice", "--json inspect docker:closed/mine:1").success().unwrap();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(
        (&inspected["id"], &inspected["tags"]),
        (&json!(hers), &json!(["closed/mine:1"])),
        "{inspected}"
    );
    assert_eq!(inspected["userACL"], json!([4201]), "{inspected}");
    let history = site.asks("alice", "--json history docker:closed/mine:1").success().unwrap();
    let history: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history["list"][0]["id"], json!(hers), "{history}");
    assert_eq!(site.image_files(), files_of(&[&mine, &open]));
    assert_eq!(site.script("closed/mine:1", "cat /etc/word"), "mine");

    site.check(&[
        ("alice", "rm docker:closed/mine:1", 0, "", ""),
        ("alice", "rm docker:closed/mine:1", 1, "", "image not found"),
        ("alice", "lookup docker:closed/mine:1", 1, "", "image not found"),
        // Hers is given up, his is not.
        ("alice", "rm docker:open/app:1", 0, "", ""),
        ("carol", "lookup docker:open/app:1", 0, open_id, ""),
        ("bob", "rm docker:open/app:1", 0, "", ""),
        ("carol", "lookup docker:open/app:1", 1, "", "image not found"),
    ]);
    assert_eq!(site.image_files(), [""; 0]);
    site.check(&[
        ("bob", "pull docker:closed/mine:2", 0, "READY", "yours alone"),
        ("root", "rm --all docker:closed/mine:2", 0, "", ""),
        ("bob", "lookup docker:closed/mine:2", 1, "", "image not found"),
    ]);
    assert_eq!(site.image_files(), [""; 0]);
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.check(&[
        ("carol", "status", 1, "down ", "shifterimg: "),
        ("alice", "--json status", 1, "\"up\":false", "shifterimg: "),
    ]);
    site.finish();
}

#[test]
fn a_pull_under_way_is_its_callers_to_see_and_to_cancel() {
    let built = image("slow");
    let (site, proxy) = site(&[("closed/slow:1", &built)], json!({}));
    site.hide_the_administrators_files();
    for user in ["alice", "bob"] {
        site.logs_in(user);
    }
    proxy.order("closed", Part::Blob(built.layer_digests()[1].clone()), Harm::Stall);
    site.check(&[("alice", "pull --no-wait docker:closed/slow:1", 3, "status: ", "")]);
    proxy.wait_for_harm("closed").unwrap();
    site.check(&[
        ("alice", "queue", 0, "closed/slow:1", ""),
        ("alice", "--json queue", 0, "\"image\":\"closed/slow:1\"", ""),
        ("alice", "pull --no-wait docker:closed/slow:1", 3, "PULLING", ""),
        // As old scripts call it, to whom any other status is a failure.
        ("alice", "pullnb docker:closed/slow:1", 0, "PULLING", ""),
        ("carol", "cancel docker:closed/slow:1", 1, "", "no unfinished pull"),
        ("bob", "cancel docker:closed/slow:1", 1, "", "no unfinished pull"),
        ("alice", "queue", 0, "closed/slow:1", ""),
        ("alice", "cancel docker:closed/slow:1", 0, "", ""),
        ("alice", "cancel docker:closed/slow:1", 1, "", "no unfinished pull"),
    ]);
    for (user, words) in [("alice", "queue"), ("carol", "queue"), ("alice", "images")] {
        assert_eq!(site.asks(user, words).success().unwrap(), "", "{user} {words}");
    }
    proxy.heal();
    site.check(&[
        ("alice", "pull docker:closed/slow:1", 0, "READY", "yours alone"),
        ("alice", "pull --no-wait docker:closed/slow:1", 3, "status: ", ""),
        ("alice", "pull docker:closed/slow:1", 0, "READY", "yours alone"),
    ]);
    assert_eq!(site.image_files(), files_of(&[&built]));
    site.finish();
}

#[test]
fn what_administrators_do_works_for_them_and_is_refused_to_everybody_else() {
    let [a, b, c] = ["a", "b", "c"].map(image);
    let images = [("open/a:1", &a), ("open/b:1", &b), ("open/c:1", &c)];
    let keys = json!({"Metrics": true, "ImageExpirationTimeout": "00:00:00:03"});
    let (site, _proxy) = site(&images, keys);
    site.hide_the_administrators_files();
    for tag in ["a", "b", "c"] {
        site.check(&[("alice", &format!("pull docker:open/{tag}:1"), 0, "READY", "")]);
    }
    let all = files_of(&[&a, &b, &c]);
    let word = |mode: &str, built: &Built| format!("{mode} id:{}", built.id());
    for words in [
        "expire docker:open/a:1",
        &word("expire", &a),
        &word("restore", &a),
        &word("pin", &a),
        &word("unpin", &a),
        "rm --all docker:open/a:1",
        "autoexpire",
        "autoexpire --dry-run",
        "metrics",
        "metrics --limit 1",
        "--json metrics",
    ] {
        let said = site.asks("bob", words);
        assert!(!said.out().contains(a.id()), "{}", said.describe());
        assert!(said.failure(4).unwrap().contains(NOT_ADMIN), "{words}");
        assert_eq!(site.image_files(), all, "{words}");
    }
    // Who it is pulled by is no administrator either.
    site.check(&[("alice", "expire docker:open/a:1", 4, "", NOT_ADMIN)]);

    site.check(&[("bob", "lookup docker:open/b:1", 0, b.id(), "")]);
    let (ten, nothing) = (b.id().get(..10).unwrap(), format!("id:{}", "0".repeat(64)));
    site.check(&[
        ("root", "metrics", 0, &format!(" bob          {ten}   docker:open/b:1\n"), ""),
        ("root", "--json metrics --limit 1", 0, "\"user\":\"bob\"", ""),
        ("root", "expire docker:open/a:1", 0, "", ""),
        ("root", "expire docker:open/a:1", 1, "", "has no image docker:open/a:1"),
        ("bob", "lookup docker:open/a:1", 1, "", "image not found"),
    ]);
    assert_eq!(site.image_files(), files_of(&[&b, &c]));
    site.check(&[
        ("root", &word("restore", &a), 0, "", "restored without its file"),
        ("bob", "pull docker:open/a:1", 0, "READY", ""),
        ("root", &word("pin", &a), 0, "", ""),
        ("root", "expire docker:open/a:1", 1, "", "pinned; unpin it first"),
    ]);
    for mode in ["expire", "restore", "pin", "unpin"] {
        site.check(&[("root", &format!("{mode} {nothing}"), 1, "", &format!("has no image {nothing}"))]);
    }
    assert_eq!(site.image_files(), all);

    // All are past their time in the end, and the pinned one stays.
    let mut expected = [b.id(), c.id()].map(|id| format!("{id}\n"));
    expected.sort();
    until_all_expire(&site, &expected);
    assert_eq!(site.image_files(), all, "a dry run removes nothing");
    let mut gone: Vec<String> =
        site.asks("root", "autoexpire").success().unwrap().lines().map(|line| format!("{line}\n")).collect();
    gone.sort();
    assert_eq!(gone, expected);
    assert_eq!(site.image_files(), files_of(&[&a]));
    site.check(&[
        ("root", &word("unpin", &a), 0, "", ""),
        ("root", &format!("expire id:{}", a.id()), 0, "", ""),
    ]);
    assert_eq!(site.image_files(), [""; 0]);
    site.finish();
}

/// Until a dry run names these, in any order.
fn until_all_expire(site: &Site, expected: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let said = site.asks("root", "autoexpire --dry-run").success().unwrap();
        let mut lines: Vec<String> = said.lines().map(|line| format!("{line}\n")).collect();
        lines.sort();
        if lines == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
