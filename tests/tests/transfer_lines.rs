//! Remote systems whose hosts stand in network namespaces of their own, and whose lines go down while images are sent:
//! nobody is told, as when a cable is pulled. What ends of connections do, told at once, is in `transfer`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::site::{Site, local, names, noise};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::{Built, Image, Layer, Server, digest_of, dir, file, shell_entries};
use shifter_tests::harness::{FarHost, GatewayOptions, Keys, Munged, Sandbox, SshdOptions};

const LENGTH: usize = 6_000_000;

/// An image of about so many bytes.
fn image(seed: u64) -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), file("noise", noise(LENGTH, seed))];
    entries.extend(shell_entries("bin").unwrap());
    Image::new(vec![Layer::new(entries)]).build().unwrap()
}

/// A remote system of two hosts.
struct Pair {
    name: String,
    hosts: [FarHost; 2],
    /// The `imageDir` on both. Pulls of one image into directories of one name wait for each other.
    directory: PathBuf,
    /// What it is on each.
    stores: [PathBuf; 2],
}

impl Pair {
    fn new(sandbox: &mut Sandbox, keys: &Keys, number: u8) -> Pair {
        let directory = sandbox.new_directory("far").unwrap();
        let stores = ["one", "two"].map(|name| sandbox.host_directory(name).unwrap());
        let hosts = [0, 1].map(|which: u8| {
            let mounts = vec![(directory.clone(), stores[usize::from(which)].clone())];
            let options = SshdOptions { mounts, ..SshdOptions::default() };
            sandbox.far_host(keys, 2 * number + which + 1, &options).unwrap()
        });
        Pair { name: format!("pair{number}"), hosts, directory, stores }
    }

    fn system(&self, munged: &Munged, keys: &Keys) -> Value {
        json!({
            "mungeSocketPath": munged.socket, "accesstype": "remote",
            "host": self.hosts.each_ref().map(|host| host.sshd.address.clone()),
            "ssh": {
                "username": "shifter", "key": keys.key, "imageDir": self.directory,
                "sshCmdOptions": [
                    "-p", keys.port.to_string(), "-o",
                    format!("UserKnownHostsFile={}", keys.known_hosts.display()),
                    "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "-o", "ConnectTimeout=2",
                ],
            },
        })
    }

    /// What must hold on both hosts at every moment.
    fn check(&self, id: &str, image: &[u8], is_ready: bool) {
        for store in &self.stores {
            match fs::read(store.join(format!("{id}.squashfs"))) {
                Ok(bytes) => assert_eq!(digest_of(&bytes), digest_of(image), "{}", store.display()),
                Err(_) => assert!(!is_ready && !store.join(format!("{id}.meta")).exists(), "{}", self.name),
            }
            if is_ready {
                assert_eq!(names(store), [format!("{id}.meta"), format!("{id}.squashfs")], "{}", self.name);
            }
        }
    }

    /// Takes the line of a host down as soon as so many bytes went to it.
    fn cut(&self, sandbox: &Sandbox, which: usize, before: u64, place: u64) {
        let begun = Instant::now();
        while self.hosts[which].carried().unwrap().0 < before + place {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} {place}", self.name);
            std::thread::sleep(Duration::from_micros(50));
        }
        self.hosts[which].set_line(sandbox, false).unwrap();
    }
}

/// One request for a pull: status, and what is said.
fn ask(site: &Site, system: &str, image: &str) -> (String, String) {
    let path = format!("/api/pull/{system}/docker/{}/", image.replace('/', "%2F").replace(':', "%3A"));
    let answer = site.sandbox.api(&site.gateway, &site.munged, "alice", ("POST", &path), b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("status_message"))
}

/// Asks until all have ended.
fn ends<'a>(site: &Site, systems: &[&'a str], image: &str) -> BTreeMap<&'a str, (String, String)> {
    let deadline = Instant::now() + Duration::from_secs(150);
    let mut ends = BTreeMap::new();
    while ends.len() < systems.len() {
        assert!(Instant::now() < deadline, "{ends:?}\n{}", site.sandbox.log(site.gateway.daemon));
        for system in systems {
            if !ends.contains_key(system) {
                let (status, why) = ask(site, system, image);
                if matches!(&*status, "READY" | "FAILURE") {
                    ends.insert(*system, (status, why));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    ends
}

/// A site with a local system, so many pairs of hosts, and images `local/x:1` and `local/x:2`.
fn site(pairs: u8, built: [&Built; 2]) -> (Site, Vec<Pair>, Server, [Vec<u8>; 2]) {
    let mut sandbox = Sandbox::new().unwrap();
    sandbox.own_network().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let pairs: Vec<Pair> = (0..pairs).map(|n| Pair::new(&mut sandbox, &keys, n)).collect();
    let server = Server::start("127.0.0.1:0", &[("x", "1", built[0]), ("x", "2", built[1])], &[]).unwrap();
    let mut systems = Map::new();
    let near = json!({
        "mungeSocketPath": munged.socket, "accesstype": "local", "local": {"imageDir": sandbox.images()},
    });
    systems.insert("testsystem".to_owned(), near);
    for pair in &pairs {
        systems.insert(pair.name.clone(), pair.system(&munged, &keys));
    }
    let more = json!({"Platforms": systems, "WorkerThreads": 40}).as_object().unwrap().clone();
    let locations = vec![local(&format!("http://{}", server.authority()))];
    let options = GatewayOptions { locations, more, ..GatewayOptions::default() };
    let gateway = sandbox.gateway(&munged, &options).unwrap();
    let site = Site { sandbox, munged, gateway };
    let images = [(built[0], "local/x:1"), (built[1], "local/x:2")].map(|(built, name)| {
        let ends = ends(&site, &["testsystem"], name);
        assert_eq!(ends["testsystem"].0, "READY", "{ends:?}");
        fs::read(site.gateway.images.join(format!("{}.squashfs", built.id()))).unwrap()
    });
    (site, pairs, server, images)
}

#[test]
fn a_line_that_goes_down_at_any_step_leaves_both_hosts_whole_and_the_next_pull_succeeds() {
    let built = [image(3), image(4)];
    let (site, pairs, _server, images) = site(9, [&built[0], &built[1]]);
    let (measured, pairs) = pairs.split_first().unwrap();
    // How many bytes go to each host, acknowledgements included; the first pull connects, as those that are cut do.
    let before = measured.hosts.each_ref().map(|host| host.carried().unwrap().0);
    assert_eq!(ends(&site, &[&measured.name], "local/x:1")[&*measured.name].0, "READY");
    let whole: Vec<u64> =
        measured.hosts.iter().zip(before).map(|(host, before)| host.carried().unwrap().0 - before).collect();
    assert!(whole.iter().all(|bytes| *bytes > LENGTH as u64), "{whole:?}");
    measured.check(built[0].id(), &images[0], true);

    // Greetings, data, and what follows the data on each host; `.meta` comes after both have the image.
    let tail = |which: usize, share: u64| whole[which] - (whole[which] - LENGTH as u64) * share / 100;
    let places: [(usize, u64); 8] = [
        (0, 1500),
        (0, 100_000),
        (0, 3_000_000),
        (0, tail(0, 12)),
        (1, 3000),
        (1, 4_000_000),
        (1, tail(1, 12)),
        (1, tail(1, 4)),
    ];
    assert_eq!(pairs.len(), places.len());
    // One after the other, for the machine must be quick enough to hit the place.
    for (pair, (which, place)) in pairs.iter().zip(places) {
        let before = pair.hosts[which].carried().unwrap().0;
        ask(&site, &pair.name, "local/x:1");
        pair.cut(&site.sandbox, which, before, place);
    }
    let systems: Vec<&str> = pairs.iter().map(|pair| &*pair.name).collect();
    let ended = ends(&site, &systems, "local/x:1");
    let mut failed = 0;
    for (pair, (which, place)) in pairs.iter().zip(places) {
        let (status, why) = &ended[&*pair.name];
        let is_ready = status == "READY";
        if !is_ready {
            failed += 1;
            assert!(why.contains(&format!("host {}: ", pair.hosts[which].sshd.address)), "{place}: {why}");
        }
        pair.check(built[0].id(), &images[0], is_ready);
        pair.hosts[which].set_line(&site.sandbox, true).unwrap();
    }
    // Of the last places, the answer may have come just before.
    assert!(failed >= 6, "{ended:?}");
    for (name, (status, why)) in ends(&site, &systems, "local/x:1") {
        assert_eq!(status, "READY", "{name}: {why}");
    }
    for pair in pairs {
        pair.check(built[0].id(), &images[0], true);
    }

    // Down for a while only: nobody has to ask again, and what was sent is not sent again.
    let host = &measured.hosts[1];
    let before = host.carried().unwrap().0;
    ask(&site, &measured.name, "local/x:2");
    measured.cut(&site.sandbox, 1, before, 4_000_000);
    std::thread::sleep(Duration::from_secs(4));
    host.set_line(&site.sandbox, true).unwrap();
    let ended = ends(&site, &[&measured.name], "local/x:2");
    assert_eq!(ended[&*measured.name].0, "READY", "{ended:?}");
    let sent = host.carried().unwrap().0 - before;
    assert!(sent < LENGTH as u64 + 3_000_000, "{sent}");
    for store in &measured.stores {
        let bytes = fs::read(store.join(format!("{}.squashfs", built[1].id()))).unwrap();
        assert_eq!(digest_of(&bytes), digest_of(&images[1]));
    }
    site.finish();
}
