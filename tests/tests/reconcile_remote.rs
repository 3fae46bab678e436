//! `reconcile` on a remote system: what is looked at and settled over the gateway's own connections, host by host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::site::{Site, local, names};
use serde_json::json;
use shifter_tests::fixture::{Server, busybox_image};
use shifter_tests::harness::{GatewayOptions, Outcome, Sandbox, SshdOptions};

/// A site whose only system has two hosts, with their image directories.
fn site(server: &Server) -> (Site, Vec<PathBuf>) {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let place = sandbox.new_directory("far").unwrap();
    let stores: Vec<PathBuf> = ["one", "two"].map(|name| sandbox.host_directory(name).unwrap()).into();
    for (number, store) in (2..).zip(&stores) {
        let options = SshdOptions { mounts: vec![(place.clone(), store.clone())], ..SshdOptions::default() };
        sandbox.sshd(&keys, number, &options).unwrap();
    }
    let known = format!("UserKnownHostsFile={}", keys.known_hosts.display());
    let system = json!({
        "mungeSocketPath": munged.socket, "accesstype": "remote", "admins": ["root"],
        "host": ["127.0.0.2", "127.0.0.3"],
        "ssh": {
            "username": "shifter", "key": keys.key, "imageDir": place,
            "sshCmdOptions": ["-p", keys.port.to_string(), "-o", known],
        },
    });
    let more = json!({"Platforms": {"testsystem": system}}).as_object().unwrap().clone();
    let locations = vec![local(&format!("http://{}", server.authority()))];
    let options = GatewayOptions { locations, more, ..GatewayOptions::default() };
    let gateway = sandbox.gateway(&munged, &options).unwrap();
    (Site { sandbox, munged, gateway }, stores)
}

fn reconcile(site: &Site, words: &[&str]) -> Outcome {
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let config = site.gateway.config.display().to_string();
    let all = [&[program.as_str(), "reconcile", "--config", &config], words].concat();
    site.sandbox.root().run(&all).unwrap()
}

/// It found something, says this of it and leaves it; with `--fix` it says that.
fn finds(site: &Site, found: &str, settled: &str) {
    let said = reconcile(site, &[]);
    assert!(!said.status.success() && said.out().contains(found), "{found}: {}", said.describe());
    assert!(said.err().contains("1 found, 1 left"), "{}", said.describe());
    let said = reconcile(site, &["--fix"]);
    assert!(said.status.success() && said.out().contains(settled), "{settled}: {}", said.describe());
}

fn orphan(store: &Path, age: Duration) -> PathBuf {
    let path = store.join(format!("{}.squashfs", "ab".repeat(32)));
    fs::write(&path, "an image").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    path
}

#[test]
fn reconcile_finds_what_one_host_of_a_remote_system_lacks_and_settles_it() {
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let (mut site, stores) = site(&server);
    let files = ["meta", "squashfs"].map(|end| format!("{}.{end}", built.id()));
    let agree = |site: &Site| assert!(reconcile(site, &[]).success().unwrap().contains("agree"));
    site.pull("alice", "local/x:1").success().unwrap();
    agree(&site);

    // Together with the image, everything of it goes, and the next pull brings all of it.
    for broken in [None, Some("short")] {
        let path = stores[1].join(&files[1]);
        match broken {
            None => fs::remove_file(path).unwrap(),
            Some(text) => fs::write(path, text).unwrap(),
        }
        // Which is what a host without its file system looks like, too.
        let other = stores[1].join(format!("{}.squashfs", "cd".repeat(32)));
        let said = reconcile(&site, &["--fix"]);
        assert!(said.out().contains("127.0.0.3 holds no image at all"), "{}", said.describe());
        assert_eq!(names(&stores[0]), files);
        for store in &stores {
            fs::write(store.join(other.file_name().unwrap()), "somebody else's").unwrap();
        }
        let said = reconcile(&site, &["--fix"]);
        let expected =
            format!("image {} of system testsystem: is not there, or another, on 127.0.0.3", built.id());
        assert!(said.out().contains(&format!("{expected}; taken away")), "{}", said.describe());
        for store in &stores {
            fs::remove_file(store.join(other.file_name().unwrap())).unwrap();
            assert_eq!(names(store), [""; 0]);
        }
        site.pull("alice", "local/x:1").success().unwrap();
        agree(&site);
    }
    fs::write(stores[1].join(&files[0]), "FORMAT: squashfs\nUSERACL: 1\n").unwrap();
    finds(&site, "its .meta is not there, or another, on 127.0.0.3", "written anew");
    assert_eq!(fs::read(stores[0].join(&files[0])).unwrap(), fs::read(stores[1].join(&files[0])).unwrap());

    let young = orphan(&stores[0], Duration::ZERO);
    let said = reconcile(&site, &["--fix"]);
    assert!(said.out().contains("younger than an hour; left alone"), "{}", said.describe());
    assert!(young.exists());
    let old = orphan(&stores[0], Duration::from_secs(7200));
    finds(&site, "the catalog does not know it", "removed");
    assert!(!old.exists());
    agree(&site);

    // Without a gateway there is nobody to ask the hosts.
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let said = reconcile(&site, &["--fix"]).success().unwrap();
    assert!(said.contains("on other hosts, which a running gateway looks at"), "{said}");
    site.finish();
}
