//! ssh in a job as launchers and people use it: an mpiexec that launches by it, the site's own sshd from outside, the
//! site's settings, and hosts that are none of the job's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::mpi::{PROGRAM, assert_ranks, image};
use common::slurm::{SlurmSite, offer_openssh};
use shifter_tests::fixture::{dir, program_entries};
use shifter_tests::harness::SlurmOptions;
use std::fs;
use std::path::Path;

fn site(make: impl FnOnce(&Path)) -> SlurmSite {
    let options = SlurmOptions { nodes: 2, cpus: 4, ..SlurmOptions::default() };
    SlurmSite::with("enable_sshd=1", options, |sandbox, _| make(&offer_openssh(sandbox, &[])))
}

/// A key of alice's own, in the place where ssh looks for it.
fn own_key(site: &SlurmSite) {
    let keygen = "mkdir -m 0700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    site.run("alice", &["bash", "-c", keygen]).success().unwrap();
}

/// Root's words for an sshd of a distribution.
const SSHD: &str = "mkdir -p /run/sshd /run/own; ssh-keygen -q -t ed25519 -N '' -f /run/own/key; \
    exec /usr/sbin/sshd -f /dev/null -h /run/own/key -o UsePAM=no -o PidFile=/run/own/pid";

#[test]
fn an_mpiexec_of_the_image_launches_over_ssh_on_the_nodes_of_a_job() {
    let site = site(|_| {});
    // What mpichversion is linked with is what every MPICH program is.
    let programs = ["mpiexec.hydra", "hydra_pmi_proxy", "mpichversion"];
    let mut entries = image(program_entries("usr/bin", &programs).unwrap());
    entries.push(dir("usr/bin"));
    let image = format!("--image=id:{}", site.sandbox.install_image(&entries, "").unwrap());
    fs::write("/home/alice/sum.c", PROGRAM).unwrap();
    site.run("alice", &["mpicc.mpich", "-o", "sum", "sum.c"]).success().unwrap();
    let script = "shifter mpiexec.hydra -f /var/hostsfile -launcher ssh -n 4 ~/sum 2>&1\n";
    let out = site.batch_well("alice", &["-N2", "-n4", "--exclusive", &image], script);
    assert_ranks(&out, 4, "node", &site.logs());
    site.finish();
}

#[test]
fn from_outside_ssh_to_a_node_of_the_job_and_shifter_join_its_container() {
    let site = site(|_| {});
    own_key(&site);
    site.run("alice", &["cp", ".ssh/id_ed25519.pub", ".ssh/authorized_keys"]).success().unwrap();
    // As sites have it on their nodes.
    site.on_node(2, SSHD);
    let script = "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR node2 \
        \"/opt/shifter-test/bin/shifter -v sh -c 'uname -n; cat /var/hostslist /etc/which'\" 2>&1\n";
    let out = site.batch_well("alice", &["-N2", "--exclusive", &site.image()], script);
    assert!(out.contains("joined     the container prepared for this job"), "{out}\n{}", site.logs());
    assert!(out.ends_with("node2\nnode1\nnode2\nfirst\n"), "{out}");
    site.on_node(2, "kill $(cat /run/own/pid)");
    site.finish();
}

#[test]
fn a_jobs_key_and_port_are_for_its_nodes_alone_and_the_sites_settings_stay() {
    const PORT: &str = "2204";
    let site = site(|tree| {
        let client = format!(
            "Host *\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nPort {PORT}\nLogLevel ERROR\nConnectionAttempts 10\n"
        );
        fs::write(tree.join("etc/ssh_config"), client).unwrap();
        let server = format!(
            "Port {PORT}\nAllowUsers ToBeReplaced\nAuthorizedKeysFile /home/%u/.ssh/authorized_keys\n\
             PasswordAuthentication yes\nSetEnv OF_SITE=yes\nForceCommand echo $OF_SITE $SSH_ORIGINAL_COMMAND\n"
        );
        fs::write(tree.join("etc/sshd_config"), server).unwrap();
    });
    own_key(&site);
    // A host that users log in to, or keep their sources on; it lets the job's key in, should somebody offer it.
    let words = format!("{SSHD} -o Port=22 -o Port={PORT} -D -e");
    let mut login = site.sandbox.root().spawn(&["bash", "-c", &words]).unwrap();
    let inside = "job=~/.udiRoot/$(echo $SLURM_SPANK_SHIFTER_SSH_PUBKEY | cut -d' ' -f3); \
        ssh node2 word; \
        go='-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'; \
        cat $job.pub > ~/.ssh/authorized_keys; \
        ssh $go login echo in && echo the key of the job was offered; \
        ssh $go -i $job login echo 'port $SSH_CONNECTION'; \
        cat ~/.ssh/id_ed25519.pub > ~/.ssh/authorized_keys; \
        ssh $go login echo 'port $SSH_CONNECTION'";
    fs::write("/home/alice/inside.sh", inside).unwrap();
    // Their keys, as anybody sees them.
    let script = format!(
        "scan() {{ ssh-keyscan -t ed25519 -p {PORT} node1 node2 2>/dev/null | cut -d' ' -f3; }}\n\
         until [ $(scan | wc -l) = 2 ]; do sleep 0.1; done; scan > keys-$SLURM_JOB_ID; shifter sh ./inside.sh 2>&1\n"
    );
    let mut keys = Vec::new();
    for job in 1..=2 {
        let out = site.batch_well("alice", &["-N2", "--exclusive", &site.image()], &script);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 4, "{out}\n{}", site.logs());
        assert_eq!(lines[0], "yes word", "{out}");
        assert!(lines[1].contains("Permission denied (publickey"), "{out}");
        for line in &lines[2..] {
            assert!(line.starts_with("port 10.250.0.11 ") && line.ends_with(" 10.250.0.1 22"), "{out}");
        }
        let shown = fs::read_to_string(format!("/home/alice/keys-{job}")).unwrap();
        keys.extend(shown.lines().map(str::to_owned));
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 4, "nodes have keys of their own, and jobs others: {keys:?}");
    login.kill().unwrap();
    login.wait().unwrap();
    site.finish();
}
