//! What an attacker tries on the gateway itself, with real munge: credentials that are not theirs, or not for this
//! request, and passwords that might have been left somewhere. Numbers are those of docs/known-cves.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use common::site::{Site, local, noise};
use shifter_tests::fixture::{
    Image, Layer, Response, busybox_image, digest_of, dir, file, request, shell_entries,
};
use shifter_tests::harness::RegistryOptions;

const LOOKUP: &str = "/api/lookup/testsystem/docker/x%3A1/";

fn send(site: &Site, credential: &str) -> Response {
    let headers = [("authentication", credential.trim())];
    request(&site.gateway.authority, "GET", LOOKUP, &headers, b"").unwrap()
}

/// A credential of alice's from munge(1) with these further options.
fn mint(site: &Site, options: &[&str]) -> String {
    let socket = site.munged.socket.display().to_string();
    let words = [&["munge", "-S", &socket], options].concat();
    site.sandbox.user("alice").unwrap().run(&words).unwrap().success().unwrap()
}

/// ST41.
#[test]
fn credentials_replayed_expired_forged_or_meant_for_another_request_are_refused() {
    let mut site = Site::new(|_| Vec::new());
    let good = mint(&site, &["-n"]);
    assert_eq!(send(&site, &good).status, 404, "it is believed, and there is no such image");
    let refused = |credential: &str, why: &str| {
        let answer = send(&site, credential);
        assert_eq!(answer.status, 401, "{why}: {}", answer.text());
        assert!(answer.text().contains("was refused"), "{why}: {}", answer.text());
    };
    refused(&good, "replayed");
    let expired = mint(&site, &["-n", "-t", "1"]);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    refused(&expired, "expired");
    let mut forged = mint(&site, &["-n"]).into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    refused(&String::from_utf8(forged).unwrap(), "changed");
    refused("MUNGE:AwQFAAC:", "made up");
    refused("good:root:root::0:0", "as tests of the original send it");
    refused(&mint(&site, &["-n", "-u", "bob"]), "for somebody else to read");
    let bound = format!(r#"{{"request":"{}"}}"#, "0".repeat(64));
    refused(&mint(&site, &["-s", &bound]), "for another request");
    refused(&mint(&site, &["-s", r#"{"authorized_locations":[1]}"#]), "with a payload that is none");
    // Another cluster's munged, with another key.
    let other = site.sandbox.munged("other").unwrap();
    let socket = other.socket.display().to_string();
    let foreign = site.sandbox.user("alice").unwrap().run(&["munge", "-n", "-S", &socket]).unwrap();
    let answer = send(&site, &foreign.success().unwrap());
    assert_eq!(answer.status, 401, "of another system: {}", answer.text());
    site.finish();
}

/// Whether a file below a directory holds the text; every file is looked at.
fn holds(directory: &Path, text: &str, looked: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holds(&entry.path(), text, looked));
        } else if kind.is_file() {
            *looked += 1;
            let bytes = std::fs::read(entry.path()).unwrap();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

/// ST51.
#[test]
fn a_registry_password_is_in_no_log_no_database_and_no_core_file() {
    const PASSWORD: &str = "correct-horse:battery";
    let built = busybox_image().unwrap();
    let mut site = Site::new(|sandbox| {
        let login = Some(("ada", PASSWORD));
        let registry = sandbox.registry(RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
        sandbox.push(&registry, &built, "x", "1").unwrap();
        vec![local(&registry.url)]
    });
    site.store_password("alice", "local", &format!("ada:{PASSWORD}"));
    site.store_password("bob", "local", &format!("ada:{PASSWORD}-wrong"));
    site.pull("alice", "local/x:1").success().unwrap();
    site.pull("bob", "local/x:1").failure(4).unwrap();
    let payload = format!(r#"{{"authorized_locations":{{"local":"ada:{PASSWORD}"}}}}"#);
    let login = |body: &[u8]| {
        let credential = mint(&site, &["-s", &payload]);
        let headers = [("authentication", credential.trim())];
        request(&site.gateway.authority, "POST", "/api/login/testsystem", &headers, body).unwrap()
    };
    assert_eq!(login(br#"{"location":"local"}"#).text(), r#"{"status":true}"#);
    let elsewhere = login(br#"{"location":"elsewhere.example.org"}"#);
    assert!(elsewhere.text().contains("false") && !elsewhere.text().contains(PASSWORD));
    let log = site.sandbox.log(site.gateway.daemon);
    assert!(log.contains("lookup") || log.contains("pull"), "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
    let gateway = site.sandbox.pid(site.gateway.daemon).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{gateway}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let mut looked = 0;
    assert_eq!(holds(&site.gateway.state, PASSWORD, &mut looked), [""; 0]);
    assert!(looked > 3, "{looked}");
    site.sandbox.kill(site.gateway.daemon).unwrap();
    assert_eq!(holds(&site.gateway.state, PASSWORD, &mut looked), [""; 0]);
    site.finish();
}

/// ST49.
#[test]
fn an_image_that_expires_stays_whole_for_who_runs_it_and_opens_to_nobody_else() {
    let noise = noise(3 << 20, 49);
    let mut entries = vec![dir("."), dir("bin"), file("noise", &noise)];
    entries.extend(shell_entries("bin").unwrap());
    let built = Image::new(vec![Layer::new(entries)]).build().unwrap();
    let site = Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        sandbox.push(&registry, &built, "app", "1").unwrap();
        vec![local(&registry.url)]
    });
    site.pull("alice", "app:1").success().unwrap();
    // Nothing of the file was read before the image goes.
    let by_id = format!("--image=id:{}", built.id());
    let job = "echo started; read -r go; sha256sum /noise";
    let mut running = site
        .sandbox
        .user("alice")
        .unwrap()
        .spawn(&["bash", "-c", &format!("exec shifter {by_id} -- sh -c '{job}'")])
        .unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");

    let socket = site.munged.socket.display().to_string();
    let roots = site.sandbox.root().run(&["munge", "-n", "-S", &socket]).unwrap().success().unwrap();
    let headers = [("authentication", roots.trim())];
    let target = "/api/expire/testsystem/docker/app%3A1/";
    let answer = request(&site.gateway.authority, "POST", target, &headers, b"").unwrap();
    assert_eq!((answer.status, answer.text().trim()), (200, "{\"status\":true}"));
    assert_eq!(site.image_files(), [""; 0]);
    for image in ["--image=docker:app:1", &by_id] {
        let late = site.sandbox.user("alice").unwrap().run(&["shifter", image, "--", "true"]).unwrap();
        assert!(!late.status.success(), "{}", late.describe());
    }
    running.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(format!("sha256:{}", rest.split(' ').next().unwrap()), digest_of(&noise), "{rest}");
    assert!(running.wait().unwrap().success());
    site.pull("alice", "app:1").success().unwrap();
    assert_eq!(site.run("alice", "app:1", &["true"]).status.code(), Some(0));
    site.finish();
}
