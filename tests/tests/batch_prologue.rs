//! Batch systems without the plugin: the prologue and epilogue scripts that we ship, run as Torque and Slurm run them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cluster::Cluster;
use common::{Machine, shell_image};
use shifter_tests::harness::{Outcome, UserCommand};
use std::fs;

/// The scripts, compiled in: a sandbox hides where they lie.
const SCRIPTS: [(&str, &str); 4] = [
    ("torque-prologue", include_str!("../../dist/torque/prologue")),
    ("torque-epilogue", include_str!("../../dist/torque/epilogue")),
    ("slurm-prolog", include_str!("../../dist/slurm/prolog")),
    ("slurm-epilog", include_str!("../../dist/slurm/epilog")),
];

struct Site {
    cluster: Cluster,
    bin: String,
}

/// Two nodes, the scripts, and the commands of batch systems and of the system log that they call.
fn site() -> Site {
    let cluster = Cluster::new(Machine::new(&shell_image(), ""), 2);
    let machine = &cluster.machine;
    machine.host("mkdir /home/batch");
    let bin = "/home/batch".to_owned();
    let log = "#!/bin/sh\nshift 4; echo \"$*\" >> /home/batch/log\n";
    let qstat = "#!/bin/sh\ntest \"$1\" = -f && cat /home/batch/job.$2\n";
    let scontrol = "#!/bin/sh\ntest \"$*\" = 'show hostnames n[1-2]' && printf 'n1\\nn2\\n'\n";
    let squeue = "#!/bin/sh\necho '76 OK 9 N/A 1'; echo '77 NO 2 N/A 1'\n";
    let of_batch = [("logger", log), ("qstat", qstat), ("scontrol", scontrol), ("squeue", squeue)];
    for (name, text) in SCRIPTS.into_iter().chain(of_batch) {
        fs::write(format!("{bin}/{name}"), text).unwrap();
        machine.host(&format!("chmod 0755 {bin}/{name}"));
    }
    // Answers like the gateway's client, and tells who asked.
    let lookup = format!(
        "#!/bin/sh\nid -u >> /tmp/asked\ntest \"$*\" = 'lookup docker:debian:12' && echo {} && exit 0\nexit 1\n",
        machine.id
    );
    machine.script("bin/shifterimg", &lookup);
    machine.host("chmod 0755 /opt/shifter-test/bin/shifterimg");
    Site { cluster, bin }
}

impl Site {
    fn root(&self, node: usize) -> UserCommand {
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", self.bin);
        let sbin = self.cluster.machine.sandbox.prefix().join("sbin").display().to_string();
        self.cluster.root(node).env("PATH", &path).env("SHIFTER_SBIN", &sbin)
    }

    /// Runs a script on both nodes; it must be silent and end with status 0, as a node must not be drained.
    fn on_all(&self, command: impl Fn(UserCommand) -> UserCommand, words: &[&str]) {
        let script = format!("{}/{}", self.bin, words[0]);
        for node in 0..2 {
            let words = [&[script.as_str()], &words[1..]].concat();
            let out = command(self.root(node)).run(&words).unwrap();
            assert!(
                out.status.success() && out.out().is_empty() && out.err().is_empty(),
                "{}",
                out.describe()
            );
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string("/home/batch/log").unwrap_or_default();
        let _none = fs::remove_file("/home/batch/log");
        text
    }

    fn asked(&self) -> String {
        let text = fs::read_to_string("/tmp/asked").unwrap_or_default();
        let _none = fs::remove_file("/tmp/asked");
        text
    }

    fn slurm(comment: &'static str) -> impl Fn(UserCommand) -> UserCommand {
        move |command| {
            command
                .env("SLURM_JOB_ID", "77")
                .env("SLURM_JOB_USER", "alice")
                .env("SLURM_NODELIST", "n[1-2]")
                .env("SLURM_JOB_CPUS_PER_NODE", "2(x2)")
                .env("SLURM_JOB_COMMENT", comment)
        }
    }

    /// `shifter` in the job, without any image named.
    fn in_job(&self, node: usize, script: &str) -> Outcome {
        let words = self.cluster.machine.program(&["-v", "sh", "-c", script]);
        self.cluster.machine.as_user("alice").on(&self.cluster.nodes[node]).run(&words).unwrap()
    }

    fn nothing_left(&self) {
        let nhc = self.cluster.machine.sandbox.program("shifter-nhc").unwrap().display().to_string();
        for node in 0..2 {
            let out = self.root(node).run(&[&nhc]).unwrap();
            assert!(out.status.success() && out.err().is_empty(), "{}", out.describe());
        }
        assert!(self.cluster.processes().is_empty() && self.cluster.keepers().is_empty());
    }
}

#[test]
fn slurms_prolog_prepares_the_job_and_its_epilog_takes_everything_down() {
    let site = site();
    let job = Site::slurm("nightly SHIFTER_IMAGE=docker:debian:12 SHIFTER_VOLUME=/home:/mnt");
    site.on_all(&job, &["slurm-prolog"]);
    assert_eq!(
        (site.log().as_str(), site.asked().as_str()),
        ("", "4201\n4201\n"),
        "the user's own rights decide"
    );
    let words = ["-V", "/home:/mnt", "sh", "-c", "ssh n2 'hostname; cat /var/hostsfile; ls -d /mnt/alice'"];
    let words = site.cluster.machine.program(&words);
    let out = site.cluster.machine.as_user("alice").on(&site.cluster.nodes[0]).run(&words).unwrap();
    assert_eq!(out.success().unwrap(), "n2\nn1\nn2\n/mnt/alice\n");
    // What runs is no leftover, and everything else is.
    let nhc = site.cluster.machine.sandbox.program("shifter-nhc").unwrap().display().to_string();
    let out = site.root(0).run(&[&nhc, "--jobs=3,77"]).unwrap();
    assert!(out.status.success(), "{}", out.describe());
    let record = "/run/shifter/jobs/77/sshd";
    let keeper = "cut -d' ' -f2 /run/shifter/record | tr -d '\n'";
    let hide = format!(
        "mv {record} /run/shifter/record; mkdir /run/shifter/slurm; : > /run/shifter/slurm/88.failed; {keeper}"
    );
    let keeper = site.root(0).run(&["sh", "-c", &hide]).unwrap().success().unwrap();
    let said = site.root(0).run(&[&nhc, "--jobs=3,77"]).unwrap().failure(1).unwrap();
    let expected = format!("shifter-nhc: notes on job 88 are left, process {keeper} is left of an sshd\n");
    assert_eq!(said, expected);
    let show = format!("mv /run/shifter/record {record}; rm -r /run/shifter/slurm");
    site.root(0).run(&["sh", "-c", &show]).unwrap().success().unwrap();
    let said = site.root(0).run(&[&nhc, "--jobs=3"]).unwrap().failure(1).unwrap();
    assert!(said.starts_with("shifter-nhc: a container prepared for job 77 is left, "), "{said}");
    assert!(
        said.contains(" mounts are left at /opt/shifter-test/udi") && said.lines().count() == 1,
        "{said}"
    );
    site.on_all(&job, &["slurm-epilog"]);
    site.on_all(&job, &["slurm-epilog"]);
    assert_eq!(site.log(), "");
    site.nothing_left();
    site.cluster.machine.finish();
}

#[test]
fn torques_prologue_reads_what_the_server_knows_of_the_job() {
    let site = site();
    let job = "Job Id: 12[3].server\n    Job_Name = x; rm -rf /\n    exec_host = n1/0-1+n2/0*2\n    \
               Variable_List = PBS_O_HOME=/home/alice,SHIFTER_IMAGE=docker:deb\n\tian:12,\n\tSHIFTER_MODULE=one\\,two,\
               A=$(touch /tmp/ran)\n    etime = now\n";
    fs::write("/home/batch/job.12[3].server", job).unwrap();
    let keys = [
        ("module_one_siteEnv", "ONE=1"),
        ("module_two_siteEnv", "TWO=2"),
        ("siteEnvAppend", "PATH=/opt/udiImage/bin"),
    ];
    let tree = common::cluster::tree(&site.cluster.machine).display().to_string();
    site.cluster.machine.sandbox.write_udiroot(&[&keys[..], &[("optUdiImage", &tree)]].concat()).unwrap();
    let words =
        |script| [script, "12[3].server", "alice", "users", "name", "limits", "list", "queue", "account"];
    site.on_all(|command| command, &words("torque-prologue"));
    assert_eq!(site.log(), "");
    let words_in = site.cluster.machine.program(&[
        "-v",
        "-m",
        "one,two",
        "sh",
        "-c",
        "echo $ONE$TWO; ssh n2 'echo $TWO; cat /var/hostsfile'",
    ]);
    let out = site.cluster.machine.as_user("alice").on(&site.cluster.nodes[0]).run(&words_in).unwrap();
    assert!(out.err().contains("joined     "), "{}", out.describe());
    assert_eq!(out.success().unwrap(), "12\n2\nn1\nn1\nn2\nn2\n");
    assert!(!std::path::Path::new("/tmp/ran").exists());
    site.on_all(|command| command, &words("torque-epilogue"));
    assert_eq!(site.log(), "");
    site.nothing_left();
    let _asked = site.asked();
    site.cluster.machine.finish();
}

#[test]
fn what_a_user_asks_for_drains_no_node_and_reaches_no_shell() {
    let site = site();
    for (comment, expected) in [
        ("", ""),
        ("a comment of the user's", ""),
        ("SHIFTER_IMAGE=", ""),
        ("SHIFTER_IMAGE=docker:other", "FAILED to lookup image docker:other"),
        ("SHIFTER_IMAGE=docker:$(touch${IFS}/tmp/ran)", "cannot be part of a docker image name"),
        ("SHIFTER_IMAGE=--help", "FAILED to lookup image docker:--help"),
        ("SHIFTER_IMAGE=docker:debian:12 SHIFTER_VOLUME=/a:/etc", "cannot be a target"),
        ("SHIFTER_IMAGE=docker:debian:12 SHIFTER_MODULE=none,such", "Unknown shifter module"),
        ("SHIFTER_IMAGE=local:/etc", "images of type local are not allowed here"),
        ("SHIFTER_IMAGE=id:../../etc", "cannot be part of a id image name"),
    ] {
        site.on_all(Site::slurm(comment), &["slurm-prolog"]);
        let log = site.log();
        match expected {
            "" => assert_eq!(log, "", "{comment}"),
            _ => assert!(
                log.contains("shifter-prologue: job 77: ") && log.contains(expected),
                "{comment}: {log}"
            ),
        }
        site.nothing_left();
        site.on_all(Site::slurm(comment), &["slurm-epilog"]);
        assert_eq!(site.log(), "");
    }
    assert!(!std::path::Path::new("/tmp/ran").exists());
    // A node that lost its site's tree, users nobody knows, and root's own jobs.
    let program = site.cluster.machine.sandbox.program("shifter-prologue").unwrap().display().to_string();
    for (user, expected) in [
        ("nobody-here", "there is no user \"nobody-here\""),
        ("root", "ordinary users"),
        ("dave", "ordinary users"),
    ] {
        let said = site.root(0).run(&[&program, "5", user, "docker:debian:12"]).unwrap().failure(1).unwrap();
        assert!(said.contains(expected), "{user}: {said}");
    }
    let said =
        site.cluster.machine.as_user("alice").run(&[&program, "5", "alice", "docker:debian:12"]).unwrap();
    assert!(said.err().contains("run it as root"), "{}", said.describe());
    // A key of somebody else's is not read for her.
    site.cluster.machine.host("install -m 0600 /home/bob/.udiRoot/id_ed25519.key.pub /home/batch/secret");
    let words =
        [program.as_str(), "--nodes=n1", "--key-file=/home/batch/secret", "5", "alice", "docker:debian:12"];
    let said = site.root(0).run(&words).unwrap().failure(1).unwrap();
    assert!(said.contains("Permission denied"), "{said}");
    // Without a key there is a container and no sshd.
    let words = [program.as_str(), "--nodes=n1", "--key-file=~/none.pub", "5", "alice", "docker:debian:12"];
    site.root(0).run(&words).unwrap().success().unwrap();
    assert!(site.cluster.keepers().is_empty());
    assert!(site.in_job(0, "true").err().contains("joined     "));
    let epilogue = site.cluster.machine.sandbox.program("shifter-epilogue").unwrap().display().to_string();
    site.root(0).run(&[&epilogue, "5.server", "alice"]).unwrap().success().unwrap();
    site.nothing_left();
    let _asked = site.asked();
    site.cluster.machine.finish();
}

#[test]
fn the_burst_buffer_that_comes_after_the_prolog_is_seen_in_the_container() {
    let site = site();
    let machine = &site.cluster.machine;
    let hook = machine.script("pre.sh", "mkdir -p var/opt/cray/dws\n");
    machine.sandbox.write_udiroot(&[("sitePreMountHook", &hook)]).unwrap();
    let helper = machine.sandbox.program("shifter_slurm_dws_support").unwrap().display().to_string();
    let run = |words: &[&str]| site.root(0).run(&[&[helper.as_str()], words].concat()).unwrap();
    let quiet = |words: &[&str]| {
        let out = run(words);
        assert!(out.status.success() && out.err().is_empty(), "{}", out.describe());
    };
    quiet(&[]); // no container, no burst buffer
    let setup = machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let words = [setup.as_str(), "-U4201", "-G4201", "-ualice", "--job=1", "id", &machine.id];
    site.root(0).run(&words).unwrap().success().unwrap();
    let node = |script: &str| site.root(0).run(&["sh", "-ec", script]).unwrap().success().unwrap();
    let seen = || {
        let words = machine.words(&["sh", "-c", "cat /var/opt/cray/dws/mounts/*/file"]);
        machine.as_user("alice").on(&site.cluster.nodes[0]).run(&words).unwrap().out()
    };
    node(
        "mount -t tmpfs -o mode=0755 dws /var/opt; mkdir -p /var/opt/cray/dws/mounts/7 /var/opt/cray/dws/mounts/8; \
          mount -t tmpfs seven /var/opt/cray/dws/mounts/7; echo seven > /var/opt/cray/dws/mounts/7/file",
    );
    quiet(&[]);
    assert_eq!(seen(), "seven\n");
    // Later mounts come by themselves; a second run replaces the first.
    node("mount -t tmpfs eight /var/opt/cray/dws/mounts/8; echo eight > /var/opt/cray/dws/mounts/8/file");
    assert_eq!(seen(), "seven\neight\n");
    quiet(&[]);
    quiet(&[]);
    assert_eq!(seen(), "seven\neight\n");
    let stacked = node("grep -c 'udi/var/opt/cray/dws ' /proc/self/mountinfo");
    assert_eq!(stacked, "1\n");
    // It fails where there is no configuration, and nowhere else.
    let said = run(&["--config=/etc/shifter/none.conf"]).failure(1).unwrap();
    assert!(said.starts_with("shifter_slurm_dws_support: FAILED to parse udiRoot configuration."), "{said}");
    let unsetup = machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
    site.root(0).run(&[&unsetup]).unwrap().success().unwrap();
    site.nothing_left();
    site.cluster.machine.finish();
}
