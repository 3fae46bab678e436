//! The original's documented job scripts and sshd settings, retyped under `tests/documents/`, do what its documents say
//! where a batch system has prepared the job; no batch system runs here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cluster::{Cluster, IDENTITY};
use common::{Machine, shell_image};
use shifter_tests::fixture::{Entry, dir, file, program_entries};
use shifter_tests::harness::Outcome;
use std::fs;
use std::time::Duration;

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
    command.env("SLURM_NODELIST", "n[1-2]").env("PATH", "/home/batch:/usr/bin:/bin").run(&[&script]).unwrap()
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

#[test]
fn a_script_outside_reaches_the_containers_by_the_nodes_own_sshd() {
    let cluster = Cluster::new(Machine::new(&image(), ""), 2);
    cluster.setup();
    let settings =
        format!("Host n1 n2\\n IdentityFile {IDENTITY}\\n StrictHostKeyChecking no\\n LogLevel ERROR\\n");
    cluster.machine.host(&format!(
        "mkdir -p /run/sshd /home/batch /home/alice/.ssh; cat {IDENTITY}.pub > /home/alice/.ssh/authorized_keys; \
         printf '{settings}' > /home/alice/.ssh/config; chown -R alice: /home/alice/.ssh; \
         printf '#!/bin/sh\\nprintf \"n1\\\\nn2\\\\n\"\\n' > /home/batch/scontrol; chmod 0755 /home/batch/scontrol; \
         ssh-keygen -q -t ed25519 -N '' -f /run/host_key"
    ));
    let sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", "/run/host_key", "-o", "PidFile=none"];
    let mut daemons = [0, 1].map(|node| cluster.root(node).spawn(&sshd).unwrap());
    let script = include_str!("../documents/batch.outside-ssh.sh");
    let mut out = run(&cluster, script);
    for _ in 0..100 {
        if out.status.success() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50)); // until both listen
        out = run(&cluster, script);
    }
    assert_eq!(out.success().unwrap(), "mine on n1\nmine on n2\n");
    for daemon in &mut daemons {
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    cluster.unsetup();
    cluster.machine.finish();
}
