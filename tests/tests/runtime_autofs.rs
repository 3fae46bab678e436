//! A siteFs that an automounter mounts when a container wants it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::jobs::{ALICE, is_joined, setup, unsetup};
use common::{Machine, shell_image};
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn an_automounted_file_system_is_there_when_a_container_wants_it() {
    let machine = Machine::new(&shell_image(), "");
    let source = machine.sandbox.prefix().join("exported");
    fs::create_dir_all(source.join("whole")).unwrap();
    fs::write(source.join("whole/file"), "automounted\n").unwrap();
    for later in ["private", "prepared"] {
        fs::create_dir_all(source.join(later)).unwrap();
        fs::write(source.join(later).join("file"), "later\n").unwrap();
    }
    fs::create_dir("/home/auto").unwrap();
    fs::write("/etc/auto.test.master", "/home/auto /etc/auto.test\n").unwrap();
    fs::write("/etc/auto.test", format!("* -fstype=bind :{}/&\n", source.display())).unwrap();
    let root = machine.sandbox.root();
    // In a session of its own: an automounter mounts nothing for its own process group.
    let mut daemon = root.spawn(&["setsid", "automount", "-f", "/etc/auto.test.master"]).unwrap();
    let begin = Instant::now();
    while !fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains(" /home/auto ") {
        assert!(begin.elapsed() < Duration::from_secs(10), "automount does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    machine.sandbox.write_udiroot(&[("siteFs", "/home/auto/whole:/whole")]).unwrap();
    let out = machine.run("alice", &["cat", "/whole/file"]);
    assert_eq!(out.out(), "automounted\n", "{}", out.describe());
    // The automounter's directory itself, below which is mounted what a container looks for.
    machine.sandbox.write_udiroot(&[("siteFs", "/home/auto:/auto")]).unwrap();
    let out = machine.run("alice", &["cat", "/auto/private/file"]);
    assert_eq!(out.out(), "later\n", "{}", out.describe());
    setup(&machine, &ALICE, &[]).success().unwrap();
    assert!(is_joined(&machine, "alice", &[]));
    let out = machine.run("alice", &["cat", "/auto/prepared/file"]);
    assert_eq!(out.out(), "later\n", "{}", out.describe());
    unsetup(&machine, &[]);
    root.run(&["kill", &daemon.id().to_string()]).unwrap().success().unwrap();
    daemon.wait().unwrap();
    machine.finish();
}
