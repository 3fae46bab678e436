//! What others hear of a gateway and its workers: systemd, the kernel that would write core files, the audit log's reader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::operated::{Operated as _, image, site};
use common::site::Site;
use serde_json::{Value, json};
use shifter_tests::fixture::Built;
use shifter_tests::harness::GatewayOptions;

/// systemd's side of sd_notify(3).
struct Manager {
    socket: std::os::unix::net::UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, path }
    }

    /// What a service is told that is to give a sign of life every 200 ms.
    fn environment(&self) -> Vec<(String, String)> {
        let socket = self.path.display().to_string();
        vec![("NOTIFY_SOCKET".to_owned(), socket), ("WATCHDOG_USEC".to_owned(), "200000".to_owned())]
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message that is no sign of life.
    fn hear_word(&self) -> String {
        loop {
            let word = self.hear();
            if word != "WATCHDOG=1" {
                return word;
            }
        }
    }
}

#[test]
fn systemd_hears_of_start_reload_and_end() {
    let mut site = site(&[]);
    let directory = site.sandbox.new_directory("notify").unwrap();
    let manager = Manager::new(&directory);
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.gateway.environment = manager.environment();
    site.sandbox.restart(&mut site.gateway).unwrap();
    assert_eq!(manager.hear_word(), "READY=1");
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(manager.hear(), "WATCHDOG=1");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    site.reload("the configuration was read again");
    let word = manager.hear_word();
    assert!(word.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{word}");
    assert_eq!(manager.hear_word(), "READY=1");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    assert_eq!(manager.hear_word(), "STOPPING=1");
    site.finish();
}

#[test]
fn a_worker_leaves_no_core_file_warns_as_root_and_systemd_hears_of_it() {
    let mut database = None;
    let mut site = Site::with(|sandbox| {
        let server = sandbox.postgres().unwrap();
        let keys = [("DatabaseURI", json!(server.uri)), ("WorkerThreads", json!(0))];
        database = Some(server);
        let more = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        GatewayOptions { more, ..GatewayOptions::default() }
    });
    let directory = site.sandbox.new_directory("notify").unwrap();
    let manager = Manager::new(&directory);
    site.gateway.environment = manager.environment();
    let worker = site.sandbox.worker(&site.gateway, 1).unwrap();
    assert_eq!(manager.hear_word(), "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.hear(), "WATCHDOG=1");
    }
    let pid = site.sandbox.pid(worker).unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    assert!(!site.sandbox.log(worker).contains("runs as root"));
    site.reload_of(worker, "the configuration was read again");
    let word = manager.hear_word();
    assert!(word.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{word}");
    assert_eq!(manager.hear_word(), "READY=1");
    site.sandbox.stop(worker).unwrap();
    assert_eq!(manager.hear_word(), "STOPPING=1");
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let config = site.gateway.config.display().to_string();
    let words = ["timeout", "5", &program, "worker", "--config", &config];
    let log = site.sandbox.root().run(&words).unwrap();
    assert!(
        log.err().contains("the gateway runs as root, whose rights it does not need"),
        "{}",
        log.describe()
    );
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}

#[test]
fn whoever_or_whatever_removes_an_image_is_in_the_audit_log_with_its_digest() {
    let tags = ["kept", "named", "own", "old", "lost"];
    let built = tags.map(image);
    let [kept, named, own, old, lost] = built.each_ref().map(Built::id);
    let mut site = site(&tags.into_iter().zip(&built).collect::<Vec<_>>());
    // The gateway's own directory.
    let log = "/home/gateway/audit.log";
    site.change(|config| {
        config["AuditLog"] = json!(log);
        config["ImageExpirationTimeout"] = json!("00:00:00:15");
        config["Platforms"]["testsystem"]["admins"] = json!(["bob"]);
    });
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    for tag in tags {
        site.pull("alice", &format!("app:{tag}")).success().unwrap();
    }
    let begun = Instant::now();
    let path = |route: &str, tag: &str| format!("/api/{route}/testsystem/docker/app%3A{tag}/");
    let by_id = |route: &str| format!("/api/{route}/testsystem?id={kept}");
    let (alice, bob) = (Some(4201), Some(4202));
    // User, method, path, status; and what the log has of it: action, digest, whether it was allowed.
    for (user, method, path, status, (action, digest, allowed)) in [
        ("alice", "POST", by_id("pin"), 200, ("pin", kept, false)),
        ("bob", "POST", by_id("pin"), 200, ("pin", kept, true)),
        ("bob", "POST", path("expire", "kept"), 409, ("expire", kept, false)),
        ("bob", "POST", by_id("unpin"), 200, ("unpin", kept, true)),
        ("bob", "POST", by_id("expire"), 200, ("expire-id", kept, true)),
        ("bob", "POST", by_id("restore"), 200, ("restore", kept, true)),
        ("bob", "POST", by_id("pin"), 200, ("pin", kept, true)),
        ("bob", "DELETE", format!("{}?all=1", path("image", "named")), 200, ("remove", named, true)),
        ("alice", "DELETE", path("image", "own"), 200, ("remove", own, true)),
    ] {
        let before = fs::read_to_string(log).unwrap().len();
        let answer = site.sandbox.api(&site.gateway, &site.munged, user, (method, &path), b"").unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let uid = if user == "bob" { bob } else { alice };
        expect_audit(log, before, (action, uid, digest, allowed));
    }
    let before = fs::read_to_string(log).unwrap().len();
    fs::remove_file(site.file(&built[4], "squashfs")).unwrap();
    // What became of the restored one stays as it is.
    site.command(&["reconcile", "--fix"]);
    expect_audit(log, before, ("reconcile", Some(0), lost, true));
    std::thread::sleep(Duration::from_secs(16).saturating_sub(begun.elapsed()));
    let expire = ("POST", "/api/autoexpire/testsystem/");
    let answer = site.sandbox.api(&site.gateway, &site.munged, "bob", expire, b"").unwrap();
    assert!(answer.text().contains(old), "{}", answer.text());
    expect_audit(log, before, ("expired", None, old, true));
    site.finish();
}

/// Waits for a line about this action, uid and image, behind the first bytes of an audit log.
fn expect_audit(path: &str, before: usize, (action, uid, digest, allowed): (&str, Option<u64>, &str, bool)) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let text = fs::read_to_string(path).unwrap();
        let lines = text[before..].lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_it = |line: &Value| {
            line["action"] == action
                && line["uid"].as_u64() == uid
                && line["digest"] == digest
                && line["allowed"] == allowed
        };
        if lines.into_iter().any(|line| is_it(&line)) {
            return;
        }
        assert!(Instant::now() < deadline, "no {action} of {digest} by {uid:?} in {}", &text[before..]);
        std::thread::sleep(Duration::from_millis(20));
    }
}
