//! Who may use which image, through every way to it: list, lookup, pull, queue, record and runtime, with real
//! credentials.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::shell_image;
use common::site::{Site, local};
use serde_json::Value;
use shifter_tests::fixture::{Built, Image, Layer, file};
use shifter_tests::harness::{GatewayOptions, RegistryOptions};

const LOGIN: (&str, &str) = ("ada", "pass:word");

/// The pulls whose order must not matter: who, which tag, and for whom beside themselves.
const PULLS: [(&str, &str, &str); 3] =
    [("alice", "closed/NAME:1", ""), ("bob", "closed/NAME:2", "carol"), ("bob", "open/NAME:1", "")];

/// Who may use a tag once it was pulled.
fn readers(tag: &str) -> &'static [&'static str] {
    match (tag.starts_with("open"), tag.ends_with(":1")) {
        (true, _) => &["alice", "bob", "carol"],
        (false, true) => &["alice"],
        (false, false) => &["bob", "carol"],
    }
}

fn image(name: &str) -> Built {
    let mut entries = shell_image();
    entries.push(file("etc/which", name));
    Image::new(vec![Layer::new(entries)]).build().unwrap()
}

/// A site with one registry, where all below `open` is everybody's and all below `closed` wants a password.
fn site_with(names: &[&str], options: GatewayOptions) -> (Site, Vec<Built>) {
    let built: Vec<Built> = names.iter().map(|name| image(name)).collect();
    let site = Site::with(|sandbox| {
        let tokens = sandbox.token_service(&[LOGIN]).unwrap();
        let registry = RegistryOptions { tokens: Some(&tokens), ..RegistryOptions::default() };
        let registry = sandbox.registry(registry).unwrap();
        for (name, built) in names.iter().zip(&built) {
            for tag in PULLS.map(|(_, tag, _)| tag.replace("NAME", name)) {
                let (repository, tag) = tag.split_once(':').unwrap();
                sandbox.push(&registry, built, repository, tag).unwrap();
            }
        }
        GatewayOptions { locations: vec![local(&registry.url)], ..options }
    });
    for user in ["alice", "bob"] {
        site.store_password(user, "local", &format!("{}:{}", LOGIN.0, LOGIN.1));
    }
    (site, built)
}

/// What the API says to a user's request.
fn ask(site: &Site, user: &str, method: &str, route: &str) -> (u16, Value) {
    let answer = site.sandbox.api(&site.gateway, &site.munged, user, (method, route), b"").unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn route(verb: &str, tag: &str) -> String {
    format!("/api/{verb}/testsystem/docker/{}/", tag.replace('/', "%2F").replace(':', "%3A"))
}

fn tags_listed(site: &Site, user: &str, name: &str) -> Vec<String> {
    let list = site.listed(user);
    let images = list["list"].as_array().unwrap().iter();
    let tags = images.flat_map(|image| image["tag"].as_array().unwrap());
    let mut tags: Vec<String> = tags.map(|tag| tag.as_str().unwrap().to_owned()).collect();
    tags.retain(|tag| tag.contains(name));
    tags.sort();
    tags
}

/// Everything that must hold after these pulls of one image.
fn check(site: &Site, name: &str, built: &Built, done: &[usize]) {
    let pulled: Vec<String> = done.iter().map(|which| PULLS[*which].1.replace("NAME", name)).collect();
    let all = PULLS.map(|(_, tag, _)| tag.replace("NAME", name));
    for user in ["alice", "bob", "carol"] {
        let what = format!("{user} after {pulled:?}");
        let may = |tag: &String| pulled.contains(tag) && readers(tag).contains(&user);
        let mut expected: Vec<String> = all.iter().filter(|tag| may(tag)).cloned().collect();
        expected.sort();
        assert_eq!(tags_listed(site, user, name), expected, "list, {what}");
        for tag in &all {
            let (status, found) = ask(site, user, "GET", &route("lookup", tag));
            assert_eq!(status == 200, may(tag), "lookup of {tag}, {what}: {found}");
            let text = found.to_string();
            assert!(may(tag) || !text.contains(built.id()), "{text}");
            let may_run = site.run(user, tag, &["cat", "/etc/which"]);
            assert_eq!(may_run.status.success(), may(tag), "run of {tag}, {what}: {}", may_run.describe());
        }
        // By identifier, the record decides, which knows the image and not the tag.
        let by_id = [&format!("--image=id:{}", built.id()), "true"].map(String::from);
        let started = site.sandbox.user(user).unwrap().run(&["shifter", &by_id[0], &by_id[1]]).unwrap();
        let is_named = all.iter().any(may);
        assert_eq!(started.status.success(), is_named, "run by id, {what}: {}", started.describe());
    }
    let record = site.gateway.images.join(format!("{}.meta", built.id()));
    let record = std::fs::read_to_string(record).unwrap();
    let ids: Vec<&str> = [("alice", "4201"), ("bob", "4202"), ("carol", "4203")]
        .iter()
        .filter(|(user, _)| pulled.iter().any(|tag| readers(tag).contains(user)))
        .map(|(_, id)| *id)
        .collect();
    let is_public = pulled.iter().any(|tag| tag.starts_with("open"));
    let list = format!("USERACL: {}\n", ids.join(","));
    assert_eq!(record.contains(&list), !is_public, "{record}");
    assert_eq!(record.contains("ACL"), !is_public, "{record}");
}

#[test]
fn one_image_pulled_publicly_and_privately_under_several_tags_in_every_order_obeys_each_tags_rule() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let names = ["order0", "order1", "order2", "order3", "order4", "order5"];
    let (site, built) = site_with(&names, GatewayOptions::default());
    for ((order, name), built) in orders.iter().zip(names).zip(&built) {
        for (position, which) in order.iter().enumerate() {
            let (user, tag, other) = PULLS[*which];
            let tag = format!("docker:{}", tag.replace("NAME", name));
            let words: &[&str] =
                if other.is_empty() { &["pull", &tag] } else { &["--user", other, "pull", &tag] };
            site.shifterimg(user, words).success().unwrap();
            check(&site, name, built, &order[..=position]);
        }
        // Who has no password is refused by the registry, and told nothing of those who have one.
        let tag = format!("closed/{name}:1");
        let (status, why) = site.end_of_pull("carol", &tag);
        assert_eq!(status, "FAILURE", "{why}");
        assert!(!why.contains(built.id()) && !why.contains("4201"), "{why}");
        check(&site, name, built, order);
    }
    site.finish();
}

#[test]
fn the_gateway_hears_of_no_one_without_a_credential_and_decisions_are_in_the_audit_log() {
    let audit = |options: &mut GatewayOptions, value: &str| {
        options.more.insert("AuditLog".to_owned(), value.into());
    };
    let mut options = GatewayOptions::default();
    // The gateway's own directory: it exists before the gateway starts, and belongs to its account.
    let path = "/home/gateway/audit.log";
    audit(&mut options, path);
    let (mut site, built) = site_with(&["x"], options);
    site.pull("alice", "closed/x:1").success().unwrap();
    ask(&site, "carol", "GET", &route("lookup", "closed/x:1"));
    site.shifterimg("alice", &["lookup", "docker:closed/x:1"]).success().unwrap();
    site.pull("carol", "closed/x:1").failure(4).unwrap();
    for (method, route) in [
        ("GET", "/api/list/testsystem/".to_owned()),
        ("GET", route("lookup", "closed/x:1")),
        ("GET", "/api/queue/testsystem/".to_owned()),
        ("POST", route("pull", "open/x:1")),
        ("DELETE", route("pull", "open/x:1")),
        ("POST", "/api/login/testsystem/".to_owned()),
    ] {
        let answer =
            shifter_tests::fixture::request(&site.gateway.authority, method, &route, &[], b"").unwrap();
        assert_eq!(answer.status, 401, "{method} {route}");
        assert!(answer.text().contains("AllowAnonymousReads"), "{}", answer.text());
    }
    // Rotated: the next line is in a new file.
    std::fs::rename(path, format!("{path}.1")).unwrap();
    ask(&site, "bob", "GET", "/api/list/testsystem/");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let lines = |path: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let told = lines(&format!("{path}.1"));
    let has = |action: &str, uid: Option<u64>, allowed: bool| {
        told.iter().any(|line| {
            line["action"] == action
                && line["uid"].as_u64() == uid
                && line["allowed"] == allowed
                && (line["digest"] == built[0].id() || uid.is_none() || action == "pull" || action == "grant")
        })
    };
    assert!(has("grant", Some(4201), true), "{told:#?}");
    assert!(has("lookup", Some(4201), true), "{told:#?}");
    assert!(has("lookup", Some(4203), false), "the log knows what the caller is not told: {told:#?}");
    assert!(has("grant", Some(4203), false), "{told:#?}");
    assert!(has("list", None, false), "{told:#?}");
    let after = lines(path);
    assert!(after.iter().any(|line| line["action"] == "list" && line["uid"] == 4202), "{after:#?}");
    for file in [path.to_owned(), format!("{path}.1")] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{file}");
        assert!(!std::fs::read_to_string(&file).unwrap().contains("pass:word"));
    }
    site.finish();
}
