//! The life of a job's sshd: it ends with the job, with all that was started through it, whatever is killed meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cluster::Cluster;
use common::{Machine, shell_image};
use std::path::Path;
use std::time::{Duration, Instant};

fn cluster(count: u8) -> Cluster {
    Cluster::new(Machine::new(&shell_image(), ""), count)
}

/// Waits until a user has no process left.
fn all_gone(cluster: &Cluster) -> Duration {
    let started = Instant::now();
    while !cluster.processes().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5), "still there: {}", cluster.processes());
        std::thread::sleep(Duration::from_millis(10));
    }
    started.elapsed()
}

#[test]
fn everything_started_by_ssh_ends_with_the_job_daemons_and_runaways_too() {
    let cluster = cluster(2);
    cluster.setup();
    // A process that is a new one every moment, a daemon, one that shuns signals, and open connections.
    let runaway = "#!/bin/sh\n\"$0\" &\n";
    let crowd = "#!/bin/sh\nulimit -u 150; f() { f & f & sleep 1000; }; f\n";
    std::fs::write("/home/alice/crowd", crowd).unwrap();
    std::fs::write("/home/alice/runaway", runaway).unwrap();
    cluster.machine.host("chmod 0755 /home/alice/runaway /home/alice/crowd");
    let script = "ssh -f n2 'sleep 1000' >/dev/null 2>&1; ssh n2 'setsid sleep 2000 >/dev/null 2>&1 </dev/null &'; \
                  ssh n2 'trap \"\" TERM HUP INT; (while :; do sleep 1; done) >/dev/null 2>&1 </dev/null &'; \
                  for i in 1 2 3 4 5; do ssh n2 'setsid /home/alice/runaway >/dev/null 2>&1 </dev/null &'; done; \
                  ssh n1 'setsid /home/alice/crowd >/dev/null 2>&1 </dev/null &'; echo started";
    assert_eq!(cluster.inside(0, "alice", script).success().unwrap(), "started\n");
    assert!(cluster.processes().contains("sleep 2000"), "{}", cluster.processes());
    // What batch systems read: sshd first, then its keeper.
    let record = cluster.root(0).run(&["cat", "/run/shifter/jobs/1/sshd"]).unwrap().success().unwrap();
    let numbers: Vec<u32> = record.split_whitespace().take(2).map(|word| word.parse().unwrap()).collect();
    let sshd = cluster.processes_of(4201).into_iter().find(|(pid, _)| *pid == numbers[0]).unwrap().1;
    assert!(
        sshd.contains("/opt/udiImage/sbin/sshd -D") && cluster.keepers().contains(&numbers[1]),
        "{record} {sshd}"
    );
    let begun = Instant::now();
    while cluster.processes().matches("/home/alice/crowd").count() < 30 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", cluster.processes());
    }
    // The keeper keeps nothing in use but the job's own directory and container.
    for keeper in cluster.keepers() {
        assert_eq!(std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap(), Path::new("/"));
        let open = std::fs::read_dir(format!("/proc/{keeper}/fd")).unwrap();
        let open = open.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string());
        let kept = ["/dev/null", "/run/shifter/jobs/1", "/1", "mnt:["];
        open.for_each(|file| assert!(kept.iter().any(|known| file.starts_with(known)), "{file}"));
    }
    // Programs of the user's that only look like it are none of ours; they end by their own means.
    let mut same_name =
        cluster.machine.as_user("bob").spawn(&["bash", "-c", "exec -a /opt/udiImage/sbin/sshd sleep 1000"]);
    let same_name = same_name.as_mut().unwrap();
    let started = Instant::now();
    cluster.unsetup();
    all_gone(&cluster);
    println!("unsetupRoot on two nodes and all gone: {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(cluster.keepers().is_empty());
    assert!(same_name.try_wait().unwrap().is_none(), "it was signaled");
    same_name.kill().unwrap();
    same_name.wait().unwrap();
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn a_setup_killed_at_any_moment_leaves_no_sshd() {
    let cluster = cluster(1);
    let program = cluster.machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let id = cluster.machine.id.clone();
    let words = [
        program.as_str(),
        "-U4201",
        "-G4201",
        "-ualice",
        "--job=1",
        "-s",
        &cluster.key,
        "-N",
        "n1/1",
        "id",
        &id,
    ];
    let started = Instant::now();
    cluster.root(0).run(&words).unwrap().success().unwrap();
    let whole = started.elapsed();
    cluster.unsetup();
    for round in 0..30 {
        let mut child = cluster.root(0).spawn(&words).unwrap();
        std::thread::sleep(whole * round / 27);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if !ended.success() {
            // nsenter(1) execs, so this was setupRoot itself: nothing waits for an unsetupRoot.
            let record = cluster.root(0).run(&["cat", "/run/shifter/jobs/1/record"]).unwrap();
            if !record.status.success() {
                all_gone(&cluster);
            }
        }
        cluster.unsetup();
        all_gone(&cluster);
        assert!(cluster.keepers().is_empty(), "round {round}");
    }
    cluster.setup();
    assert_eq!(cluster.inside(0, "alice", "ssh n1 hostname").success().unwrap(), "n1\n");
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn an_unsetup_that_is_killed_ends_sshd_all_the_same() {
    let cluster = cluster(1);
    let program = cluster.machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
    let mut ended_alone = 0;
    for round in 0..12u64 {
        cluster.setup();
        cluster.inside(0, "alice", "ssh -f n1 'sleep 1000' >/dev/null 2>&1").success().unwrap();
        // What it starts comes a little later than ssh goes.
        let begun = Instant::now();
        let sleeps = || cluster.processes_of(4201).iter().any(|(_, words)| words.starts_with("sleep 1000"));
        while !sleeps() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", cluster.processes());
        }
        let mut child = cluster.root(0).spawn(&[&program, "--job=1"]).unwrap();
        // Killed as soon as the keeper was told, or a little later.
        let told = Instant::now();
        while sleeps() && told.elapsed() < Duration::from_secs(5) {}
        std::thread::sleep(Duration::from_micros(round * 300));
        child.kill().unwrap();
        ended_alone += usize::from(!child.wait().unwrap().success());
        all_gone(&cluster);
        cluster.unsetup();
        let jobs = cluster.root(0).run(&["ls", "/run/shifter/jobs"]).unwrap();
        assert_eq!(jobs.out(), "", "{}", jobs.describe());
    }
    println!("killed before their end: {ended_alone} of 12");
    cluster.machine.finish();
}

#[test]
fn what_keeps_sshd_from_starting_is_said_and_leaves_nothing() {
    let cluster = cluster(1);
    let tree = common::cluster::tree(&cluster.machine);
    let refused = |words: &[&str], expected: &str| {
        let said = cluster.setup_on(0, words).failure(1).unwrap();
        assert!(said.starts_with("setupRoot: ") && said.contains(expected), "{words:?}: {said}");
        assert!(cluster.keepers().is_empty(), "{words:?}");
        assert!(cluster.processes().is_empty());
        let left = cluster.root(0).run(&["ls", "/run/shifter/jobs"]).unwrap();
        assert_eq!(left.out(), "", "{words:?}");
    };
    for (key, expected) in [
        ("ssh-ed25519", "one line of a public key file"),
        ("ssh-ed25519 AAAA\nssh-ed25519 AAAB", "one line of a public key file"),
        ("command=\"x\" ssh-ed25519 AAAA", "one line of a public key file"),
        (
            "ssh-rsa AAAAB3NzaC1yc2E",
            "a key of type ssh-rsa is of no use to the sshd here, which knows ssh-ed25519",
        ),
    ] {
        refused(&["-s", key], expected);
    }
    refused(&["-N", ""], "-s needs -N");
    // Another program has the port; then the site's settings are wrong; then there is no sshd at all.
    let occupied = "exec busybox nc -l -p 1204";
    let mut occupant = cluster.root(0).spawn(&["sh", "-c", occupied]).unwrap();
    let listens =
        || cluster.root(0).run(&["sh", "-c", "grep -q ':04B4 ' /proc/net/tcp /proc/net/tcp6"]).unwrap();
    while !listens().status.success() {
        std::thread::sleep(Duration::from_millis(5));
    }
    refused(&[], "FAILED to start sshd");
    occupant.kill().unwrap();
    occupant.wait().unwrap();
    std::fs::write(tree.join("etc/sshd_config"), "Nonsense yes\n").unwrap();
    refused(&[], "Bad configuration option: Nonsense");
    std::fs::remove_file(tree.join("etc/sshd_config")).unwrap();
    std::fs::remove_file(tree.join("etc/ssh_config")).unwrap();
    cluster.setup();
    assert_eq!(
        cluster.inside(0, "alice", "ssh n1 hostname").success().unwrap(),
        "n1\n",
        "the usual settings"
    );
    cluster.unsetup();
    std::fs::remove_file(tree.join("sbin/sshd")).unwrap();
    refused(&[], "-s needs OpenSSH below optUdiImage, which dist/openssh/build makes");
    assert!(!Path::new("/var/run/sshd.pid").exists());
    cluster.machine.finish();
}

#[test]
fn a_configuration_damaged_during_the_job_keeps_no_sshd_alive() {
    let cluster = cluster(1);
    let unsetup = cluster.machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
    for words in [&["--job=1"][..], &[]] {
        cluster.setup();
        let whole = std::fs::read("/etc/shifter/udiRoot.conf").unwrap();
        std::fs::write("/etc/shifter/udiRoot.conf", "udiMnt=/x\n").unwrap();
        let said = cluster.root(0).run(&[&[unsetup.as_str()], words].concat()).unwrap().failure(1).unwrap();
        assert!(said.starts_with("unsetupRoot: FAILED to parse udiRoot configuration."), "{said}");
        assert!(cluster.processes().is_empty() && cluster.keepers().is_empty());
        std::fs::write("/etc/shifter/udiRoot.conf", whole).unwrap();
        cluster.unsetup();
    }
    cluster.machine.finish();
}

#[test]
fn a_killed_keeper_is_told_of() {
    let cluster = cluster(1);
    cluster.setup();
    cluster.inside(0, "alice", "ssh -f n1 'sleep 1000' >/dev/null 2>&1").success().unwrap();
    let kill = |pid: u32| cluster.machine.host(&format!("kill -KILL {pid} || true"));
    let [keeper] = cluster.keepers()[..] else { panic!("{:?}", cluster.keepers()) };
    kill(keeper);
    let program = cluster.machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
    let said = cluster.root(0).run(&[&program, "--job=1"]).unwrap().failure(1).unwrap();
    assert!(said.contains("cannot end sshd: the process that watched over it was killed"), "{said}");
    assert!(!cluster.processes().contains("sbin/sshd -D"), "sshd itself ended with it");
    cluster.unsetup();
    // What was started last may still be on its way when the others are looked for.
    while !cluster.processes().is_empty() {
        cluster.processes_of(4201).iter().for_each(|(pid, _)| drop(kill(*pid)));
    }
    cluster.machine.finish();
}
