//! Slurm without the plugin: the Prolog and Epilog that we ship, run by a real Slurm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::{PLACEMENTS, SlurmSite, image_named, script};
use shifter_tests::harness::{Sandbox, SlurmOptions};
use std::fs;

/// The scripts, compiled in: a sandbox hides where they lie.
const SCRIPTS: [(&str, &str); 2] = [
    ("Prolog", include_str!("../../dist/slurm/prolog")),
    ("Epilog", include_str!("../../dist/slurm/epilog")),
];

/// A cluster that knows nothing of Shifter but the two scripts, with OpenSSH for its containers.
fn site(nodes: usize) -> SlurmSite {
    let mut sandbox = Sandbox::with_own_network().unwrap();
    let munged = sandbox.munged("site").unwrap();
    let tree = sandbox.prefix().join("udiImage");
    fs::create_dir(&tree).unwrap();
    sandbox.install_openssh(&tree).unwrap();
    let tree = tree.display().to_string();
    sandbox.write_udiroot(&[("optUdiImage", &tree), ("siteEnvAppend", "PATH=/opt/udiImage/bin")]).unwrap();
    let id = sandbox.install_image(&image_named("first\n"), "").unwrap();
    let programs = sandbox.program("shifter-prologue").unwrap();
    let sbin = programs.parent().unwrap().display().to_string();
    // No syslog here: what goes wrong is seen by its file.
    let log = script(&sandbox, "logger", "shift 4; echo \"$*\" >> /opt/shifter-test/said");
    let more = SCRIPTS
        .map(|(key, text)| {
            let text =
                text.replace("/opt/shifter/default/sbin", &sbin).replace("logger ", &format!("{log} "));
            (key, script(&sandbox, key, text.trim_start_matches("#!/bin/bash\n")))
        })
        .into();
    let options = SlurmOptions { nodes, cpus: 4, more, ..SlurmOptions::default() };
    let cluster = sandbox.slurm(&munged, &options).unwrap();
    SlurmSite { sandbox, munged, cluster, id }
}

const JOINED: &str = "joined     the container prepared for this job";

#[test]
fn without_the_plugin_a_job_has_its_container_its_hosts_and_ssh_between_them() {
    let site = site(2);
    let comment = format!("--comment=nightly SHIFTER_IMAGE=id:{} SHIFTER_VOLUME=/home:/mnt", site.id);
    let show = "srun shifter -v true 2>&1; shifter cat /var/hostsfile; shifter ls -d /mnt/alice; ";
    let ssh = "shifter sh -c 'ssh node2 uname -n'\n";
    let volume = "export SHIFTER_VOLUME=/home:/mnt\n";
    // Without a key there is a container all the same.
    for (options, hosts, with_key) in [
        (&["-N2", "-n3"][..], "node1 node1 node2", false),
        (&["-N2", "-n3"], "node1 node1 node2", true),
        (&["-N2", "--ntasks-per-node=2"], "node1 node1 node2 node2", true),
        (&["-N2", "-n4", "-c2"], "node1 node1 node2 node2", true),
        (&["-N1", "-n1", "-wnode2"], "node2", true),
    ] {
        if with_key && !fs::exists("/home/alice/.udiRoot").unwrap() {
            let make = "mkdir -m 0700 .udiRoot && ssh-keygen -q -t ed25519 -N '' -f .udiRoot/id_ed25519.key";
            site.run("alice", &["sh", "-c", make]).success().unwrap();
        }
        let words = [options, &["--exclusive", &comment]].concat();
        let text = format!("{volume}{show}{}", if with_key { ssh } else { "echo node2" });
        let out = site.batch_well("alice", &words, &text);
        let said = fs::read_to_string("/opt/shifter-test/said").unwrap_or_default();
        assert_eq!(out.matches(JOINED).count(), hosts.split(' ').count(), "{options:?}: {out}\n{said}");
        let end = format!("{}\n/mnt/alice\nnode2\n", hosts.replace(' ', "\n"));
        assert!(out.ends_with(&end), "{options:?}: {out}\n{said}");
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        assert_eq!((site.containers(1).as_str(), site.containers(2).as_str()), ("", ""), "{said}");
    }
    for options in PLACEMENTS {
        site.assert_hosts_are_where_srun_puts_tasks(&[options, &["--exclusive", &comment]].concat());
    }
    // Where a node is not the job's alone, a second job of the user's has its container too.
    let first = format!("{volume}srun shifter sh -c 'echo > up; while [ ! -e done ]; do sleep 0.1; done'\n");
    let first = site.submit("alice", &["-n1", "-wnode1", &comment], &first);
    site.text_of("/home/alice/up");
    let second = format!("{volume}srun shifter -v true 2>&1; touch done\n");
    let out = site.batch_well("alice", &["-n1", "-wnode1", &comment], &second);
    assert!(out.contains(JOINED), "{out}\n{:?}", fs::read_to_string("/opt/shifter-test/said"));
    assert_eq!(site.end_of(&first), "COMPLETED");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    // Nor does a user's mistake cost the node.
    let comment = "--comment=SHIFTER_IMAGE=local:/etc";
    assert_eq!(site.batch_well("alice", &[comment], "echo ran\n"), "ran\n");
    let said = fs::read_to_string("/opt/shifter-test/said").unwrap();
    assert!(
        said.contains("images of type local are not allowed here") && said.lines().count() == 1,
        "{said}"
    );
    site.finish();
}
