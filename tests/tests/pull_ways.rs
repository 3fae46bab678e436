//! The ways to a registry that sites have: proxies of the environment, token services; and images of unusual make.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::site::{Site, local};
use serde_json::json;
use shifter_tests::fixture::{
    Built, Image, Layer, Manifest, Server, Target, build_named, busybox_image, digest_of, dir, file, push,
    shell_entries,
};
use shifter_tests::harness::{GatewayOptions, ProxyKind, RegistryOptions};

fn shell_with(which: &str) -> Vec<Layer> {
    let mut entries = vec![dir("."), dir("bin"), file("which", which)];
    entries.extend(shell_entries("bin").unwrap());
    vec![Layer::new(entries)]
}

#[test]
fn pulls_go_through_the_proxies_of_the_gateways_environment() {
    let mut started = None;
    let mut site = Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        let locations = vec![local(&registry.url)];
        started = Some(registry);
        locations
    });
    let registry = started.unwrap();
    let kinds = [
        (ProxyKind::Squid, "http_proxy", "http", "GET http"),
        (ProxyKind::Tinyproxy, "HTTP_PROXY", "http", "GET http"),
        (ProxyKind::Dante, "all_proxy", "socks5h", "tcp/connect"),
        (ProxyKind::Dante, "ALL_PROXY", "socks5", "tcp/connect"),
    ];
    for (number, (kind, variable, scheme, logged)) in kinds.into_iter().enumerate() {
        let image = Image::new(shell_with(variable)).build().unwrap();
        let target = Target::parse(&format!("{}/p{number}:1", registry.authority)).unwrap();
        push(&image, &target).unwrap();
        let reference = format!("local/p{number}:1");
        let proxy = site.sandbox.proxy(kind).unwrap();
        let url = format!("{scheme}://{}", proxy.authority);
        site.sandbox.stop(site.gateway.daemon).unwrap();
        site.gateway.environment = vec![(variable.to_owned(), url)];
        site.sandbox.restart(&mut site.gateway).unwrap();
        site.pull("alice", &reference).success().unwrap();
        assert_eq!(site.script(&reference, "cat /which"), variable);
        assert!(proxy.log().contains(logged), "{variable}: {}", proxy.log());
        site.sandbox.stop(proxy.daemon).unwrap();
        if number % 2 == 1 {
            continue;
        }
        // Nobody else is asked: without it, and the connections that it still holds, there is no way.
        site.sandbox.stop(site.gateway.daemon).unwrap();
        site.sandbox.restart(&mut site.gateway).unwrap();
        let why = site.pull("alice", &reference).failure(1).unwrap();
        assert!(why.contains("cannot look up") && why.trim().lines().count() == 1, "{variable}: {why}");
    }
    site.finish();
}

#[test]
fn a_registry_with_a_token_service_opens_to_its_users_and_what_is_open_to_all() {
    let mut tokens = None;
    let site = Site::new(|sandbox| {
        let service = sandbox.token_service(&[("ada", "pass:word")]).unwrap();
        let registry = sandbox
            .registry(RegistryOptions { tokens: Some(&service), ..RegistryOptions::default() })
            .unwrap();
        for repository in ["open", "secret"] {
            let image = Image::new(shell_with(repository)).build().unwrap();
            sandbox.push(&registry, &image, repository, "1").unwrap();
        }
        tokens = Some(service);
        vec![local(&registry.url)]
    });
    let service = tokens.unwrap();
    site.pull("bob", "local/open:1").success().unwrap();
    assert_eq!(site.script("local/open:1", "cat /which"), "open");
    assert_eq!(service.requests().iter().filter(|line| line.starts_with("user")).count(), 0);

    let why = site.pull("alice", "local/secret:1").failure(4).unwrap();
    assert!(why.contains("run shifterimg login local"), "{why}");
    site.store_password("alice", "local", "ada:pass:word");
    site.pull("alice", "local/secret:1").success().unwrap();
    assert_eq!(site.script("local/secret:1", "cat /which"), "secret");
    assert!(
        service.requests().contains(&"user repository:secret:pull".to_owned()),
        "{:?}",
        service.requests()
    );
    site.store_password("bob", "local", "ada:wrong");
    let why = site.pull("bob", "local/secret:1").failure(4).unwrap();
    assert!(why.contains("run shifterimg login local to replace them"), "{why}");
    site.shifterimg("bob", &["lookup", "docker:local/secret:1"]).failure(1).unwrap();
    site.finish();
}

#[test]
fn images_of_hundreds_of_layers_and_of_sha512_digests_are_pulled_and_schema_1_is_refused_by_name() {
    let mut layers = shell_with("many");
    layers.extend((0..300).map(|number| {
        Layer::new(vec![dir("deep"), file(format!("deep/{}", number % 200), format!("{number}\n"))])
    }));
    let many = Image::new(layers).build().unwrap();
    let sha512 = Image::new(shell_with("sha512")).sha512().build().unwrap();
    let old = schema_1();
    let usual = busybox_image().unwrap();
    // No registry at hand stores schema 1 any more.
    let museum = Server::start("127.0.0.1:0", &[("old", "1", &old), ("usual", "1", &usual)], &[]).unwrap();
    let site = Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for (name, built) in
            [("many", &many), ("sha512", &sha512), ("arch", &build_named("multi-arch").unwrap())]
        {
            let target = Target::parse(&format!("{}/{name}:1", registry.authority)).unwrap();
            push(built, &target).unwrap();
        }
        let mut museum = local(&format!("http://{}", museum.authority()));
        museum.name = "museum".to_owned();
        vec![local(&registry.url), museum]
    });
    site.pull("alice", "local/many:1").success().unwrap();
    let seen = site.script("local/many:1", "ls /deep | wc -l; cat /deep/50 /deep/150");
    assert_eq!(seen, "200\n250\n150\n");

    site.pull("alice", "local/sha512:1").success().unwrap();
    assert_eq!(site.script("local/sha512:1", "cat /which"), "sha512");
    site.pull("alice", "local/arch:1").success().unwrap();

    let why = site.pull("alice", "museum/old:1").failure(1).unwrap();
    assert!(why.contains("schema 1") && why.contains("old"), "{why}");
    assert!(!site.image_files().iter().any(|name| name.contains(old.id())));
    site.pull("alice", "museum/usual:1").success().unwrap();
    site.finish();
}

/// What registries served before 2016.
fn schema_1() -> Built {
    let layer = digest_of(b"layer");
    let bytes = serde_json::to_vec_pretty(&json!({
        "schemaVersion": 1, "name": "old", "tag": "1", "architecture": "amd64",
        "fsLayers": [{"blobSum": layer}], "history": [{"v1Compatibility": "{}"}], "signatures": [],
    }))
    .unwrap();
    let top = digest_of(&bytes);
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned();
    let manifests = [(top.clone(), Manifest { media_type, bytes })].into();
    Built { blobs: [].into(), manifests, top }
}

#[test]
fn a_mirror_spares_the_registry_and_the_sites_policy_says_what_is_not_pulled() {
    let image = Image::new(shell_with("mirrored")).build().unwrap();
    let held = [("group/app", "1", &image), ("other/app", "1", &image)];
    let registry = Server::start("127.0.0.1:0", &held, &[]).unwrap();
    let mirror = Server::start("127.0.0.1:0", &held[..1], &[]).unwrap();
    let site = Site::with(|_| GatewayOptions {
        locations: vec![local(&format!("http://{}", registry.authority()))],
        of_locations: object(json!({"mirrors": [format!("http://{}", mirror.authority())]})),
        more: object(json!({"AllowImages": ["local/group/*"], "DenyImages": ["local/group/secret"]})),
    });
    site.pull("alice", "local/group/app:1").success().unwrap();
    assert_eq!(site.script("local/group/app:1", "cat /which"), "mirrored");
    assert_eq!(registry.requests(), ["HEAD /v2/group/app/manifests/1"]);
    assert_eq!(mirror.requests().len(), 3, "{:?}", mirror.requests());
    for refused in ["local/other/app:1", "local/group/secret:1", "docker.io/debian:12"] {
        let why = site.pull("alice", refused).failure(4).unwrap();
        assert!(why.contains("may not be pulled") && why.trim().lines().count() == 1, "{why}");
    }
    assert_eq!(registry.requests().len(), 1);
    site.finish();
}

fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}
