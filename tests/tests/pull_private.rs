//! Registries that know who may have what: layers in the cache are nobody's by their digest, and pulls with passwords
//! outlive a restart of the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::site::{Site, local};
use serde_json::Value;
use shifter_tests::fixture::{
    Built, FaultProxy, Harm, Image, Layer, Part, Target, dir, file, push, shell_entries,
};
use shifter_tests::harness::{Registry, RegistryOptions};

/// Two layers; the lower one is the same in all that have this secret.
fn image(secret: &str, which: &str) -> Built {
    let mut entries = vec![dir("."), dir("bin"), file("secret", secret)];
    entries.extend(shell_entries("bin").unwrap());
    Image::new(vec![Layer::new(entries), Layer::new(vec![file("which", which)])]).build().unwrap()
}

/// Digests of an image's layers, the lowest first.
fn layers(built: &Built) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(&built.manifests[&built.top].bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_private_layer_in_the_cache_is_not_given_to_whoever_knows_its_digest() {
    let of_alice = image("of alice", "one");
    let of_bob = image("of alice", "two");
    let secret = layers(&of_alice)[0].clone();
    assert_eq!(layers(&of_bob)[0], secret);
    let mut started: Option<Registry> = None;
    let site = Site::new(|sandbox| {
        let service = sandbox.token_service(&[("alice", "a"), ("bob", "b")]).unwrap();
        let registry = sandbox
            .registry(RegistryOptions { tokens: Some(&service), ..RegistryOptions::default() })
            .unwrap();
        sandbox.push(&registry, &of_alice, "alice/app", "1").unwrap();
        sandbox.push(&registry, &of_bob, "bob/app", "1").unwrap();
        let locations = vec![local(&registry.url)];
        started = Some(registry);
        locations
    });
    let registry = started.unwrap();
    registry.has_layer("bob/app", &secret, false).unwrap();
    for (user, password) in [("alice", "alice:a"), ("bob", "bob:b")] {
        site.store_password(user, "local", password);
    }
    site.pull("alice", "local/alice/app:1").success().unwrap();
    assert!(site.cached().0.contains(&secret));
    // Bob's manifest names the layer that only Alice may read.
    let outcome = site.pull("bob", "local/bob/app:1");
    let shown = outcome.describe();
    let why = outcome.failure(1).unwrap();
    assert!(why.contains("ask for layer") && why.contains(&secret[7..]), "{shown}");
    site.pull("bob", "local/alice/app:1").failure(4).unwrap();
    assert_eq!(site.image_files().len(), 2, "{:?}", site.image_files());
    // Once the registry says that Bob has it, it need not be fetched again.
    registry.has_layer("bob/app", &secret, true).unwrap();
    site.pull("bob", "local/bob/app:1").success().unwrap();
    let seen = site.run("bob", "local/bob/app:1", &["sh", "-c", "cat /secret /which"]);
    assert_eq!(seen.success().unwrap(), "of alicetwo");
    site.run("bob", "local/alice/app:1", &["true"]).failure(1).unwrap();
    site.finish();
}

#[test]
fn a_pull_with_a_password_waits_for_its_caller_when_the_gateway_was_restarted() {
    let mut started = None;
    let mut site = Site::new(|sandbox| {
        let login = Some(("ada", "word"));
        let registry = sandbox.registry(RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
        let built = image("private", "x");
        let target = Target::parse(&format!("{}/app:1", registry.authority)).unwrap();
        let target = Target { login: Some(("ada".to_owned(), "word".to_owned())), ..target };
        push(&built, &target).unwrap();
        let proxy = FaultProxy::start(&registry.authority).unwrap();
        let locations = vec![local(&proxy.url())];
        started = Some((proxy, built));
        locations
    });
    let (proxy, built) = started.unwrap();
    site.store_password("alice", "local", "ada:word");
    proxy.order("app", Part::Blob(layers(&built)[1].clone()), Harm::Stall);
    let alice = site.sandbox.user("alice").unwrap();
    let mut pull = alice.spawn(&["shifterimg", "pull", "docker:local/app:1"]).unwrap();
    let queue = |site: &Site| {
        let path = ("GET", "/api/queue/testsystem/");
        let answer = site.sandbox.api(&site.gateway, &site.munged, "alice", path, b"").unwrap();
        answer.text()
    };
    wait_for("the download", || queue(&site).contains("PULLING"));
    pull.kill().unwrap();
    pull.wait().unwrap();
    site.sandbox.kill(site.gateway.daemon).unwrap();
    proxy.heal();
    site.sandbox.restart(&mut site.gateway).unwrap();
    // Nobody asks: it neither goes on without a password, nor fails.
    wait_for("the note", || queue(&site).contains("PENDING"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(queue(&site).contains("PENDING"), "{}", queue(&site));
    assert_eq!(site.image_files(), [""; 0]);
    site.pull("alice", "local/app:1").success().unwrap();
    assert_eq!(site.script("local/app:1", "cat /secret"), "private");
    assert_eq!(site.image_files(), [format!("{}.meta", built.id()), format!("{}.squashfs", built.id())]);
    site.run("bob", "local/app:1", &["true"]).failure(1).unwrap();
    site.finish();
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}
