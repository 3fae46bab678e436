//! Launchers that use ssh: an mpiexec in the image between a job's containers, and the site's own sshd from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cluster::Cluster;
use common::mpi::{PROGRAM, assert_ranks, image};
use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, program_entries};
use std::fs;
use std::time::Duration;

#[test]
fn an_mpiexec_of_the_image_launches_over_ssh_on_all_nodes() {
    // What mpichversion is linked with is what every MPICH program is.
    let programs = ["mpiexec.hydra", "hydra_pmi_proxy", "mpichversion"];
    let mut entries = image(program_entries("usr/bin", &programs).unwrap());
    entries.push(dir("usr/bin"));
    let cluster = Cluster::new(Machine::new(&entries, ""), 3);
    fs::write("/home/alice/sum.c", PROGRAM).unwrap();
    cluster.machine.shell("alice", "cd && mpicc.mpich -o sum sum.c").success().unwrap();
    cluster.setup();
    // Two on each node, as the batch system's list says.
    let script = "cd; mpiexec.hydra -f /var/hostsfile -launcher ssh -n 6 ~/sum";
    let out = cluster.inside(0, "alice", script).success().unwrap();
    assert_ranks(&out, 6, "n", "");
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn from_outside_ssh_to_a_node_and_shifter_join_the_jobs_container() {
    let cluster = Cluster::new(Machine::new(&shell_image(), ""), 2);
    cluster.setup();
    // A node's own sshd, as sites have it.
    let prepare = "mkdir -p /run/sshd /home/alice/.ssh; cat /home/alice/.udiRoot/*.pub > /home/alice/.ssh/authorized_keys; \
                   chown -R alice: /home/alice/.ssh; ssh-keygen -q -t ed25519 -N '' -f /run/host_key";
    cluster.machine.host(prepare);
    let sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", "/run/host_key", "-o", "Port=22"];
    let mut sshd =
        cluster.root(1).spawn(&[&sshd[..], &["-o", "UsePAM=no", "-o", "PidFile=none"]].concat()).unwrap();
    let shifter = cluster.machine.sandbox.program("shifter").unwrap().display().to_string();
    let words = |command: &str| {
        let usual = "ssh -F none -i ~/.udiRoot/id_ed25519.key -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR";
        cluster.machine.as_user("alice").on(&cluster.nodes[0]).run(&[
            "sh",
            "-c",
            &format!("{usual} n2 {command}"),
        ])
    };
    let ready = || words("true").unwrap().status.success();
    for _ in 0..500 {
        if ready() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = words(&format!("{shifter} -v sh -c '\"hostname; cat /var/hostsfile\"'")).unwrap();
    assert!(out.err().contains("joined     the container prepared for this job"), "{}", out.describe());
    assert_eq!(out.success().unwrap(), "n2\nn1\nn1\nn2\nn2\n");
    sshd.kill().unwrap();
    sshd.wait().unwrap();
    cluster.unsetup();
    cluster.machine.finish();
}
