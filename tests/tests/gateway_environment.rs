//! The variables of the original that change what the gateway does: GWCONFIG, ENABLE_LABELS, DISABLE_ACL_METADATA.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::operated::{Operated as _, image};
use common::site::{Site, local, names};
use serde_json::json;
use shifter_tests::fixture::{Built, Config, Image, Layer, Target, dir, file, push, shell_entries};
use shifter_tests::harness::{Location, RegistryOptions};

fn labelled() -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), file("etc/word", "open")];
    entries.extend(shell_entries("bin").unwrap());
    let labels = vec![("who".to_owned(), "me".to_owned())];
    Image { config: Config { labels, ..Config::default() }, ..Image::new(vec![Layer::new(entries)]) }
        .build()
        .unwrap()
}

/// Everybody's `open` and, of a registry with a password, `closed`.
fn site(open: &Built, closed: &Built) -> Site {
    Site::new(|sandbox| {
        let public = sandbox.registry(RegistryOptions::default()).unwrap();
        sandbox.push(&public, open, "open", "1").unwrap();
        let login = Some(("ada", "word"));
        let private = sandbox.registry(RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
        let target = Target::parse(&format!("{}/closed:1", private.authority)).unwrap();
        push(closed, &Target { login: Some(("ada".to_owned(), "word".to_owned())), ..target }).unwrap();
        vec![local(&public.url), Location { name: "private".to_owned(), url: private.url, ca: None }]
    })
}

#[test]
fn variables_of_the_original_count_and_open_no_private_image_when_the_catalog_is_lost_under_them() {
    let (open, closed) = (labelled(), image("closed"));
    let mut site = site(&open, &closed);
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let config = site.gateway.config.display().to_string();
    site.gateway.environment =
        [("GWCONFIG", config.as_str()), ("ENABLE_LABELS", "1"), ("DISABLE_ACL_METADATA", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    site.sandbox.restart(&mut site.gateway).unwrap();
    assert!(site.log().contains("DISABLE_ACL_METADATA is set"), "{}", site.log());
    site.store_password("alice", "private", "ada:word");
    site.pull("alice", "local/open:1").success().unwrap();
    site.pull("alice", "private/closed:1").success().unwrap();
    let labels: Vec<_> =
        site.listed("bob")["list"].as_array().unwrap().iter().map(|one| one["LABELS"].clone()).collect();
    assert_eq!(labels, [json!({"who": "me"})], "ENABLE_LABELS");

    // Nodes are not told, and read past what is there for others.
    let meta = |site: &Site, built: &Built| fs::read_to_string(site.file(built, "meta")).unwrap();
    let said = |text: &str| text.lines().any(|line| line.starts_with("#shifter1-acl "));
    let (of_open, of_closed) = (meta(&site, &open), meta(&site, &closed));
    assert!(!of_closed.contains("ACL: ") && said(&of_closed) && !said(&of_open), "{of_open}{of_closed}");
    let run = |site: &Site, built: &Built| {
        let image = format!("--image=id:{}", built.id());
        site.sandbox.user("bob").unwrap().run(&["shifter", &image, "cat", "/etc/word"]).unwrap()
    };
    assert_eq!(run(&site, &closed).success().unwrap(), "closed");

    let lose = |site: &mut Site| {
        site.sandbox.stop(site.gateway.daemon).unwrap();
        for name in names(&site.gateway.state).iter().filter(|name| name.starts_with("images.db")) {
            fs::remove_file(site.gateway.state.join(name)).unwrap();
        }
        site.sandbox.restart(&mut site.gateway).unwrap();
    };
    // By the gateway that has the variables; by an administrator who has not; by a gateway that was started without.
    for (what, is_served, is_set) in
        [("served", true, true), ("by hand", false, true), ("unset", true, false)]
    {
        if !is_set {
            site.gateway.environment.clear();
        }
        lose(&mut site);
        if !is_served {
            site.sandbox.stop(site.gateway.daemon).unwrap();
        }
        let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
        let words = [program.as_str(), "reconcile", "--rebuild"];
        // Its account's; which configuration, the variable says.
        let account = site.sandbox.user("gateway").unwrap().env("GWCONFIG", &config);
        let out = account.run(&words).unwrap();
        assert!(out.out().contains("entered") && out.status.success(), "{what}: {}", out.describe());
        if !is_served {
            site.sandbox.restart(&mut site.gateway).unwrap();
        }
        for user in ["alice", "bob"] {
            let seen = site.shifterimg(user, &["images"]).success().unwrap();
            assert!(!seen.contains(closed.id()), "{what}: {user}: {seen}");
            // Who has the variable cannot tell what is everybody's from what an earlier version wrote.
            assert_eq!(seen.contains(open.id()), !(is_served && is_set), "{what}: {user}: {seen}");
        }
    }
    // Without the variable nodes are told again, and nobody has earned it since.
    site.command(&["reconcile", "--fix"]).success().unwrap();
    assert_eq!(run(&site, &open).success().unwrap(), "open");
    assert!(!run(&site, &closed).status.success(), "{}", meta(&site, &closed));
    site.pull("alice", "private/closed:1").success().unwrap();
    assert_eq!(site.run("alice", "private/closed:1", &["cat", "/etc/word"]).success().unwrap(), "closed");
    assert!(!run(&site, &closed).status.success());
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}
