//! Remote systems, end to end: images reach every host by a real ssh and a real sshd, whole or not at all, whatever
//! happens on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::site::{Site, local, names, noise};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::{
    Built, Image, Layer, Line, Server, Wire, busybox_image, digest_of, dir, file, shell_entries,
};
use shifter_tests::harness::{GatewayOptions, Keys, Munged, Sandbox, SshdOptions};

/// An image whose data takes about this many bytes, with a shell.
fn big(length: usize, seed: u64) -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), file("noise", noise(length, seed))];
    entries.extend(shell_entries("bin").unwrap());
    Image::new(vec![Layer::new(entries)]).build().unwrap()
}

/// A remote system's section.
fn system(munged: &Munged, keys: &Keys, hosts: &[&str], port: u16, directory: &Path) -> Value {
    json!({
        "mungeSocketPath": munged.socket, "accesstype": "remote", "admins": ["root"], "host": hosts,
        "ssh": {
            "username": "shifter", "key": keys.key, "imageDir": directory,
            "sshCmdOptions": [
                "-p", port.to_string(), "-o", format!("UserKnownHostsFile={}", keys.known_hosts.display()),
            ],
        },
    })
}

/// Changes a section's `ssh`.
fn with(mut section: Value, key: &str, value: Value) -> Value {
    section["ssh"][key] = value;
    section
}

/// With an ssh that finds a dead line within seconds.
fn impatient(section: Value) -> Value {
    let mut options = section["ssh"]["sshCmdOptions"].as_array().unwrap().clone();
    options.extend(["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"].map(Value::from));
    with(section, "sshCmdOptions", options.into())
}

fn site(mut sandbox: Sandbox, munged: Munged, server: &Server, systems: Map<String, Value>) -> Site {
    let more = json!({"Platforms": systems, "WorkerThreads": 40}).as_object().unwrap().clone();
    let locations = vec![local(&format!("http://{}", server.authority()))];
    let options = GatewayOptions { locations, more, ..GatewayOptions::default() };
    let gateway = sandbox.gateway(&munged, &options).unwrap();
    Site { sandbox, munged, gateway }
}

/// One request for a pull on a system.
fn ask(site: &Site, system: &str, image: &str) -> Value {
    let path = format!("/api/pull/{system}/docker/{}/", image.replace('/', "%2F").replace(':', "%3A"));
    let answer = site.sandbox.api(&site.gateway, &site.munged, "alice", ("POST", &path), b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Pulls on all of these systems at the same time: how each ended, and what was said.
fn pull_on(site: &Site, systems: &[String], image: &str) -> BTreeMap<String, (String, String)> {
    let deadline = Instant::now() + Duration::from_secs(150);
    let mut ends = BTreeMap::new();
    for system in systems {
        ask(site, system, image);
    }
    while ends.len() < systems.len() {
        assert!(Instant::now() < deadline, "{ends:?}\n{}", site.sandbox.log(site.gateway.daemon));
        std::thread::sleep(Duration::from_millis(400));
        for system in systems {
            if ends.contains_key(system) {
                continue;
            }
            let record = ask(site, system, image);
            let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
            if matches!(record["status"].as_str(), Some("READY" | "FAILURE")) {
                ends.insert(system.clone(), (text("status"), text("status_message")));
            }
        }
    }
    ends
}

/// What must hold in an image directory at every moment: what has an image's name is the whole image, and what
/// promises it is not without.
fn check_whole(directory: &Path, id: &str, image: &[u8]) {
    let path = directory.join(format!("{id}.squashfs"));
    match fs::read(&path) {
        Ok(bytes) => assert_eq!(digest_of(&bytes), digest_of(image), "{}", path.display()),
        Err(_) => assert!(!directory.join(format!("{id}.meta")).exists(), "{}", directory.display()),
    }
}

fn is_partial(name: &str) -> bool {
    name.contains(".partial.")
}

/// An image as a local system of the same gateway has it.
fn made_locally(site: &Site, image: &str, id: &str) -> Vec<u8> {
    let ends = pull_on(site, &["testsystem".to_owned()], image);
    assert_eq!(ends["testsystem"].0, "READY", "{ends:?}");
    fs::read(site.gateway.images.join(format!("{id}.squashfs"))).unwrap()
}

fn local_system(sandbox: &Sandbox, munged: &Munged) -> Value {
    json!({
        "mungeSocketPath": munged.socket, "accesstype": "local",
        "local": {"imageDir": sandbox.images()},
    })
}

#[test]
fn every_host_of_a_remote_system_gets_the_image_beside_a_local_system_with_another_munge_key() {
    let mut sandbox = Sandbox::new().unwrap();
    let near = sandbox.munged("near").unwrap();
    let far = sandbox.munged("far").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    // A name that a shell would take for other things.
    let place = sandbox.new_directory("far").unwrap().join("it's a \"place\" $(x) * \\ !");
    fs::create_dir(&place).unwrap();
    let stores: Vec<PathBuf> = ["one", "two"].map(|name| sandbox.host_directory(name).unwrap()).into();
    for (number, store) in (2..).zip(&stores) {
        // mount(8) is given names by a shell.
        let link = sandbox.new_directory("link").unwrap().join("place");
        std::os::unix::fs::symlink(&place, &link).unwrap();
        let options = SshdOptions { mounts: vec![(link, store.clone())], ..SshdOptions::default() };
        sandbox.sshd(&keys, number, &options).unwrap();
    }
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built), ("x", "2", &built)], &[]).unwrap();
    let section = system(&far, &keys, &["127.0.0.2", "127.0.0.3"], keys.port, &place);
    let systems = json!({"testsystem": local_system(&sandbox, &near), "far": section});
    let site = site(sandbox, near, &server, systems.as_object().unwrap().clone());
    let image = made_locally(&site, "local/x:1", built.id());

    let request = ("POST", "/api/pull/far/docker/local%2Fx%3A1/");
    let answer = |munged: &Munged| site.sandbox.api(&site.gateway, munged, "alice", request, b"").unwrap();
    assert_eq!(answer(&site.munged).status, 401, "another system's key");
    let pull = || {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let record: Value = serde_json::from_slice(&answer(&far).body).unwrap();
            match record["status"].as_str() {
                Some("READY") => break,
                Some("FAILURE") => panic!("{record}"),
                // Who asks more often than clients do hears of one end twice.
                _ => std::thread::sleep(Duration::from_millis(400)),
            }
            assert!(Instant::now() < deadline, "{record}\n{}", site.sandbox.log(site.gateway.daemon));
        }
    };
    pull();
    let id = built.id();
    let wanted = [format!("{id}.meta"), format!("{id}.squashfs")];
    let meta = fs::read(site.gateway.images.join(&wanted[0])).unwrap();
    let check = || {
        for store in &stores {
            assert_eq!(names(store), wanted);
            for (name, content) in wanted.iter().zip([&meta, &image]) {
                let found = fs::metadata(store.join(name)).unwrap();
                assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, 4212), "{name}");
                assert_eq!(&fs::read(store.join(name)).unwrap(), content, "{name}");
            }
        }
    };
    check();
    assert_eq!(site.expansions(), ["ssh"], "the local copy is gone");

    // What somebody broke on one host is put right by the next pull.
    for (broken, name) in [(None, &wanted[1]), (Some("FORMAT: squashfs\nUSERACL: 1\n"), &wanted[0])] {
        let path = stores[1].join(name);
        match broken {
            None => fs::remove_file(&path).unwrap(),
            Some(text) => fs::write(&path, text).unwrap(),
        }
        pull();
        check();
    }
    site.finish();
}

#[test]
fn users_of_a_remote_system_run_what_was_sent_there() {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    sandbox.sshd(&keys, 2, &SshdOptions::default()).unwrap();
    let images = sandbox.images();
    let built = big(50_000, 1);
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let systems = json!({"testsystem": system(&munged, &keys, &["127.0.0.2"], keys.port, &images)});
    let site = site(sandbox, munged, &server, systems.as_object().unwrap().clone());
    site.sandbox.give_to_host(&images).unwrap();
    site.pull("alice", "local/x:1").success().unwrap();
    assert_eq!(site.script("local/x:1", "echo served; id -u"), "served\n4201\n");
    site.finish();
}

#[test]
fn a_connection_that_breaks_at_any_step_publishes_nothing_by_halves_and_the_next_pull_succeeds() {
    const LENGTH: usize = 2_500_000;
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    sandbox.sshd(&keys, 2, &SshdOptions::default()).unwrap();
    let built = big(LENGTH, 7);
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let mut systems = Map::new();
    systems.insert("testsystem".to_owned(), local_system(&sandbox, &munged));
    let start = |sandbox: &mut Sandbox, name: &str, systems: &mut Map<String, Value>| {
        let wire = Wire::start(&format!("127.0.0.2:{}", keys.port)).unwrap();
        let store = sandbox.host_directory(name).unwrap();
        systems.insert(name.to_owned(), system(&munged, &keys, &["127.0.0.1"], wire.port, &store));
        (name.to_owned(), wire, store)
    };
    let measured = start(&mut sandbox, "measured", &mut systems);
    let lines: Vec<_> = (0..24).map(|n| start(&mut sandbox, &format!("cut{n:02}"), &mut systems)).collect();
    let site = site(sandbox, munged, &server, systems);
    let image = made_locally(&site, "local/x:1", built.id());
    let ends = pull_on(&site, std::slice::from_ref(&measured.0), "local/x:1");
    assert_eq!(ends["measured"].0, "READY", "{ends:?}");
    let whole = measured.1.carried();
    assert!(whole > LENGTH as u64);

    // From the first byte on; through the greetings; through the data; and what follows it, step by step.
    let tail = whole - LENGTH as u64;
    let places: Vec<u64> = [0, 100, 1500, 2500, 3500, 5000, 20_000, 600_000, 1_300_000, 2_000_000]
        .into_iter()
        .chain((0..14).map(|n| whole - (tail.min(9000) * n / 13)))
        .collect();
    for ((_, wire, _), place) in lines.iter().zip(&places) {
        wire.order(Line::CutAndRefuse(*place));
    }
    let names_of: Vec<String> = lines.iter().map(|(name, ..)| name.clone()).collect();
    let ends = pull_on(&site, &names_of, "local/x:1");
    let mut failed = 0;
    for ((name, wire, store), place) in lines.iter().zip(&places) {
        check_whole(store, built.id(), &image);
        let (status, why) = &ends[name];
        // The last places may lie behind the end.
        if wire.broken() > 0 && status == "FAILURE" {
            failed += 1;
            assert!(why.contains("host 127.0.0.1: ") && why.contains("ssh"), "{place}: {why}");
        } else {
            assert_eq!(status, "READY", "{place}: {why}");
            assert!(store.join(format!("{}.meta", built.id())).exists());
        }
    }
    assert!(failed >= 15, "{failed} of {}: {ends:?}", lines.len());

    for (_, wire, _) in &lines {
        wire.order(Line::Whole);
    }
    let ends = pull_on(&site, &names_of, "local/x:1");
    for (name, _, store) in &lines {
        assert_eq!(ends[name].0, "READY", "{ends:?}");
        check_whole(store, built.id(), &image);
        assert_eq!(names(store).len(), 2, "{name}: {:?}", names(store));
    }
    drop(lines);
    site.finish();
}

#[test]
fn what_was_sent_before_a_connection_broke_or_fell_silent_is_not_sent_again() {
    const LENGTH: usize = 12_000_000;
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    sandbox.sshd(&keys, 2, &SshdOptions::default()).unwrap();
    let built = big(LENGTH, 9);
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let wires: Vec<Wire> =
        (0..3).map(|_| Wire::start(&format!("127.0.0.2:{}", keys.port)).unwrap()).collect();
    let stores: Vec<PathBuf> =
        (0..3).map(|n| sandbox.host_directory(&format!("store{n}")).unwrap()).collect();
    let mut systems = Map::new();
    for ((name, wire), store) in ["each", "once", "silent"].iter().zip(&wires).zip(&stores) {
        let section = system(&munged, &keys, &["127.0.0.1"], wire.port, store);
        systems.insert((*name).to_owned(), impatient(section));
    }
    systems.insert("testsystem".to_owned(), local_system(&sandbox, &munged));
    let site = site(sandbox, munged, &server, systems);
    let image = made_locally(&site, "local/x:1", built.id());
    wires[0].order(Line::CutEach(3_000_000));
    wires[1].order(Line::CutOnce(6_000_000));
    wires[2].order(Line::Silence(6_000_000));
    ask(&site, "silent", "local/x:1");
    let begun = Instant::now();
    while wires[2].broken() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", site.sandbox.log(site.gateway.daemon));
        std::thread::sleep(Duration::from_millis(20));
    }
    wires[2].order(Line::Whole);
    let systems = ["each", "once", "silent"].map(str::to_owned);
    let ends = pull_on(&site, &systems, "local/x:1");
    assert!(ends.values().all(|(status, _)| status == "READY"), "{ends:?}");
    assert!(wires.iter().all(|wire| wire.broken() > 0));
    for (store, wire) in stores.iter().zip(&wires) {
        check_whole(store, built.id(), &image);
        assert_eq!(names(store).len(), 2, "{:?}", names(store));
        // At most 2 MiB under way are lost with each connection.
        let lost = wire.broken() * (2_200_000 + 50_000);
        let carried = wire.carried();
        assert!(carried < image.len() as u64 + lost + 200_000, "{carried} {}", wire.broken());
    }
    site.finish();
}

#[test]
fn a_gateway_killed_while_it_sends_goes_on_where_it_was_and_leftovers_of_others_are_removed() {
    const LENGTH: usize = 30_000_000;
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    sandbox.sshd(&keys, 2, &SshdOptions::default()).unwrap();
    let built = big(LENGTH, 11);
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let wire = Wire::start(&format!("127.0.0.2:{}", keys.port)).unwrap();
    let store = sandbox.host_directory("store").unwrap();
    // An ssh whose gateway is gone ends when it finds its line dead.
    let far = impatient(system(&munged, &keys, &["127.0.0.1"], wire.port, &store));
    let systems = json!({"far": far, "testsystem": local_system(&sandbox, &munged)});
    let mut site = site(sandbox, munged, &server, systems.as_object().unwrap().clone());
    let image = made_locally(&site, "local/x:1", built.id());
    let left = |name: &str, age: &str| {
        let path = store.join(name);
        fs::write(&path, "left").unwrap();
        let path = path.display().to_string();
        site.sandbox.give_to_host(Path::new(&path)).unwrap();
        site.sandbox.root().run(&["touch", "-d", age, &path]).unwrap().success().unwrap();
    };
    let part = |digit: &str| format!(".{}.partial.{}", digit.repeat(64), digit.repeat(16));
    left(&part("a"), "2 hours ago");
    left(&part("b"), "30 minutes ago");
    left("notes.partial.txt", "2 years ago");

    wire.order(Line::Silence(15_000_000));
    ask(&site, "far", "local/x:1");
    let begun = Instant::now();
    while wire.broken() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", site.sandbox.log(site.gateway.daemon));
        std::thread::sleep(Duration::from_millis(20));
    }
    site.sandbox.kill(site.gateway.daemon).unwrap();
    assert!(names(&store).iter().any(|name| is_partial(name) && name.contains(built.id())));
    check_whole(&store, built.id(), &image);
    wire.order(Line::Whole);
    let before = wire.carried();
    site.sandbox.restart(&mut site.gateway).unwrap();
    let ends = pull_on(&site, &["far".to_owned()], "local/x:1");
    assert_eq!(ends["far"].0, "READY", "{ends:?}");
    check_whole(&store, built.id(), &image);
    let sent = wire.carried() - before;
    assert!(sent < 22_000_000, "{sent}");
    let id = built.id();
    let mut expected =
        vec![part("b"), "notes.partial.txt".to_owned(), format!("{id}.meta"), format!("{id}.squashfs")];
    expected.sort();
    assert_eq!(names(&store), expected);
    // No socket of the dead one's stays, nor any of the living one's after its end.
    let sockets = site.gateway.state.join("expand/ssh");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let begun = Instant::now();
    while !names(&sockets).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", names(&sockets));
        std::thread::sleep(Duration::from_millis(20));
    }
    site.finish();
}

#[test]
fn what_a_person_must_put_right_is_said_with_the_host_s_name_and_leaves_nothing() {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let built = big(2_000_000, 3);
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let store = sandbox.host_directory("store").unwrap();
    let foreign = sandbox.new_directory("foreign").unwrap();
    let disk = sandbox.small_disk(1200).unwrap();
    sandbox.give_to_host(&disk).unwrap();
    // It sees what is mounted now.
    sandbox.sshd(&keys, 2, &SshdOptions::default()).unwrap();
    let none = sandbox.new_directory("none").unwrap().join("none");
    let other_hosts = none.with_file_name("known_hosts");
    let known = fs::read_to_string(&keys.known_hosts).unwrap();
    // The key of somebody else.
    let public = fs::read_to_string(keys.stranger.with_extension("pub")).unwrap();
    fs::write(&other_hosts, format!("{} {public}", known.split(' ').next().unwrap())).unwrap();
    let usual = || system(&munged, &keys, &["127.0.0.2"], keys.port, &store);
    let options = |words: &[&str]| {
        let mut all = vec!["-p".to_owned(), keys.port.to_string()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        json!(all)
    };
    let other = format!("UserKnownHostsFile={}", other_hosts.display());
    let hosts = |names: &[&str]| {
        let mut section = usual();
        section["host"] = json!(names);
        section
    };
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "otherkey",
            with(usual(), "sshCmdOptions", options(&["-o", &other])),
            "Host key verification failed",
        ),
        ("stranger", with(usual(), "key", json!(keys.stranger)), "Permission denied (publickey)"),
        ("down", hosts(&["127.0.0.2", "127.0.0.9"]), "host 127.0.0.9: connecting failed: ssh says: "),
        ("nodir", with(usual(), "imageDir", json!(none)), "is not a directory there; create it"),
        ("foreign", with(usual(), "imageDir", json!(foreign)), "permission denied"),
        ("full", with(usual(), "imageDir", json!(disk)), "no space is left in"),
    ];
    let mut systems = Map::new();
    systems.insert("testsystem".to_owned(), local_system(&sandbox, &munged));
    for (name, section, _) in &cases {
        systems.insert((*name).to_owned(), section.clone());
    }
    let site = site(sandbox, munged, &server, systems);
    let all: Vec<String> = cases.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let ends = pull_on(&site, &all, "local/x:1");
    for (name, _, expected) in &cases {
        let (status, why) = &ends[*name];
        assert_eq!(status, "FAILURE", "{name}");
        assert!(why.contains(expected) && why.contains("host 127.0.0."), "{name}: {why}");
    }
    for place in [&foreign, &disk] {
        assert_eq!(names(place), [""; 0]);
    }
    assert!(names(&store).iter().all(|name| !name.ends_with(".meta")), "{:?}", names(&store));
    assert_eq!(site.expansions(), ["ssh"]);
    // Nobody else's pulls were harmed.
    made_locally(&site, "local/x:1", built.id());
    let log = site.sandbox.log(site.gateway.daemon);
    assert!(log.contains("no image can be published for this system now"), "{log}");
    site.sandbox.remove_disk(&disk).unwrap();
    site.finish();
}

#[test]
fn accounts_that_may_only_transfer_files_and_hosts_without_sha256sum_serve_as_well() {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let built = big(3_000_000, 5);
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let empty = sandbox.new_directory("empty").unwrap().display().to_string();
    let mut systems = Map::new();
    systems.insert("testsystem".to_owned(), local_system(&sandbox, &munged));
    let mut stores = Vec::new();
    for (number, config) in [
        (2, "ForceCommand internal-sftp".to_owned()),
        (3, format!("SetEnv PATH={empty}")),
        (4, "MaxSessions 1".to_owned()),
    ] {
        sandbox.sshd(&keys, number, &SshdOptions { config, ..SshdOptions::default() }).unwrap();
        let store = sandbox.host_directory("store").unwrap();
        let host = format!("127.0.0.{number}");
        systems.insert(format!("s{number}"), system(&munged, &keys, &[&host], keys.port, &store));
        stores.push(store);
    }
    let site = site(sandbox, munged, &server, systems);
    let image = made_locally(&site, "local/x:1", built.id());
    let ends = pull_on(&site, &["s2", "s3", "s4"].map(str::to_owned), "local/x:1");
    assert!(ends.values().all(|(status, _)| status == "READY"), "{ends:?}");
    for store in &stores {
        check_whole(store, built.id(), &image);
        assert_eq!(names(store).len(), 2);
        let mode = fs::metadata(store.join(format!("{}.squashfs", built.id()))).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    site.finish();
}
