//! What must not be pulled: one sentence, a non-zero exit, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::site::{Site, local};
use serde_json::Value;
use shifter_tests::fixture::{Fault, Server, build_named, busybox_image};
use shifter_tests::harness::Outcome;

/// A failed pull: exit 1, one sentence with all of `expected` in it, no file in either directory.
fn refused(site: &Site, outcome: Outcome, expected: &[&str]) {
    let shown = outcome.describe();
    let sentence = outcome.failure(1).unwrap();
    assert_eq!(sentence.trim().lines().count(), 1, "{shown}");
    for word in expected {
        assert!(sentence.to_lowercase().contains(&word.to_lowercase()), "no {word:?} in: {shown}");
    }
    let none: [&str; 0] = [];
    assert_eq!(site.image_files(), none, "{shown}");
    assert_eq!(site.expansions(), none, "{shown}");
}

fn site_at(server: &Server) -> Site {
    let url = format!("http://{}", server.authority());
    Site::new(|_| vec![local(&url)])
}

/// ST45.
#[test]
fn a_registry_that_lies_or_breaks_off_is_found_out() {
    let built = busybox_image().unwrap();
    let layer = built.layer_digests().pop().unwrap();
    let faults: [(Fault, &[&str]); 4] = [
        (Fault::WrongBlob(layer.clone()), &["digest"]),
        (Fault::TruncatedBlob(layer.clone(), 1000), &[&layer[7..19]]),
        (Fault::WrongManifest, &["digest"]),
        (Fault::Status(404), &["x:1"]),
    ];
    for (fault, expected) in faults {
        // A thread each: a sandbox takes over the thread that makes it.
        let (built, shown) = (built.clone(), format!("{fault:?}"));
        let expected: Vec<String> = expected.iter().map(|word| (*word).to_owned()).collect();
        let case = std::thread::spawn(move || {
            let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[fault]).unwrap();
            let site = site_at(&server);
            let words: Vec<&str> = expected.iter().map(String::as_str).collect();
            refused(&site, site.pull("alice", "local/x:1"), &words);
            site.finish();
        });
        case.join().unwrap_or_else(|_| panic!("{shown}"));
    }
}

#[test]
fn archives_that_would_leave_the_image_are_refused_by_name() {
    let cases: [(&str, &[&str]); 4] = [
        ("hostile-dotdot", &["../escaped"]),
        ("hostile-symlink", &["way"]),
        ("hostile-hardlink", &["stolen"]),
        ("hostile-missing-link", &["no/such"]),
    ];
    let mut images: Vec<_> = cases.iter().map(|(name, _)| (*name, build_named(name).unwrap())).collect();
    images.push(("hostile-absolute", build_named("hostile-absolute").unwrap()));
    let served: Vec<_> = images.iter().map(|(name, built)| (*name, "1", built)).collect();
    let server = Server::start("127.0.0.1:0", &served, &[]).unwrap();
    let site = site_at(&server);
    for (name, expected) in cases {
        refused(&site, site.pull("alice", &format!("local/{name}:1")), expected);
    }
    // Some builders write all names so; they mean the image.
    site.pull("alice", "local/hostile-absolute:1").success().unwrap();
    for place in ["/escaped", "/etc/shifter-fixture-escaped", "/etc/escaped"] {
        assert!(!std::path::Path::new(place).exists(), "{place}");
    }
    site.finish();
}

#[test]
fn what_is_not_there_is_said_and_a_failed_pull_may_be_tried_again_at_once() {
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let site = site_at(&server);
    refused(&site, site.pull("alice", "local/y:1"), &["y"]);
    refused(&site, site.pull("alice", "local/x:2"), &["2"]);
    site.shifterimg("alice", &["lookup", "docker:local/y:1"]).failure(1).unwrap();
    let outcome = site.run("alice", "local/y:1", &["true"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());

    drop(server);
    refused(&site, site.pull("alice", "local/x:1"), &["local/x:1"]);
    site.finish();
}

#[test]
fn a_gateway_that_is_down_is_one_sentence() {
    let mut site = Site::new(|_| Vec::new());
    site.sandbox.stop(site.gateway.daemon).unwrap();
    for words in [&["lookup", "docker:x:1"][..], &["images"]] {
        let sentence = site.shifterimg("alice", words).failure(1).unwrap();
        assert_eq!(sentence.trim().lines().count(), 1, "{sentence}");
        assert!(sentence.contains(&site.gateway.authority), "{sentence}");
    }
    site.finish();
}

/// ST47.
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    for which in ["images", "expand", "cache"] {
        let url = format!("http://{}", server.authority());
        let case = std::thread::spawn(move || {
            let mut site = Site::new(|_| vec![local(&url)]);
            site.sandbox.stop(site.gateway.daemon).unwrap();
            if which == "expand" {
                // Our own writer has no use for the directory here: it keeps only hidden files there.
                let config = fs::read_to_string(&site.gateway.config).unwrap();
                let mut config: Value = serde_json::from_str(&config).unwrap();
                config["Converter"] = "tar2sqfs".into();
                fs::write(&site.gateway.config, config.to_string()).unwrap();
            }
            let place = match which {
                "images" => site.gateway.images.clone(),
                other => site.gateway.state.join(other),
            };
            let shown = place.display().to_string();
            let options = "size=300k,mode=0755,uid=4210,gid=4210";
            let root = site.sandbox.root();
            root.run(&["mount", "-t", "tmpfs", "-o", options, "full", &shown]).unwrap().success().unwrap();
            site.sandbox.restart(&mut site.gateway).unwrap();
            refused(&site, site.pull("alice", "local/x:1"), &["space"]);
            site.sandbox.stop(site.gateway.daemon).unwrap();
            site.sandbox.remove_disk(&place).unwrap();
            site.finish();
        });
        case.join().unwrap_or_else(|_| panic!("{which}"));
    }
}
