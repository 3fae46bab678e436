//! The test machine's own Slurm: quick to start, like a cluster to look at, and gone without a trace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use shifter_tests::harness::{Sandbox, SlurmOptions};
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
