//! Imports on remote systems, end to end: files that only the host has, by a real ssh and our program there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::site::{Site, names, noise};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::{Image, Layer, archive, dir, file, shell_entries, write_oci_layout};
use shifter_tests::harness::{GatewayOptions, Keys, Munged, Sandbox, SshdOptions};

const ALICE: u32 = 4201;

/// Where users' files are on the hosts, and on no other machine.
const PLACE: &str = "/home/data";

fn give(path: &Path, mode: u32) {
    chown(path, Some(ALICE), Some(ALICE)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn system(sandbox: &Sandbox, munged: &Munged, keys: &Keys, (host, images): (&str, &Path)) -> Value {
    json!({
        "mungeSocketPath": munged.socket, "accesstype": "remote", "host": [host],
        "ssh": {
            "username": "shifter", "key": keys.key, "imageDir": images,
            "fasthash": sandbox.program("fasthash").unwrap(),
            "sshCmdOptions": [
                "-p", keys.port.to_string(), "-o", format!("UserKnownHostsFile={}", keys.known_hosts.display()),
                "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "-o", "ConnectTimeout=2",
            ],
        },
    })
}

/// The place as a host has it, with a root file system of alice's in `name`, and noise of this length.
fn place(sandbox: &mut Sandbox, name: &str, length: usize) -> PathBuf {
    fs::create_dir(PLACE).unwrap();
    let seen = sandbox.new_directory("seen").unwrap();
    let tree = sandbox.new_directory("tree").unwrap();
    for name in ["bin", "etc"] {
        fs::create_dir(tree.join(name)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.unwrap(), tree.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).unwrap();
    std::os::unix::fs::symlink("busybox", tree.join("bin/cat")).unwrap();
    fs::write(tree.join("etc/word"), "from afar").unwrap();
    fs::write(tree.join("noise"), noise(length, 5)).unwrap();
    let path = seen.join(name);
    let words = ["mksquashfs", tree.to_str().unwrap(), path.to_str().unwrap(), "-no-progress"];
    sandbox.root().run(&words).unwrap().success().unwrap();
    give(&path, 0o644);
    seen
}

fn site(mut sandbox: Sandbox, munged: Munged, systems: Value, more: Value) -> Site {
    let mut keys = json!({"ImportUsers": "all", "Platforms": systems}).as_object().unwrap().clone();
    keys.extend(more.as_object().unwrap().clone());
    let options = GatewayOptions { more: keys, ..GatewayOptions::default() };
    let gateway = sandbox.gateway(&munged, &options).unwrap();
    Site { sandbox, munged, gateway }
}

/// One request for an import.
fn ask(site: &Site, user: &str, system: &str, (file, name): (&str, &str)) -> Map<String, Value> {
    let body = json!({"filepath": file, "format": "squashfs"}).to_string();
    let path = format!("/api/doimport/{system}/custom/{name}/");
    let answer =
        site.sandbox.api(&site.gateway, &site.munged, user, ("POST", &path), body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{file}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Asks until an import has ended: how, and what was said.
fn end(site: &Site, user: &str, system: &str, what: (&str, &str)) -> (String, String) {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let record = ask(site, user, system, what);
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        if matches!(record["status"].as_str(), Some("READY" | "FAILURE")) {
            return (text("status"), text("status_message"));
        }
        assert!(Instant::now() < deadline, "{record:?}\n{}", site.sandbox.log(site.gateway.daemon));
        std::thread::sleep(Duration::from_millis(400));
    }
}

#[test]
fn a_file_that_only_the_host_has_is_imported_and_runs() {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    // What a shell would make something of.
    let name = "it's $(touch x); `id` \"&\" \\ !.squashfs";
    let seen = place(&mut sandbox, name, 3_000_000);
    let mounts = vec![(PathBuf::from(PLACE), seen.clone())];
    sandbox.sshd(&keys, 2, &SshdOptions { mounts, ..SshdOptions::default() }).unwrap();
    let images = sandbox.images();
    let systems = json!({"testsystem": system(&sandbox, &munged, &keys, ("127.0.0.2", &images))});
    let site = site(sandbox, munged, systems, json!({}));
    site.sandbox.give_to_host(&images).unwrap();
    let path = format!("{PLACE}/{name}");
    assert!(!Path::new(&path).exists(), "the gateway's machine has it not");
    site.shifterimg("alice", &["--user", "bob", "import", &path, "custom:far:1"]).success().unwrap();
    for user in ["alice", "bob"] {
        let words = ["shifter", "--image=custom:far:1", "--", "cat", "/etc/word"];
        let out = site.sandbox.user(user).unwrap().run(&words).unwrap();
        assert_eq!(out.success().unwrap(), "from afar");
    }
    assert!(!site.shifterimg("carol", &["lookup", "custom:far:1"]).status.success());
    // The identifier is the file's, as the program on the host says it, too.
    let id = site.shifterimg("bob", &["lookup", "custom:far:1"]).success().unwrap();
    let fasthash = site.sandbox.program("fasthash").unwrap().display().to_string();
    let file = seen.join(name).display().to_string();
    assert_eq!(site.sandbox.root().run(&[&fasthash, &file]).unwrap().success().unwrap(), id);
    assert!(!Path::new("/home/shifter/x").exists());
    assert_eq!(site.expansions(), ["ssh"]);
    site.finish();
}

#[test]
fn archives_that_only_the_host_has_are_imported_and_run() {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let seen = place(&mut sandbox, "own.squashfs", 1000);
    let layout = sandbox.new_directory("layout").unwrap();
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), file("etc/word", "packed")];
    entries.extend(shell_entries("bin").unwrap());
    write_oci_layout(&Image::new(vec![Layer::new(entries.clone())]).build().unwrap(), &layout, "x").unwrap();
    fs::write(seen.join("own.tar"), archive(&entries)).unwrap();
    let script = format!(
        "cd {0}; gzip -k own.tar; tar -C {1} -cf own.oci .; \
         skopeo --insecure-policy copy -q oci:{1}:x docker-archive:own.docker:x:1",
        seen.display(),
        layout.display()
    );
    sandbox.root().run(&["sh", "-ec", &script]).unwrap().success().unwrap();
    let mounts = vec![(PathBuf::from(PLACE), seen.clone())];
    sandbox.sshd(&keys, 2, &SshdOptions { mounts, ..SshdOptions::default() }).unwrap();
    let images = sandbox.images();
    let systems = json!({"testsystem": system(&sandbox, &munged, &keys, ("127.0.0.2", &images))});
    let site = site(sandbox, munged, systems, json!({}));
    site.sandbox.give_to_host(&images).unwrap();
    for (number, (name, format)) in [
        ("own.tar", "tar"),
        ("own.tar.gz", "tar"),
        ("own.oci", "oci-archive"),
        ("own.docker", "docker-archive"),
    ]
    .into_iter()
    .enumerate()
    {
        give(&seen.join(name), 0o600);
        let (path, image) = (format!("{PLACE}/{name}"), format!("custom:packed:{number}"));
        assert!(!Path::new(&path).exists(), "the gateway's machine has it not");
        let words = ["import", "--format", format, &path, &image];
        let refused = site.shifterimg("bob", &words);
        assert!(refused.failure(1).unwrap().contains("is not there, or you cannot read it"), "{name}");
        // The account that reads it there must be able to.
        give(&seen.join(name), 0o644);
        site.shifterimg("alice", &words).success().unwrap();
        let image = format!("--image={image}");
        let words = ["shifter", &image, "--", "cat", "/etc/word"];
        let out = site.sandbox.user("alice").unwrap().run(&words).unwrap();
        assert_eq!(out.success().unwrap(), "packed", "{name}");
    }
    assert_eq!(site.expansions(), ["ssh"]);
    site.finish();
}

#[test]
fn on_a_host_nobody_imports_what_they_could_not_read_there() {
    let mut sandbox = Sandbox::new().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let seen = place(&mut sandbox, "own.squashfs", 1000);
    let file = |name: &str, mode| {
        fs::copy(seen.join("own.squashfs"), seen.join(name)).unwrap();
        give(&seen.join(name), mode);
    };
    file("secret.squashfs", 0o600);
    file("others.squashfs", 0o604);
    fs::create_dir(seen.join("closed")).unwrap();
    file("closed/in.squashfs", 0o644);
    give(&seen.join("closed"), 0o700);
    // The account's own, as images are.
    let account = seen.join("account.squashfs");
    fs::copy(seen.join("own.squashfs"), &account).unwrap();
    sandbox.give_to_host(&account).unwrap();
    fs::set_permissions(&account, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("own.squashfs", seen.join("link")).unwrap();
    let images = sandbox.images();
    fs::copy(seen.join("own.squashfs"), images.join("mine.squashfs")).unwrap();
    give(&images.join("mine.squashfs"), 0o644);
    let elsewhere = Path::new("/opt/elsewhere.squashfs");
    fs::copy(seen.join("own.squashfs"), elsewhere).unwrap();
    give(elsewhere, 0o644);
    let usual = SshdOptions { mounts: vec![(PLACE.into(), seen.clone())], ..SshdOptions::default() };
    sandbox.sshd(&keys, 2, &usual).unwrap();
    let only_files = SshdOptions { config: "ForceCommand internal-sftp".to_owned(), ..usual };
    sandbox.sshd(&keys, 3, &only_files).unwrap();
    let usual = || system(&sandbox, &munged, &keys, ("127.0.0.2", &images));
    let mut none = usual();
    none["ssh"]["fasthash"] = json!("/nowhere/fasthash");
    let mut other = usual();
    other["ssh"]["fasthash"] = json!("/bin/cat");
    let systems = json!({
        "testsystem": usual(), "none": none, "other": other,
        "files": system(&sandbox, &munged, &keys, ("127.0.0.3", &images)),
    });
    let allowed = json!({"ImportPaths": [PLACE, images]});
    let site = site(sandbox, munged, systems, allowed);
    site.sandbox.give_to_host(&images).unwrap();
    let mine = images.join("mine.squashfs").display().to_string();
    for (number, (user, system, name, expected)) in [
        ("bob", "testsystem", "secret.squashfs", "is not there, or you cannot read it"),
        ("bob", "testsystem", "missing", "is not there, or you cannot read it"),
        ("bob", "testsystem", "account.squashfs", "is not there, or you cannot read it"),
        ("bob", "testsystem", "closed/in.squashfs", "is not there, or you cannot read it"),
        // Hers, but the account on the host may not.
        ("alice", "testsystem", "secret.squashfs", "the image gateway cannot read"),
        ("alice", "testsystem", "link", "is not a regular file"),
        ("alice", "testsystem", "../data/own.squashfs", "absolute path without"),
        ("alice", "testsystem", "/dev/zero", "is not a regular file"),
        ("alice", "testsystem", &mine, "is the image gateway's own"),
        ("alice", "testsystem", "/opt/elsewhere.squashfs", "from which this site allows imports"),
        ("alice", "none", "own.squashfs", "cannot be run there"),
        ("alice", "other", "own.squashfs", "no whole answer"),
        ("alice", "files", "own.squashfs", "no whole answer"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{PLACE}/{name}") };
        let (status, why) = end(&site, user, system, (&path, &format!("x{number}:1")));
        assert_eq!(status, "FAILURE", "{user} {name}");
        assert!(why.contains(expected), "{user} {system} {name}: {why}");
    }
    assert_eq!(names(&images), ["mine.squashfs"]);
    let done = end(&site, "bob", "testsystem", (&format!("{PLACE}/others.squashfs"), "ok:1"));
    assert_eq!(done.0, "READY", "{done:?}");
    assert_eq!(site.expansions(), ["ssh"]);
    site.finish();
}

#[test]
fn a_line_that_goes_down_while_a_file_is_brought_loses_nothing_and_takes_nothing_by_halves() {
    const LENGTH: usize = 8_000_000;
    let mut sandbox = Sandbox::new().unwrap();
    sandbox.own_network().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let keys = sandbox.ssh_keys().unwrap();
    let seen = place(&mut sandbox, "app.squashfs", LENGTH);
    let images = sandbox.new_directory("far").unwrap();
    // Of what comes from the host: while the session begins, and while the file comes.
    let places = [1000, 3000, 20_000, 1_000_000, 5_000_000];
    let mut systems = Map::new();
    let mut hosts = Vec::new();
    for (number, place) in (1..).zip(places) {
        let mounts =
            vec![(PLACE.into(), seen.clone()), (images.clone(), sandbox.host_directory("i").unwrap())];
        let options = SshdOptions { mounts, ..SshdOptions::default() };
        let host = sandbox.far_host(&keys, number, &options).unwrap();
        let section = system(&sandbox, &munged, &keys, (&host.sshd.address, &images));
        systems.insert(format!("far{number}"), section);
        hosts.push((format!("far{number}"), host, place));
    }
    let site = site(sandbox, munged, systems.into(), json!({"WorkerThreads": 10}));
    let path = format!("{PLACE}/app.squashfs");
    let what = (path.as_str(), "app:1");
    // The connections that the gateway tries out at its start must not be the ones that are cut.
    for (system, host, place) in &hosts {
        let before = host.carried().unwrap().1;
        ask(&site, "alice", system, what);
        let begun = Instant::now();
        while host.carried().unwrap().1 < before + place {
            assert!(begun.elapsed() < Duration::from_secs(60), "{system}: {:?}", host.carried());
            std::thread::sleep(Duration::from_micros(100));
        }
        host.set_line(&site.sandbox, false).unwrap();
    }
    for (system, host, _) in &hosts {
        let (status, why) = end(&site, "alice", system, what);
        assert_eq!(status, "FAILURE", "{system} {why}");
        assert!(why.contains(&format!("host {}", host.sshd.address)), "{why}");
        host.set_line(&site.sandbox, true).unwrap();
    }
    assert_eq!(site.expansions(), ["ssh"]);
    for (system, ..) in &hosts {
        assert_eq!(end(&site, "alice", system, what).0, "READY", "{system}");
    }
    // Down for a while only: tried again by itself.
    let (system, host, _) = &hosts[0];
    let what = (path.as_str(), "again:1");
    // Another file: its superblock's time.
    let mut other = fs::read(seen.join("app.squashfs")).unwrap();
    other[8] ^= 1;
    fs::write(seen.join("app.squashfs"), other).unwrap();
    let before = host.carried().unwrap().1;
    ask(&site, "alice", system, what);
    while host.carried().unwrap().1 < before + 2_000_000 {
        std::thread::sleep(Duration::from_micros(100));
    }
    host.set_line(&site.sandbox, false).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    host.set_line(&site.sandbox, true).unwrap();
    let (status, why) = end(&site, "alice", system, what);
    assert_eq!(status, "READY", "{why}");
    site.finish();
}
