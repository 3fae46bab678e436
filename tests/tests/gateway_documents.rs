//! The original's documented gateway configurations and the commands that its documents have users and administrators
//! type, retyped under `tests/documents/`, do what the documents say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::documented::{Documented, at_home, document};
use common::site::names;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::request;
use shifter_tests::harness::SshdOptions;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

const MPITEST: &str = "dmjacobsen/mpitest:latest";
const PATH: &str = "/usr/bin:/bin";
const BARRNAP: &str = "quay.io/biocontainers/barrnap:0.9--3";

/// Pulls by a documented command, looks up and runs; nobody is served without a credential.
fn pulls(site: &Documented, name: &str, command: &str, image: &str) {
    let pulled = site.run("alice", command);
    assert!(pulled.status.success(), "{name}: {}", pulled.describe());
    assert!(pulled.out().contains(&format!("docker:{image}, status: READY")), "{}", pulled.describe());
    let as_bob = |words: &[&str]| site.user("bob", words);
    let found = as_bob(&["shifterimg", "lookup", image]).success().unwrap();
    assert_eq!(found.trim(), site.built.id(), "{name}");
    let out = as_bob(&["shifter", &format!("--image={image}"), "app"]);
    assert_eq!(out.out(), "the app runs\n", "{name}: {}", out.describe());
    let nobody = request("127.0.0.1:5000", "GET", &format!("/api/list/{}/", site.system), &[], b"").unwrap();
    assert_eq!(nobody.status, 401, "{name}: {}", nobody.text());
}

/// The manual's pulls, word for word, by the names that its registries have in the world.
#[test]
fn every_documented_gateway_configuration_serves_the_documented_pulls_from_its_mongodb() {
    let mut site = Documented::new(None);
    for (name, commands) in [
        ("imagemanager.json.example", &[("pull.mpitest.sh", MPITEST)][..]),
        ("imagemanager.local.json", &[("pull.mpitest.sh", MPITEST)]),
        ("imagemanager.registries.json", &[("pull.barrnap.sh", BARRNAP), ("pull.mpitest.sh", MPITEST)]),
    ] {
        site.serve(&at_home(&site.sandbox, &document(name)));
        // What the gateway before it left in the catalog, in memory no more.
        let found = site.user("bob", &["shifterimg", "lookup", MPITEST]);
        assert_eq!(found.status.success(), name != "imagemanager.json.example", "{}", found.describe());
        for (command, image) in commands {
            pulls(&site, name, command, image);
        }
    }
    site.serve(&at_home(&site.sandbox, &document("imagemanager.registries.json")));
    site.user("bob", &["shifterimg", "lookup", BARRNAP]).success().unwrap();
    site.finish();
}

#[test]
fn the_documented_cluster_and_its_gateway_are_installed_by_the_documented_commands() {
    let mut site = Documented::new(None);
    // Typed where the configuration was saved.
    fs::write("/etc/imagemanager.json.local", at_home(&site.sandbox, &document("imagemanager.json.local")))
        .unwrap();
    let install = at_home(&site.sandbox, &document("install.greina.sh"));
    site.root(&format!("cd /etc; {install}"));
    let config = fs::read_to_string("/etc/shifter/imagemanager.json").unwrap();
    site.root("mkdir /home/scratch /etc/shifter/shifter_etc_files; cp /etc/{passwd,group,nsswitch.conf} /etc/shifter/shifter_etc_files");
    fs::write("/etc/shifter/udiRoot.conf", at_home(&site.sandbox, &document("udiRoot.conf.cluster")))
        .unwrap();
    site.system = "greina";
    site.serve(&config);
    pulls(&site, "imagemanager.json.local", "pull.mpitest.sh", MPITEST);
    site.finish();
}

#[test]
fn the_examples_become_a_site_by_the_documented_commands() {
    let mut site = Documented::new(None);
    for name in ["imagemanager.json.example", "udiRoot.conf.example", "premount.sh", "postmount.sh"] {
        fs::write(format!("/etc/shifter/{name}"), at_home(&site.sandbox, &document(name))).unwrap();
    }
    site.root("mkdir /home/scratch /etc/shifter/shifter_etc_files /opt/shifter-test/udiImage");
    site.root(&document("install.rhel7.sh"));
    let config = fs::read_to_string("/etc/shifter/imagemanager.json").unwrap();
    site.serve(&config);
    pulls(&site, "install.rhel7.sh", "pull.mpitest.sh", MPITEST);
    site.finish();
}

#[test]
fn the_documented_curl_imports_an_image_that_the_documented_command_runs() {
    let mut site = Documented::new(None);
    let mut config: Map<String, Value> =
        serde_json::from_str(&at_home(&site.sandbox, &document("imagemanager.local.json"))).unwrap();
    // A fragment of the top section, with its Locations left out.
    let fragment: Map<String, Value> = serde_json::from_str(&document("imagemanager.import.json")).unwrap();
    for (key, value) in fragment {
        match (config.get_mut(&key), value) {
            (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
            (_, value) => drop(config.insert(key, value)),
        }
    }
    site.root("mkdir -p /tmp/images/expand; chown -R gateway: /tmp/images");
    site.serve(&Value::Object(config).to_string());
    let make = "umask 022; mkdir -p tree/{bin,etc,dev,proc,sys,tmp}; cp $(command -v busybox) tree/bin/busybox; \
        ln -s busybox tree/bin/sh; printf '#!/bin/sh\\necho imported\\n' > tree/bin/app; chmod 755 tree/bin/app; \
        mksquashfs tree /tmp/myimage.squashfs -no-xattrs -no-progress > /dev/null";
    site.user("alice", &["bash", "-ec", &format!("cd; {make}")]).success().unwrap();
    let begun = Instant::now();
    loop {
        let said = site.run("alice", "import.curl.sh").success().unwrap();
        if said.contains("\"READY\"") {
            break;
        }
        assert!(said.contains("\"status\"") && !said.contains("FAILURE"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}");
        std::thread::sleep(Duration::from_millis(400));
    }
    for user in ["alice", "bob"] {
        assert_eq!(site.run(user, "import.run.sh").success().unwrap(), "imported\n");
    }
    let id = site.user("bob", &["shifterimg", "lookup", "custom:load_test:v1"]).success().unwrap();
    let fasthash = site.user("bob", &["fasthash", "/tmp/myimage.squashfs"]).success().unwrap();
    assert_eq!(fasthash.split_whitespace().next(), Some(id.trim()));
    site.root("rm -r /tmp/images /tmp/myimage.squashfs");
    site.finish();
}

#[test]
fn the_documented_credentials_open_the_default_location_and_another() {
    let mut site = Documented::new(Some(("username", "password")));
    let mut config: Value =
        serde_json::from_str(&at_home(&site.sandbox, &document("imagemanager.local.json"))).unwrap();
    config["Locations"]["otherloc"] =
        json!({"remotetype": "dockerv2", "url": "https://otherloc", "authentication": "http"});
    let gateway = site.serve(&config.to_string());
    let end = |payload: &str, image: &str| {
        let path = format!("/api/pull/mycluster/docker/{}/", image.replace('/', "%2F"));
        let begun = Instant::now();
        loop {
            let minted = site.sandbox.user("alice").unwrap().stdin(payload).run(&["munge"]).unwrap();
            let credential = minted.success().unwrap();
            let headers = [("authentication", credential.trim_end())];
            let answer = request(&gateway.authority, "POST", &path, &headers, b"").unwrap();
            let record: Value = serde_json::from_slice(&answer.body).unwrap();
            let status = record["status"].as_str().unwrap_or_default().to_owned();
            if ["READY", "FAILURE"].contains(&status.as_str()) {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{record}");
            std::thread::sleep(Duration::from_millis(400));
        }
    };
    let document = document("authorized_locations.json");
    let only_default = r#"{"authorized_locations": {"default": "username:password"}}"#;
    let other = format!("otherloc/{MPITEST}");
    for (payload, image, expected) in [
        ("", MPITEST, "FAILURE"),
        (&document, MPITEST, "READY"),
        // The default's password is for the default location alone.
        (only_default, &other, "FAILURE"),
        (&document, &other, "READY"),
    ] {
        assert_eq!(end(payload, image), expected, "{image} with {payload}");
    }
    site.finish();
}

#[test]
fn the_documented_remote_configuration_sends_images_to_the_documented_host() {
    let mut site = Documented::new(None);
    let mut keys = site.sandbox.ssh_keys().unwrap();
    keys.port = 22;
    // The host has files of its own where the document says.
    let store = site.sandbox.host_directory("images").unwrap();
    let mounts = vec![(site.sandbox.images(), store.clone())];
    site.sandbox.sshd(&keys, 2, &SshdOptions { mounts, ..SshdOptions::default() }).unwrap();
    // What the site does beside it: names, the key, and what the gateway's account knows of the host.
    site.root(&format!(
        "echo 127.0.0.2 mycluster01 >> /etc/hosts
         mkdir -m 755 /home/shifter/.ssh; cp {key} /home/shifter/.ssh/ssh.key
         mkdir -m 700 /home/gateway/.ssh; sed 's/^[^ ]*/mycluster01/' {known} > /home/gateway/.ssh/known_hosts
         chown -R gateway /home/gateway/.ssh /home/shifter/.ssh; chmod 600 /home/shifter/.ssh/ssh.key",
        key = keys.key.display(),
        known = keys.known_hosts.display()
    ));
    site.serve(&at_home(&site.sandbox, &document("imagemanager.remote.json")));
    site.client(&store);
    pulls(&site, "imagemanager.remote.json", "pull.mpitest.sh", MPITEST);
    let files = [".meta", ".squashfs"].map(|end| format!("{}{end}", site.built.id()));
    assert_eq!(names(&store), files);
    assert_eq!(names(&site.sandbox.images()), ["cache", "expand"]);
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let key = "/home/shifter/.ssh/ssh.key";
    for (spoil, path, expected) in [
        ("chmod 644", PATH, "ssh.key of system mycluster has mode 644"),
        ("rm", PATH, "ssh.key of system mycluster cannot be read: No such file"),
        ("touch", "/nowhere", "system mycluster is remote, and there is no ssh in PATH"),
    ] {
        site.root(&format!("{spoil} {key}"));
        let said = site.user("gateway", &["env", &format!("PATH={path}"), &program, "check-config"]);
        let said = said.failure(1).unwrap();
        assert!(said.contains(expected), "{spoil}: {said}");
    }
    site.finish();
}

/// What takes the place of the original's start lines, in docs/migration.md.
#[test]
fn the_start_lines_in_the_place_of_the_documented_ones_serve_pulls() {
    let unit = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        line.replace("/opt/shifter/default/", "/usr/").replace("/usr/", "/opt/shifter-test/")
    };
    let service = unit(include_str!("../../dist/shifter-imagegw.service"));
    let worker = unit(include_str!("../../dist/shifter-imagegw-worker.service"));
    let site = Documented::new(None);
    let text = at_home(&site.sandbox, &document("imagemanager.local.json"));
    let mut without_threads: Value = serde_json::from_str(&text).unwrap();
    without_threads["WorkerThreads"] = json!(0);
    let without_threads = without_threads.to_string();
    site.root("mkdir -p /opt/shifter-test/log/shifter_imagegw; chown -R gateway: /opt/shifter-test/log");
    let line = |name: &str| at_home(&site.sandbox, &document(name));
    for (name, config, lines) in [
        ("gunicorn", &text, [line("start.gunicorn.sh"), String::new()]),
        ("imagegwapi.py", &text, [line("start.imagegwapi.sh"), String::new()]),
        ("init.d", &text, [service.clone(), String::new()]),
        ("workers apart", &without_threads, [service, worker]),
    ] {
        site.configure(config);
        let started: Vec<Child> =
            lines.iter().filter(|line| !line.is_empty()).map(|line| start(&site, line)).collect();
        let begun = Instant::now();
        while !request("127.0.0.1:5000", "GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name}");
            std::thread::sleep(Duration::from_millis(20));
        }
        pulls(&site, name, "pull.mpitest.sh", MPITEST);
        for mut child in started {
            // All of its group, as the shell that starts a gateway behind its back.
            let _ended = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait().unwrap();
        }
    }
    site.finish();
}

/// A shell of the gateway's account with a line, in a process group of its own.
fn start(site: &Documented, line: &str) -> Child {
    site.sandbox.user("gateway").unwrap().spawn(&["setsid", "bash", "-c", &format!("{line}\nwait")]).unwrap()
}
