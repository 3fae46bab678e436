//! `shifterimg pull --group`: who is let in by a group that only a directory service knows; libnss-extrausers stands in
//! for LDAP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::asked::{Asked as _, image, site};
use common::site::Site;
use serde_json::json;
use shifter_tests::harness::Outcome;

const PLACE: &str = "/var/lib/extrausers";

/// As nora, whom the service knows, with the groups that a login gave her.
fn as_nora(site: &Site, groups: &str, words: &[&str]) -> Outcome {
    let ids = ["setpriv", "--reuid=5300", "--regid=5300", groups];
    site.sandbox.root().run(&[&ids[..], words].concat()).unwrap()
}

fn project_of(members: &str) {
    fs::write(format!("{PLACE}/group"), format!("nora:x:5300:\nproject:x:5400:{members}\n")).unwrap();
}

#[test]
fn a_group_of_the_directory_service_lets_its_members_in_as_long_as_they_are_members() {
    let (closed, open) = (image("closed"), image("open"));
    let (mut site, _proxy) = site(&[("closed/app:1", &closed), ("open/app:1", &open)], json!({}));
    // Not in sight of other tests: who removes a directory takes what others have mounted on it along.
    site.sandbox.root().run(&["mount", "-t", "tmpfs", "extrausers", "/var/lib"]).unwrap().success().unwrap();
    fs::create_dir(PLACE).unwrap();
    fs::write(format!("{PLACE}/passwd"), "nora:x:5300:5300:Nora, of LDAP:/home/nora:/bin/bash\n").unwrap();
    let names = "passwd: files extrausers\ngroup: files extrausers\ninitgroups: files extrausers\n";
    fs::write("/etc/nsswitch.conf", names).unwrap();
    site.logs_in("alice");
    let id = closed.id();
    site.check(&[(
        "alice",
        "pull -g nosuchgroup docker:closed/app:1",
        1,
        "",
        "no group \"nosuchgroup\" is known",
    )]);
    project_of("nora");
    site.check(&[
        ("alice", "pull --group project -u bob docker:closed/app:1", 0, "READY", ""),
        ("bob", "lookup docker:closed/app:1", 0, id, ""),
        ("carol", "lookup docker:closed/app:1", 1, "", "image not found"),
    ]);
    // Lists include their author, as user and group.
    let record = fs::read_to_string(site.gateway.images.join(format!("{id}.meta"))).unwrap();
    assert!(record.contains("USERACL: 4201,4202\n") && record.contains("GROUPACL: 4201,5400\n"), "{record}");

    // Her groups are kept for a minute, so every change is made while no gateway runs: a new one asks again.
    for (members, is_member) in [("nora", true), ("other", false), ("other,nora", true)] {
        site.sandbox.stop(site.gateway.daemon).unwrap();
        project_of(members);
        site.sandbox.restart(&mut site.gateway).unwrap();
        // What the kernel says of her does not matter to the gateway.
        for groups in ["--clear-groups", "--groups=5400"] {
            let ask = |words: &[&str]| as_nora(&site, groups, &[&["shifterimg"], words].concat());
            let what = format!("project of {members}, {groups}");
            let listed = ask(&["images", "--name", "closed/*"]).success().unwrap();
            assert_eq!(listed.contains(&id[..10]), is_member, "{what}: {listed}");
            for words in [&["lookup", "docker:closed/app:1"][..], &["inspect", &format!("id:{id}")]] {
                let found = ask(words);
                assert_eq!(found.status.success(), is_member, "{what}: {}", found.describe());
                assert_eq!(found.out().contains(id), is_member, "{what}: {}", found.describe());
            }
            // Somebody else was accepted by the registry just now, and let her in; she has no password of her own.
            let pulled = ask(&["pull", "docker:closed/app:1"]);
            assert_eq!(
                pulled.status.code(),
                Some(if is_member { 0 } else { 4 }),
                "{what}: {}",
                pulled.describe()
            );
            let image = "--image=docker:closed/app:1";
            let run = as_nora(&site, groups, &["shifter", image, "--", "cat", "/etc/word"]);
            // On a node the kernel's groups decide, too.
            let may_run = is_member && groups != "--clear-groups";
            assert_eq!(run.status.success(), may_run, "{what}: {}", run.describe());
        }
    }
    site.sandbox.root().run(&["umount", "/var/lib"]).unwrap().success().unwrap();
    site.finish();
}
