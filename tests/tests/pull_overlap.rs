//! Conversion begins with the newest layer while older ones are still fetched: seen at a registry whose oldest layer
//! stops in its middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::site::{Site, local, noise};
use serde_json::{Value, json};
use shifter_tests::fixture::{
    Built, Compression, FaultProxy, Harm, Image, Layer, Part, Server, dir, file, shell_entries,
};
use shifter_tests::harness::{GatewayOptions, Location};

/// Bytes of each of the two newer layers.
const SIZE: usize = 3 << 20;

fn image(seed: u64) -> Built {
    let mut entries = vec![dir("."), dir("bin"), file("which", seed.to_string())];
    entries.extend(shell_entries("bin").unwrap());
    let mut layers = vec![Layer::new(entries)];
    layers.extend((1..=2).map(|number| {
        let data = noise(SIZE, seed * 10 + number);
        Layer::new(vec![file(format!("noise{number}"), data)]).compressed(Compression::None)
    }));
    Image::new(layers).build().unwrap()
}

/// A site where `local/x:1` is `seed`'s image, and `other/x:1` another one; the oldest layer of the first does not come.
struct Stalled {
    site: Site,
    proxy: FaultProxy,
    _servers: [Server; 2],
}

impl Stalled {
    fn new(more: Value, of_locations: Value) -> Self {
        let (slow, quick) = (image(1), image(2));
        let behind = Server::start("127.0.0.1:0", &[("x", "1", &slow)], &[]).unwrap();
        let proxy = FaultProxy::start(&behind.authority()).unwrap();
        proxy.order("x", Part::Blob(slow.layer_digests().remove(0)), Harm::Stall);
        let other = Server::start("127.0.0.1:0", &[("x", "1", &quick)], &[]).unwrap();
        let url = format!("http://{}", other.authority());
        let keys = |value: Value| value.as_object().unwrap().clone();
        let site = Site::with(|_| GatewayOptions {
            locations: vec![local(&proxy.url()), Location { name: "other".to_owned(), ..local(&url) }],
            more: keys(more),
            of_locations: keys(of_locations),
        });
        Self { site, proxy, _servers: [behind, other] }
    }

    /// Asks for the image and waits until the data of both newer layers is in it.
    fn begin(&self) {
        self.site.ask("alice", "local/x:1");
        self.proxy.wait_for_harm("x").unwrap();
        wait("the newest layers are not converted", || self.bytes() >= 2 * SIZE);
    }

    /// Bytes of the image that is being made.
    fn bytes(&self) -> usize {
        let names = self.site.image_files().into_iter().filter(|name| name.starts_with('.'));
        let sizes = names.filter_map(|name| fs::metadata(self.site.gateway.images.join(name)).ok());
        sizes.map(|found| found.len() as usize).max().unwrap_or(0)
    }

    fn converters(&self) -> usize {
        let gateway = self.site.sandbox.pid(self.site.gateway.daemon).unwrap();
        let tasks = fs::read_dir(format!("/proc/{gateway}/task")).unwrap().flatten();
        let children: String =
            tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default()).collect();
        children.split_whitespace().count()
    }
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !until() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn newer_layers_are_converted_while_an_older_one_does_not_come() {
    let play = Stalled::new(json!({}), json!({}));
    play.begin();
    // It is the same pull as ever for whoever asks.
    let record = play.site.ask("alice", "local/x:1");
    let message = record["status_message"].as_str().unwrap();
    assert_eq!(record["status"], "PULLING");
    assert!(message.starts_with("Pulling layers, 2 of 3 complete"), "{message}");
    assert_eq!(play.converters(), 1);
    assert_eq!(record.get("progress"), None, "only for who asks for it");
    // Who wants to know sees which layer it is.
    let path = "/api/pull/testsystem/docker/local%2Fx%3A1/?wait=0";
    let answer = play.site.sandbox.api(&play.site.gateway, &play.site.munged, "alice", ("POST", path), b"");
    let answer: Value = serde_json::from_slice(&answer.unwrap().body).unwrap();
    let layers = answer["progress"]["layers"].as_array().unwrap();
    let of = |key: &str| layers.iter().map(|layer| layer[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("digest"), image(1).layer_digests(), "oldest first");
    let stages = of("stage");
    assert_eq!((&stages[0], &stages[2]), (&json!("fetching"), &json!("converted")), "{answer}");
    assert!(["converting", "converted"].contains(&stages[1].as_str().unwrap()), "{answer}");
    let bytes = |layer: usize, key: &str| layers[layer][key].as_u64().unwrap();
    assert!(bytes(0, "done") < bytes(0, "total"), "{answer}");
    assert_eq!((bytes(2, "done"), bytes(2, "total") > SIZE as u64), (bytes(2, "total"), true), "{answer}");
    let said = play.site.sandbox.user("alice").unwrap();
    let program = play.site.sandbox.program("shifterimg").unwrap().display().to_string();
    let said = said.run(&["timeout", "-s", "INT", "2", &program, "-v", "pull", "docker:local/x:1"]).unwrap();
    let line = format!("    {} fetching: ", &image(1).layer_digests()[0][..19]);
    assert!(said.out().contains(&line), "{}", said.describe());
    play.proxy.heal();
    assert_eq!(play.site.end_of_pull("alice", "local/x:1").0, "READY");
    assert_eq!(play.site.script("local/x:1", "cat /which; cat /noise* | wc -c"), format!("1{}\n", 2 * SIZE));
    play.site.finish();
}

#[test]
fn a_layer_that_never_comes_ends_the_conversion_of_the_others() {
    let play = Stalled::new(json!({}), json!({"timeout": 1}));
    play.begin();
    let (status, why) = play.site.end_of_pull("alice", "local/x:1");
    assert_eq!(status, "FAILURE", "{why}");
    assert!(why.contains("timed out"), "{why}");
    wait("the converter is still there", || play.converters() == 0);
    assert_eq!(play.site.image_files(), [""; 0]);
    assert_eq!(play.site.expansions(), [""; 0]);
    play.proxy.heal();
    play.site.ask("alice", "local/x:1");
    assert_eq!(play.site.end_of_pull("alice", "local/x:1").0, "READY");
    play.site.finish();
}

#[test]
fn whoever_waits_for_a_layer_takes_no_worker_from_others_nor_runs_out_of_time() {
    // Enough for the other's conversion on a busy machine.
    let limit = 8;
    let play = Stalled::new(json!({"WorkerThreads": 1, "ConversionTimeLimit": limit}), json!({}));
    play.begin();
    let begun = Instant::now();
    play.site.pull("bob", "other/x:1").success().unwrap();
    std::thread::sleep(Duration::from_secs(limit + 1).saturating_sub(begun.elapsed()));
    assert_eq!(play.site.ask("alice", "local/x:1")["status"], "PULLING");
    play.proxy.heal();
    let (status, why) = play.site.end_of_pull("alice", "local/x:1");
    assert_eq!(status, "READY", "{why}");
    play.site.finish();
}
