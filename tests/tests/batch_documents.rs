//! The original's documented job scripts and sshd settings, retyped under `tests/documents/`, do what its documents say
//! where a batch system has prepared the job; no batch system runs here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cluster::Cluster;
use common::{Machine, shell_image};
use shifter_tests::fixture::{Entry, dir, file, program_entries};
use shifter_tests::harness::Outcome;
use std::fs;

/// An image with bash and the programs that the scripts name.
fn image() -> Vec<Entry> {
    let mut entries = shell_image();
    for entry in program_entries("bin", &["bash"]).unwrap() {
        if !entries.iter().any(|known| known.name == entry.name) {
            entries.push(entry);
        }
    }
    let program =
        |name: &str, text: &str| file(format!("bin/{name}"), format!("#!/bin/sh\n{text}\n")).mode(0o755);
    entries.push(program(
        "threadedExecutable",
        "tr a-z A-Z < $1/baseData > $2/out; echo $OMP_NUM_THREADS threads",
    ));
    entries.push(program("python", "echo $1; cat $2/out"));
    entries.push(program("yourExecutable", "echo mine on $(hostname)"));
    for place in ["input", "output"] {
        entries.push(dir(place));
    }
    entries
}

/// A job's script as a batch system keeps it, run on the first node as the job's user.
fn run(cluster: &Cluster, text: &str) -> Outcome {
    let prefix = cluster.machine.sandbox.prefix().display().to_string();
    let script = format!("{prefix}/spool/job1/script");
    cluster.machine.host(&format!(
        "mkdir -p {prefix}/spool/job1; chown alice: {prefix}/spool/job1; chmod 0700 {prefix}/spool/job1"
    ));
    let text = text
        .replace("/usr/bin/shifter", &format!("{prefix}/bin/shifter"))
        .replace("\nshifter ", &format!("\n{prefix}/bin/shifter "))
        .replace(" shifter ", &format!(" {prefix}/bin/shifter "))
        .replace("/scratch/sd/you", "/home/alice");
    fs::write(&script, &text).unwrap();
    cluster.machine.host(&format!("chown alice: {script}; chmod 0500 {script}"));
    let volumes: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#SBATCH --volume=")).collect();
    let command = cluster.machine.as_user("alice").on(&cluster.nodes[0]).env("SHIFTER_IMAGETYPE", "id");
    let command = command.env("SHIFTER_IMAGE", &cluster.machine.id).env("SHIFTER_VOLUME", &volumes.join(";"));
    command.run(&[&script]).unwrap()
}

#[test]
fn both_documented_forms_of_a_serial_job_run_in_the_container() {
    let cluster = Cluster::new(Machine::new(&image(), ""), 1);
    cluster
        .machine
        .shell("alice", "cd; mkdir -p exp1/data exp1/results; echo base > baseData")
        .success()
        .unwrap();
    let out = run(&cluster, include_str!("../documents/batch.flow-outside.sh")).success().unwrap();
    assert_eq!(out, "32 threads\n");
    assert_eq!(fs::read_to_string("/home/alice/exp1/results/out").unwrap(), "BASE\n");
    let out = run(&cluster, include_str!("../documents/batch.whole-script.sh")).success().unwrap();
    assert_eq!(out, "32 threads\nmyComplexPostProcessingScript.py\nBASE\n");
    cluster.machine.finish();
}

#[test]
fn the_original_settings_of_sshd_let_a_job_reach_all_its_nodes() {
    let cluster = Cluster::new(Machine::new(&image(), ""), 2);
    let etc = common::cluster::tree(&cluster.machine).join("etc");
    fs::write(etc.join("sshd_config"), include_str!("../documents/sshd_config.original")).unwrap();
    fs::write(etc.join("ssh_config"), include_str!("../documents/ssh_config.original")).unwrap();
    // Where the original's users had their key.
    cluster.machine.shell("alice", "cd ~/.udiRoot && mv id_ed25519.key id_rsa.key").success().unwrap();
    cluster.setup();
    let out = run(&cluster, include_str!("../documents/batch.inside-ssh.sh"));
    assert_eq!(out.success().unwrap(), "mine on n1\nmine on n2\n");
    // The cheap handshake, also with settings that say nothing of it.
    let out = cluster.inside(0, "alice", "ssh -v n2 true 2>&1 | grep -o 'kex: algorithm: .*'");
    assert!(out.out().starts_with("kex: algorithm: curve25519-sha256"), "{}", out.describe());
    cluster.unsetup();
    cluster.machine.finish();
}
