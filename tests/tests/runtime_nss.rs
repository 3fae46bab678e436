//! Users whom only a directory service knows; libnss-extrausers stands in for LDAP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::harness::Outcome;
use std::fs;

const PLACE: &str = "/var/lib/extrausers";

/// A machine that knows nora, her group and one project from the service alone.
fn machine() -> Machine {
    let machine = Machine::new(&shell_image(), "");
    // Not in sight of other tests: who removes a directory takes what others have mounted on it along.
    machine
        .sandbox
        .root()
        .run(&["mount", "-t", "tmpfs", "extrausers", "/var/lib"])
        .unwrap()
        .success()
        .unwrap();
    fs::create_dir(PLACE).unwrap();
    fs::write(format!("{PLACE}/passwd"), "nora:x:5300:5300:Nora, of LDAP:/home/nora:/bin/bash\n").unwrap();
    fs::write(format!("{PLACE}/group"), "nora:x:5300:\nproject:x:5400:nora,other\nunused:x:5500:other\n")
        .unwrap();
    let names = "passwd: files extrausers\ngroup: files extrausers\ninitgroups: files extrausers\n";
    fs::write("/etc/nsswitch.conf", names).unwrap();
    machine
}

fn finish(machine: Machine) {
    machine.sandbox.root().run(&["umount", "/var/lib"]).unwrap().success().unwrap();
    machine.finish();
}

fn as_nora(machine: &Machine, words: &[&str]) -> Outcome {
    let ids = ["setpriv", "--reuid=5300", "--regid=5300", "--groups=4301,5400"];
    machine.sandbox.root().run(&[&ids[..], &machine.words(words)].concat()).unwrap()
}

#[test]
fn such_a_user_has_name_home_shell_and_group_names() {
    let machine = machine();
    let out = as_nora(&machine, &["sh", "-c", "cat /etc/passwd; sort /etc/group; id -un; id -Gn"]);
    assert_eq!(
        out.out(),
        "nora:x:5300:5300:Nora, of LDAP:/home/nora:/bin/bash\n\
         nora:x:5300:nora\nphysics:x:4301:nora\nproject:x:5400:nora\n\
         nora\nnora physics project\n",
        "{}",
        out.describe()
    );
    finish(machine);
}

#[test]
fn files_of_the_site_are_added_to_where_the_service_may_be_asked() {
    let machine = machine();
    let etc = machine.sandbox.prefix().join("etc");
    for (name, text) in [
        ("passwd", "root:x:0:0::/:/bin/sh"),
        ("group", "physics:x:4301:\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\n"),
    ] {
        fs::write(etc.join(name), text).unwrap();
    }
    machine.sandbox.write_udiroot(&[("populateEtcDynamically", "0")]).unwrap();
    let out = as_nora(&machine, &["sh", "-c", "cat /etc/passwd; sort /etc/group; id -un; id -Gn"]);
    assert_eq!(
        out.out(),
        "root:x:0:0::/:/bin/sh\nnora:x:5300:5300:Nora, of LDAP:/home/nora:/bin/bash\n\
         nora:x:5300:nora\nphysics:x:4301:nora\nproject:x:5400:nora\n\
         nora\nnora physics project\n",
        "{}",
        out.describe()
    );
    finish(machine);
}

#[test]
fn access_is_decided_by_ids_whoever_names_them() {
    let machine = machine();
    for (list, allowed) in [
        ("USERACL: 5300", true),
        ("GROUPACL: 5400", true),
        ("GROUPACL: 5500", false),
        ("USERACL: 4201", false),
    ] {
        machine.sandbox.write_record(&machine.id, &format!("FORMAT: squashfs\n{list}\n")).unwrap();
        let out = as_nora(&machine, &["true"]);
        assert_eq!(out.status.success(), allowed, "{list}: {}", out.describe());
    }
    finish(machine);
}

/// What `setupRoot` itself may be is a batch system's: it says nothing of the job's user.
#[test]
fn setup_root_lets_its_own_groups_decide_or_forgets_those_that_the_service_names() {
    let machine = machine();
    let [setup, unsetup] =
        ["setupRoot", "unsetupRoot"].map(|name| machine.sandbox.program(name).unwrap().display().to_string());
    let nora = ["-U", "5300", "-G", "5300", "-u", "nora", "id"];
    let bob = ["-U", "4202", "-G", "4202", "-u", "bob", "id"];
    for (list, user, own, allowed) in [
        ("USERACL: 5300", nora, "--clear-groups", true),
        ("GROUPACL: 5400", nora, "--clear-groups", true),
        ("GROUPACL: 5400", nora, "--groups=4302", true),
        ("GROUPACL: 5300", nora, "--clear-groups", true),
        ("GROUPACL: 5500", nora, "--clear-groups", false),
        ("GROUPACL: 5500", nora, "--groups=5500", false),
        ("USERACL: 4201", nora, "--groups=4201", false),
        ("USERACL: 0", nora, "--clear-groups", false),
        ("GROUPACL: 0", nora, "--groups=0", false),
        ("GROUPACL: 4301", bob, "--clear-groups", true),
        ("GROUPACL: 4302", bob, "--groups=4302", false),
    ] {
        machine.sandbox.write_record(&machine.id, &format!("FORMAT: squashfs\n{list}\n")).unwrap();
        let words = [&["setpriv", own, setup.as_str()], &user[..], &[machine.id.as_str()]].concat();
        let out = machine.sandbox.root().run(&words).unwrap();
        assert_eq!(out.status.success(), allowed, "{list}, {own}: {}", out.describe());
        assert_eq!(out.err().contains("permission"), !allowed, "{list}, {own}: {}", out.describe());
        let left = fs::read_dir("/run/shifter/jobs").map_or(0, Iterator::count);
        assert_eq!(left > 0, allowed, "{list}, {own}: what is there for a job");
        machine.sandbox.root().run(&[&unsetup]).unwrap().success().unwrap();
    }
    finish(machine);
}

#[test]
fn a_prepared_container_has_the_groups_the_service_names() {
    let machine = machine();
    fs::write(format!("{PLACE}/group"), "nora:x:5300:\nproject:x:5400:nora\nphysics2:x:4301:nora\n").unwrap();
    let setup = machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let words = [setup.as_str(), "-U", "5300", "-G", "5300", "-u", "nora", "id", &machine.id];
    machine.sandbox.root().run(&words).unwrap().success().unwrap();
    let out = as_nora(&machine, &["-v", "id", "-G"]);
    assert!(out.err().contains("joined "), "{}", out.describe());
    assert_eq!(out.success().unwrap(), "5300 4301 5400\n");
    let unsetup = machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
    machine.sandbox.root().run(&[&unsetup]).unwrap().success().unwrap();
    finish(machine);
}
