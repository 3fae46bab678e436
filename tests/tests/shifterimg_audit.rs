//! What a site can tell afterwards of its users' requests: one id in the answer, the access log and the audit log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use common::asked::{Asked as _, LOGIN, image, site};
use common::site::Site;
use serde_json::{Value, json};
use shifter_tests::fixture::{Harm, Part, request};

/// A file that the gateway's account can make.
const LOG: &str = "/home/gateway/audit.log";

/// A file of alice's that `import` takes.
fn importable(site: &Site) {
    let script =
        "mkdir tree && printf hello >tree/word && mksquashfs tree alice/app.squashfs -no-progress >/dev/null";
    site.sandbox.root().directory("/home").run(&["sh", "-ec", script]).unwrap().success().unwrap();
    chown("/home/alice/app.squashfs", Some(4201), Some(4201)).unwrap();
    fs::set_permissions("/home/alice/app.squashfs", fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn every_mode_leaves_its_line_and_a_requests_id_is_in_the_answer_and_in_both_logs() {
    let (app, slow) = (image("app"), image("slow"));
    let images = [("closed/app:1", &app), ("slow:1", &slow)];
    let keys = json!({"AuditLog": LOG, "Metrics": true, "ImportUsers": "alice"});
    let (mut site, proxy) = site(&images, keys);
    importable(&site);
    let wrong = ["shifterimg", "login", "--username", LOGIN.0, "--password-stdin", "local"];
    site.account("alice").stdin("secret wrong").run(&wrong).unwrap().failure(4).unwrap();
    site.logs_in("alice");
    proxy.order("slow", Part::Blob(slow.layer_digests()[1].clone()), Harm::Stall);
    site.check(&[
        ("alice", "pull docker:closed/app:1", 0, "READY", "yours alone"),
        ("alice", "pull --no-wait docker:slow:1", 3, "status: ", ""),
        ("bob", "cancel docker:slow:1", 1, "", "no unfinished pull"),
        ("alice", "cancel docker:slow:1", 0, "", ""),
        ("alice", "import /home/alice/app.squashfs custom:app:1", 0, "READY", ""),
        ("bob", "import /home/alice/app.squashfs custom:mine:1", 4, "", "import"),
        ("alice", "inspect docker:closed/app:1", 0, app.id(), ""),
        ("bob", "inspect docker:closed/app:1", 1, "", "image not found"),
        ("alice", "history docker:closed/app:1", 0, app.id(), ""),
        ("bob", "history docker:closed/app:1", 1, "", "image not found"),
        ("alice", "lookup docker:closed/app:1", 0, app.id(), ""),
        ("root", "metrics", 0, " alice ", ""),
        ("bob", "metrics", 4, "", "only administrators"),
        ("alice", "images", 0, "closed/app:1", ""),
        ("alice", "queue", 0, "", ""),
        ("bob", &format!("pin id:{}", app.id()), 4, "", "only administrators"),
        ("root", &format!("pin id:{}", app.id()), 0, "", ""),
    ]);
    // The client names a request, or the gateway does.
    let credential = site.account("alice").run(&["munge", "-n"]).unwrap().success().unwrap();
    let named = [("authentication", credential.trim_end()), ("x-request-id", "job-17.step_0")];
    let path = "/api/lookup/testsystem/docker/closed%2Fapp%3A1/";
    let answer = request(&site.gateway.authority, "GET", path, &named, b"").unwrap();
    assert_eq!(
        (answer.status, answer.header("x-request-id")),
        (200, Some("job-17.step_0")),
        "{}",
        answer.text()
    );
    let refused = site.sandbox.api(&site.gateway, &site.munged, "bob", ("GET", path), b"").unwrap();
    assert_eq!(refused.status, 404);
    let given = refused.header("x-request-id").unwrap().to_owned();
    assert_eq!(given.len(), 16, "{given}");
    proxy.heal();
    // What is waited for is in the log before its answer is sent, but an access line may come after.
    let access = |id: &str| -> Vec<String> {
        let log = site.sandbox.log(site.gateway.daemon);
        let is_it = |line: &&str| line.contains(" access: ") && line.contains(&format!("request=\"{id}\""));
        log.lines().filter(is_it).map(str::to_owned).collect()
    };
    for (id, uid, status) in [("job-17.step_0", 4201, 200), (given.as_str(), 4202, 404)] {
        let lines = access(id);
        assert_eq!(lines.len(), 1, "{id}: {lines:?}");
        for part in [format!("path=\"{path}\""), format!("uid={uid}"), format!("status={status}")] {
            assert!(lines[0].contains(&part), "{part}: {}", lines[0]);
        }
    }
    let whole = site.sandbox.log(site.gateway.daemon);
    // Its last lines are written when it stops.
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let text = fs::read_to_string(LOG).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (id, uid, is_allowed) in [("job-17.step_0", 4201, true), (given.as_str(), 4202, false)] {
        let of_it: Vec<&Value> = lines.iter().filter(|line| line["request"] == id).collect();
        assert_eq!(of_it.len(), 1, "{id}: {of_it:?}");
        let line = of_it[0];
        assert_eq!((&line["uid"], &line["allowed"]), (&json!(uid), &json!(is_allowed)), "{line}");
        assert_eq!((&line["action"], &line["digest"]), (&json!("lookup"), &json!(app.id())), "{line}");
    }
    let (closed, custom) = ("closed/app:1", "app:1");
    for (action, uid, tag, digest, is_allowed) in [
        ("login", 4201, "", "", false),
        ("login", 4201, "", "", true),
        ("pull", 4201, closed, "", true),
        ("grant", 4201, closed, app.id(), true),
        ("cancel", 4202, "slow:1", "", false),
        ("cancel", 4201, "slow:1", "", true),
        ("import", 4201, custom, "", true),
        ("import", 4202, "mine:1", "", false),
        ("inspect", 4201, closed, app.id(), true),
        ("inspect", 4202, closed, app.id(), false),
        ("history", 4201, closed, "", true),
        ("history", 4202, closed, app.id(), false),
        ("metrics", 0, "", "", true),
        ("metrics", 4202, "", "", false),
        ("list", 4201, "", "", true),
        ("queue", 4201, "", "", true),
        ("pin", 4202, "", app.id(), false),
        ("pin", 0, "", app.id(), true),
    ] {
        let fits = |line: &&Value| {
            line["action"] == action
                && line["uid"] == uid
                && line["tag"].as_str().unwrap_or_default() == tag
                && line["digest"].as_str().unwrap_or_default() == digest
                && line["allowed"] == is_allowed
                && line["system"] == "testsystem"
                && line["why"].is_string() != (is_allowed && action != "grant")
        };
        assert!(lines.iter().any(|line| fits(&line)), "{action} of {uid}: {lines:#?}");
    }
    // Nobody's secrets are in either.
    for secret in [LOGIN.1, "secret wrong", credential.trim_end()] {
        assert!(!text.contains(secret) && !whole.contains(secret), "{secret}");
    }
    site.finish();
}
