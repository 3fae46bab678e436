//! The harness keeps its promises: accounts, munge, and above all a leak check that finds each kind of leak.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use shifter_tests::harness::Sandbox;

#[test]
fn accounts_have_exactly_their_ids_and_groups() {
    let sandbox = Sandbox::new().unwrap();
    let cases = [
        ("alice", "uid=4201(alice) gid=4201(alice) groups=4201(alice),4301(physics),4302(chemistry)\n"),
        ("bob", "uid=4202(bob) gid=4202(bob) groups=4202(bob),4301(physics)\n"),
        ("carol", "uid=4203(carol) gid=4203(carol) groups=4203(carol),0(root),4302(chemistry)\n"),
        ("dave", "uid=4204(dave) gid=0(root) groups=0(root)\n"),
    ];
    for (name, expected) in cases {
        assert_eq!(sandbox.user(name).unwrap().run(&["id"]).unwrap().success().unwrap(), expected);
    }
    sandbox.finish().unwrap();
}

#[test]
fn two_munged_do_not_know_each_others_credentials() {
    let mut sandbox = Sandbox::new().unwrap();
    let sockets = ["one", "two"].map(|name| sandbox.munged(name).unwrap().socket.display().to_string());
    let alice = sandbox.user("alice").unwrap();
    let credential = alice.run(&["munge", "-s", "hello", "-S", &sockets[0]]).unwrap().success().unwrap();
    let decode = |socket: &str| sandbox.root().stdin(&credential).run(&["unmunge", "-S", socket]).unwrap();
    assert!(!decode(&sockets[1]).status.success());
    let decoded = decode(&sockets[0]).success().unwrap();
    assert!(decoded.contains("alice (4201)") && decoded.ends_with("hello"), "{decoded}");
    let replayed = decode(&sockets[0]);
    assert!(replayed.out().contains("Replayed"), "{}", replayed.describe());
    sandbox.finish().unwrap();
}

#[test]
fn nothing_of_the_sandbox_is_seen_on_the_host() {
    let sandbox = Sandbox::new().unwrap();
    std::fs::write("/tmp/seen", "x").unwrap();
    std::fs::write("/etc/seen", "x").unwrap();
    for path in ["/proc/1/root/tmp/seen", "/proc/1/root/etc/seen", "/proc/1/root/opt/shifter-test"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
    std::fs::remove_file("/tmp/seen").unwrap();
    sandbox.finish().unwrap();
}

#[test]
fn a_command_that_does_not_end_is_killed_and_its_output_shown() {
    let sandbox = Sandbox::new().unwrap();
    let slow = sandbox.user("alice").unwrap().limit(std::time::Duration::from_millis(300));
    let error = slow.run(&["sh", "-c", "echo begun; exec sleep 60"]).unwrap_err().to_string();
    assert!(error.contains("killed after") && error.contains("begun"), "{error}");
    sandbox.finish().unwrap();
}

#[test]
fn each_kind_of_leak_is_found() {
    let leaks = [
        ("mount", "mkdir /opt/m && mount -t tmpfs leaked /opt/m", "mount "),
        ("process", "setsid sleep 60 >/dev/null 2>&1 </dev/null &", "sleep 60"),
        ("temporary file", "echo x > /var/tmp/leaked", "/var/tmp/leaked"),
        ("loop device", "cd IMAGES && truncate -s 1M disk && losetup --find disk", "loop device"),
    ];
    for (kind, script, expected) in leaks {
        // A thread each, because a sandbox takes over the thread that makes it.
        let found = std::thread::spawn(move || {
            let sandbox = Sandbox::new().unwrap();
            let images = sandbox.images().display().to_string();
            let root = sandbox.root();
            root.run(&["sh", "-c", &script.replace("IMAGES", &images)]).unwrap().success().unwrap();
            let message = sandbox.finish().unwrap_err().to_string();
            // Clean up what this test leaked on purpose.
            let process = message.split_once("process ").and_then(|(_, rest)| rest.split_once(':'));
            let kill = process.map_or_else(String::new, |(pid, _)| format!("kill {pid}; "));
            let script = format!("{kill}losetup -j {images}/disk | cut -d: -f1 | xargs -r losetup -d");
            root.run(&["sh", "-c", &script]).unwrap().success().unwrap();
            message
        });
        let message = found.join().unwrap();
        assert!(message.contains(expected), "{kind}: {message}");
    }
}
