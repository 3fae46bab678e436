//! Registries that fail in the middle, through the whole gateway: the pull fails with its reason, what is published
//! stays as it was, and the next pull succeeds.
//!
//! How the registry client meets each fault in detail, and in each document, is tested in its own crate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::site::{Site, local, noise};
use serde_json::json;
use shifter_tests::fixture::{
    Built, FaultProxy, Harm, Image, Layer, Part, Server, Target, busybox_image, dir, file, push,
};
use shifter_tests::harness::{GatewayOptions, Location, RegistryOptions};

fn small(seed: u64) -> Built {
    Image::new(vec![Layer::new(vec![dir("."), file("noise", noise(50_000, seed))])]).build().unwrap()
}

#[derive(Clone, Copy)]
enum Where {
    Question,
    Manifest,
    Config,
    Layer,
}

#[test]
fn a_pull_that_fails_in_the_middle_says_why_changes_nothing_and_can_be_tried_again() {
    let elsewhere = Server::start("127.0.0.1:0", &[], &[]).unwrap();
    let away = || Harm::Elsewhere(format!("http://{}/somewhere", elsewhere.authority()));
    // What goes wrong where, and what must be said.
    let faults: Vec<(Where, Harm, &str)> = vec![
        (Where::Question, Harm::HangUp, "cannot look up"),
        (Where::Question, Harm::Stall, "timed out"),
        (Where::Question, Harm::Status(401), "refuses access"),
        (Where::Question, Harm::Status(403), "refuses access"),
        (Where::Question, Harm::Status(404), "no such image"),
        (Where::Question, Harm::Status(503), "503"),
        (Where::Manifest, Harm::Corrupt, "does not match its digest"),
        (Where::Manifest, Harm::Truncate, "cannot read image"),
        (Where::Manifest, Harm::Status(429), "limits the rate of requests"),
        (Where::Config, Harm::Corrupt, "does not match its digest"),
        (Where::Config, Harm::Status(500), "500"),
        (Where::Layer, Harm::HangUp, "cannot fetch layer"),
        (Where::Layer, Harm::Truncate, "cannot fetch layer"),
        (Where::Layer, Harm::Stall, "timed out"),
        (Where::Layer, Harm::Corrupt, "does not match its digest"),
        (Where::Layer, Harm::ClaimMore, "expected"),
        (Where::Layer, Harm::ClaimLess, "expected"),
        (Where::Layer, away(), "404"),
        (Where::Layer, Harm::Status(403), "refuses access"),
        (Where::Layer, Harm::Status(404), "no such image"),
        (Where::Layer, Harm::Status(500), "500"),
    ];
    let mut started = None;
    let site = Site::with(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        let proxy = FaultProxy::start(&registry.authority).unwrap();
        let locations = vec![local(&proxy.url())];
        started = Some((registry, proxy));
        let of_locations = json!({"timeout": 1}).as_object().unwrap().clone();
        let more = json!({"WorkerThreads": 40}).as_object().unwrap().clone();
        GatewayOptions { locations, more, of_locations }
    });
    let (registry, proxy) = started.unwrap();
    let store = |built: &Built, repository: &str| {
        let target = Target::parse(&format!("{}/{repository}:1", registry.authority)).unwrap();
        push(built, &target).unwrap();
    };
    let good = busybox_image().unwrap();
    let named: Vec<String> = (0..faults.len()).map(|number| format!("f{number}")).collect();
    let images: Vec<String> = named.iter().map(|repository| format!("local/{repository}:1")).collect();
    named.iter().for_each(|repository| store(&good, repository));
    let pull_all = || {
        images.iter().for_each(|image| drop(site.ask("alice", image)));
        site.ends_of_pulls("alice", &images)
    };
    assert!(pull_all().iter().all(|(status, _)| status == "READY"));
    let (published, listed) = (site.image_files(), site.listed("alice"));
    assert_eq!(published.len(), 2, "{published:?}");

    // The tags move on, and the way to what they mean now is bad.
    let newer: Vec<Built> = (1..).map(small).take(faults.len()).collect();
    for ((repository, built), (place, harm, _)) in named.iter().zip(&newer).zip(&faults) {
        store(built, repository);
        let layer = built.layer_digests().remove(0);
        let config = built.blobs.keys().find(|digest| **digest != layer).unwrap();
        let part = match place {
            Where::Question => Part::Question,
            Where::Manifest => Part::Manifest,
            Where::Config => Part::Blob(config.clone()),
            Where::Layer => Part::Blob(layer),
        };
        proxy.order(repository, part, harm.clone());
    }
    let ends = pull_all();
    for (number, ((status, why), (_, harm, expected))) in ends.iter().zip(&faults).enumerate() {
        let repository = &named[number];
        assert_eq!(status, "FAILURE", "{harm:?}: {why}");
        assert!(why.contains(expected) && why.contains(repository.as_str()), "{harm:?}: {why}");
        assert!(proxy.harm_done(repository) > 0, "{harm:?} never happened");
        let found = site.shifterimg("bob", &["lookup", &format!("docker:{}", images[number])]);
        assert_eq!(found.success().unwrap().trim(), good.id(), "{harm:?}");
    }
    assert_eq!((site.image_files(), site.listed("alice")), (published, listed));
    assert_eq!(site.expansions(), [""; 0]);
    // Nothing wrong is in the cache, and what stays unfinished is too little to be kept.
    assert_eq!(site.cached().1.len(), 0);
    assert_eq!(site.script(&images[0], "echo served"), "served\n");

    proxy.heal();
    for ((status, why), (image, built)) in pull_all().iter().zip(images.iter().zip(&newer)) {
        assert_eq!(status, "READY", "{image}: {why}");
        let found = site.shifterimg("bob", &["lookup", &format!("docker:{image}")]);
        assert_eq!(found.success().unwrap().trim(), built.id());
    }
    site.finish();
}

/// ST45.
#[test]
fn a_registry_that_stalls_holds_up_nobody_elses_users() {
    let (slow, quick) = (small(1), small(2));
    let behind = Server::start("127.0.0.1:0", &[("x", "1", &slow)], &[]).unwrap();
    let proxy = FaultProxy::start(&behind.authority()).unwrap();
    let other = Server::start("127.0.0.1:0", &[("x", "1", &quick)], &[]).unwrap();
    let site = Site::configured(&[("WorkerThreads", 1)], |_| {
        let other = Location { name: "other".to_owned(), ..local(&format!("http://{}", other.authority())) };
        vec![local(&proxy.url()), other]
    });
    proxy.order("x", Part::Blob(slow.layer_digests().remove(0)), Harm::Stall);
    site.ask("alice", "local/x:1");
    proxy.wait_for_harm("x").unwrap();
    site.pull("bob", "other/x:1").success().unwrap();
    assert_eq!(site.ask("alice", "local/x:1")["status"], "PULLING");
    proxy.heal();
    assert_eq!(site.end_of_pull("alice", "local/x:1").0, "READY");
    site.finish();
}
