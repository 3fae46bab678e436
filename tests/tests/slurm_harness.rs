//! The test machine's own Slurm: quick to start, like a cluster to look at, and gone without a trace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::SlurmSite;
use shifter_tests::harness::{Sandbox, SlurmOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn start_and_use(nodes: usize) {
    let mut sandbox = Sandbox::with_own_network().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let started = Instant::now();
    let cluster = sandbox.slurm(&munged, &SlurmOptions { nodes, ..SlurmOptions::default() }).unwrap();
    let took = started.elapsed();
    println!("{nodes} nodes idle after {took:?}");
    let count = nodes.to_string();
    let out = sandbox.user("alice").unwrap().run(&["srun", "-N", &count, "sh", "-c", "hostname; id -un"]);
    let out = out.unwrap().success().unwrap();
    let mut hosts: Vec<&str> = out.lines().filter(|line| line.starts_with("node")).collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!((hosts.len(), out.matches("alice").count()), (nodes, nodes), "{out}");
    cluster.finish(&mut sandbox).unwrap();
    sandbox.finish().unwrap();
    // About one where nothing else runs.
    assert!(took < Duration::from_secs(10), "{nodes} nodes took {took:?}");
}

#[test]
fn two_nodes_start_quickly_and_leave_nothing() {
    start_and_use(2);
}

#[test]
fn sixteen_nodes_start_quickly_and_leave_nothing() {
    start_and_use(16);
}

/// Says to the test below that it is the one to be killed.
const VICTIM: &str = "SHIFTER_TEST_IS_TO_BE_KILLED";

/// Every process of the machine: its parent, and since when it is there.
fn processes() -> BTreeMap<u32, (u32, String)> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let looked_at = numbers.filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        (fields[0] != "Z").then(|| (pid, (fields[1].parse().unwrap(), fields[19].to_owned())))
    });
    looked_at.collect()
}

fn namespaces(pid: u32) -> Vec<String> {
    let name = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    ["mnt", "net", "pid", "uts", "ipc"]
        .into_iter()
        .filter_map(name)
        .map(|id| id.display().to_string())
        .collect()
}

#[test]
fn a_killed_test_leaves_no_cluster() {
    if std::env::var_os(VICTIM).is_some() {
        let site = SlurmSite::new(2, "");
        let script = "srun shifter sh -c 'echo > up; sleep 1000'\n";
        site.submit("alice", &["-N2", "--exclusive", &site.image()], script);
        site.text_of("/home/alice/up");
        println!("\nready");
        std::thread::sleep(Duration::from_secs(600));
    }
    let name = "a_killed_test_leaves_no_cluster";
    let program = std::env::current_exe().unwrap();
    let words = ["--exact", name, "--nocapture"];
    let mut test = Command::new(program).args(words).env(VICTIM, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "it ended too early");
    // All below it, and what is with these in namespaces that are not this test's.
    let before = processes();
    let mut family = BTreeSet::from([test.id()]);
    let (mut foreign, own) = (BTreeSet::new(), namespaces(std::process::id()));
    loop {
        let seen = (family.len(), foreign.len());
        for (pid, (parent, _)) in &before {
            let of_these = namespaces(*pid);
            if family.contains(parent) || of_these.iter().any(|id| foreign.contains(id)) {
                family.insert(*pid);
            }
            if family.contains(pid) {
                foreign.extend(of_these.into_iter().filter(|id| !own.contains(id)));
            }
        }
        if seen == (family.len(), foreign.len()) {
            break;
        }
    }
    let words = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let there = |name: &str| family.iter().filter(|pid| words(pid).contains(name)).count();
    for (name, least) in
        [("munged", 1), ("slurmctld", 1), ("slurmd\0", 2), ("slurmstepd", 4), ("sleep\x001000", 2)]
    {
        assert!(there(name) >= least, "{name}: {:?}", family.iter().map(words).collect::<Vec<_>>());
    }
    let mark = format!("sandbox-{}-", test.id());
    let left = || -> Vec<String> {
        let now = processes();
        let same = family.iter().filter(|pid| now.get(pid).is_some_and(|(_, since)| *since == before[pid].1));
        let mut left: Vec<String> = same.map(|pid| format!("{pid} {}", words(pid))).collect();
        let mounts = fs::read_to_string("/proc/1/mountinfo").unwrap();
        let is_its = |line: &&str| line.contains(&mark) || foreign.iter().any(|id| line.contains(id));
        left.extend(mounts.lines().filter(is_its).map(str::to_owned));
        for block in fs::read_dir("/sys/block").unwrap().flatten() {
            let file = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
            left.extend(file.contains(&mark).then_some(file));
        }
        left
    };
    assert!(left().iter().any(|what| what.contains("/images/")), "no loop device is seen: {:?}", left());
    test.kill().unwrap();
    test.wait().unwrap();
    let killed = Instant::now();
    while !left().is_empty() {
        assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", left());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("gone after {:?}", killed.elapsed());
}
