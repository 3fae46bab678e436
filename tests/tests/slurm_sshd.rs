//! ssh between the nodes of a job, and the whole job in a container of the nodes' own system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::documented_jobs::{CCM, site_with_ssh, site_with_ssh_as, site_with_ssh_told};
use common::slurm::{SlurmSite, private_tmp};
use shifter_tests::harness::SlurmOptions;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::{Duration, Instant};

/// How long a job's things may take to be gone.
const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
fn nodes_of_a_job_reach_each_other_by_ssh_and_nobody_else_does() {
    let site = site_with_ssh(4, "enable_sshd=1", &[]);
    let image = site.image();
    let inside = "cd /tmp; for n in $(sort -u /var/nodeslist); do ssh $n 'echo on $SLURMD_NODENAME $(uname -n)'; done; \
        ssh -tt node3 'test -t 0 && echo a terminal'; \
        echo carried > /tmp/file; scp -q /tmp/file node4:/tmp/there && ssh node4 'cat /tmp/there; rm /tmp/there'; rm /tmp/file; \
        i=0; while [ $i -lt 100 ]; do ssh node2 echo reached || echo failed $i; i=$((i+1)); done; echo hundred";
    let script = format!(
        "shifter sh -c '{}'; echo > up; while [ ! -e go ]; do sleep 0.05; done\n",
        inside.replace('\'', "'\\''")
    );
    let job = site.submit("alice", &["-N4", "--exclusive", &image], &script);
    // A hundred handshakes, on machines that do other things as well.
    let started = Instant::now();
    while !fs::exists("/home/alice/up").unwrap() && started.elapsed() < Duration::from_secs(100) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    for node in 1..=4 {
        assert!(out.contains(&format!("node{node}\n")), "{out}\n{}", site.logs());
    }
    assert!(out.contains("a terminal") && out.contains("carried\n") && out.ends_with("hundred\n"), "{out}");
    assert!(out.matches("reached\n").count() == 100 && !out.contains("failed"), "{out}");
    // Another user, with the job's port and all of their own keys.
    let ssh = "mkdir -pm700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519; \
        ssh -p 1204 -o StrictHostKeyChecking=no -o BatchMode=yes 10.250.0.12 id; ssh -p 1204 -o StrictHostKeyChecking=no -o BatchMode=yes alice@10.250.0.12 id";
    let said = site.run("bob", &["bash", "-c", ssh]);
    assert!(said.out().is_empty() && said.err().matches("denied").count() == 2, "{}", said.describe());
    for node in 1..=4 {
        site.on_node(node, "pgrep -x sshd; pgrep -x shifter-keeper; ls /run/shifter/jobs/*/sshd");
    }
    let ended = Instant::now();
    fs::write("/home/alice/go", "").unwrap();
    site.assert_gone("alice", 4, ended, AT_ONCE);
    assert_eq!(site.end_of(&job), "COMPLETED");
    site.finish();
}

#[test]
fn a_ccm_job_runs_as_a_whole_in_a_container_of_the_nodes_system_with_ssh() {
    let site = site_with_ssh(2, "enable_sshd=1 enable_ccm=1", &CCM);
    fs::create_dir("/home/alice/work").unwrap();
    let script = "#!/bin/bash\ncd work\nls -d /opt/udiImage/bin/ssh; id -un; id -G; grep -c NoNewPrivs:.1 /proc/self/status\n\
        until ssh node2 'echo from $(uname -n)'; do sleep 0.1; done; srun -n2 -N2 sh -c 'ls -d /opt/udiImage/bin/scp; pwd'\n";
    let out = site.batch_well("alice", &["-N2", "--exclusive", "--ccm", "--chdir=/home/alice"], script);
    assert!(out.starts_with("/opt/udiImage/bin/ssh\nalice\n4201 4301 4302\n1\n"), "{out}\n{}", site.logs());
    assert!(out.contains("from node2\n"), "{out}");
    for line in ["/opt/udiImage/bin/scp\n", "/home/alice/work\n"] {
        assert_eq!(out.matches(line).count(), 2, "{out}");
    }
    // A directory that only a further group of the user's opens.
    let place = "/home/of-group";
    fs::create_dir(place).unwrap();
    chown(place, Some(0), Some(4302)).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o750)).unwrap();
    let options = ["-N2", "--exclusive", "--ccm", "--chdir=/home/of-group"];
    let out = site.batch_well("alice", &options, "pwd; srun pwd\n");
    assert_eq!(out, format!("{place}\n").repeat(3), "{}", site.logs());
    // Where the nodes are shared there is none.
    let (code, out) = site.batch("alice", &["-n1", "--ccm"], "echo ran\n");
    assert!(
        code != Some(0) && out.contains("--ccm is for jobs that have their nodes to themselves"),
        "{out}"
    );
    site.finish();
}

#[test]
fn a_ccm_job_with_a_tmp_and_a_shared_memory_of_its_own_sees_them_and_not_the_nodes() {
    // The kernel may refuse, as in slurm_node.rs.
    let happens = || std::thread::spawn(a_ccm_job_with_a_tmp_of_its_own_runs).join().unwrap();
    assert!((0..5).any(|_| happens()), "the kernel refused Slurm's namespaces each time");
}

/// False where the kernel refused Slurm its namespace.
fn a_ccm_job_with_a_tmp_of_its_own_runs() -> bool {
    let site = site_with_ssh_as(private_tmp(), "enable_sshd=1 enable_ccm=1", &CCM);
    let places = "/tmp /dev/shm";
    let on_node = |what: &str| site.on_node(1, &format!("for d in {places}; do {what}; done"));
    on_node("echo node > $d/whose");
    let script = format!(
        "for d in {places}; do echo job > $d/whose; mkdir $d/sub; cd $d/sub; srun sh -c \"cat $d/whose; pwd\" 2>/dev/null; \
         cat $d/whose; grep \" $d \" /proc/self/mountinfo | grep -q nosuid,nodev && echo safe; done\n"
    );
    let job = site.submit("alice", &["--exclusive", "--ccm", "--chdir=/home/alice"], &script);
    let is_refused = || site.cluster.log(1).contains("ns base mount failed: Invalid argument");
    let state = || site.run("alice", &["squeue", "-h", "-t", "all", "-j", &job, "-o", "%T"]);
    site.until("at an end", || is_refused() || ["COMPLETED", "FAILED"].contains(&state().out().trim()));
    if is_refused() {
        site.run("alice", &["scancel", &job]);
        on_node("rm $d/whose");
        site.give_up();
        return false;
    }
    let expected = |place| format!("job\n{place}/sub\njob\nsafe\n");
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    assert_eq!(out, expected("/tmp") + &expected("/dev/shm"), "{}", site.logs());
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!(on_node("cat $d/whose; rm $d/whose"), "node\nnode\n");
    site.finish();
    true
}

#[test]
fn st53_a_second_prolog_of_a_job_leaves_its_container_and_its_sshd_alone() {
    let site = site_with_ssh(1, "enable_sshd=1", &[]);
    // The plugin once more, of which Slurm finds the prolog alone.
    let mut twin = fs::read(site.sandbox.program("shifter_slurm.so").unwrap()).unwrap();
    for hook in ["slurm_spank_init", "slurm_spank_task"] {
        let places: Vec<usize> = twin
            .windows(hook.len())
            .enumerate()
            .filter(|(_, at)| *at == hook.as_bytes())
            .map(|(at, _)| at)
            .collect();
        assert!(!places.is_empty(), "{hook}");
        places.into_iter().for_each(|at| twin[at + hook.len() - 4] = b'x');
    }
    let place = "/opt/shifter-test/lib/twin.so";
    fs::write(place, twin).unwrap();
    let conf = "/etc/slurm/plugstack.conf";
    let once = fs::read_to_string(conf).unwrap();
    fs::write(conf, format!("{once}required {place} enable_sshd=1\n")).unwrap();
    let script = "srun shifter -v cat /etc/which 2>&1; shifter sh -c 'ssh node1 echo by ssh'\n";
    for job in 1..=2 {
        let out = site.batch_well("alice", &["--exclusive", &site.image()], script);
        assert!(out.contains("joined     the container prepared for this job"), "{out}\n{}", site.logs());
        assert!(out.contains("first\n") && out.ends_with("by ssh\n"), "{out}\n{}", site.logs());
        let log = site.cluster.log(1);
        let said = format!("shifter: job {job}: its container is prepared already");
        assert_eq!((log.matches(&said).count(), log.matches("taking down").count()), (1, 0), "{log}");
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        assert_eq!(site.containers(1), "");
    }
    site.finish();
}

#[test]
fn what_was_started_over_ssh_ends_with_a_cancelled_job() {
    let site = site_with_ssh(2, "enable_sshd=1", &[]);
    let inside = "ssh node2 \"setsid sleep 86431 > /dev/null 2>&1 & : > /home/alice/ready\"; sleep 60";
    let image = site.image();
    let job =
        site.submit("alice", &["-N2", "--exclusive", &image], &format!("shifter sh -c '{inside}' 2>&1\n"));
    site.until("ready", || fs::exists("/home/alice/ready").unwrap());
    let runs = || site.on_node(2, "pgrep -f '^sleep 86431$' || :");
    assert!(!runs().is_empty());
    site.run("alice", &["scancel", &job]).success().unwrap();
    site.assert_gone("alice", 2, Instant::now(), AT_ONCE);
    assert_eq!(site.end_of(&job), "CANCELLED", "{}", site.logs());
    site.finish();
}

#[test]
fn sshd_ends_with_its_job_where_the_configuration_has_become_unusable() {
    let site = site_with_ssh(1, "enable_sshd=1", &[]);
    let conf = "/etc/shifter/udiRoot.conf";
    let good = fs::read_to_string(conf).unwrap();
    let wait = "echo > up; while [ ! -e go ]; do sleep 0.1; done\n";
    let job = site.submit("alice", &["--exclusive", &site.image()], wait);
    site.text_of("/home/alice/up");
    let sshd = || site.on_node(1, "pgrep -x sshd || :");
    assert!(!sshd().is_empty(), "{}", site.logs());
    fs::write(conf, format!("{good}colour=red\n")).unwrap();
    fs::write("/home/alice/go", "").unwrap();
    assert_eq!(site.end_of(&job), "COMPLETED");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!(sshd(), "", "{}", site.logs());
    let log = site.cluster.log(1);
    assert!(log.contains(&format!("error: shifter: job {job}: ")) && log.contains("colour"), "{log}");
    // Its container goes before the next job that has the node to itself.
    fs::write(conf, good).unwrap();
    let show = "srun shifter cat /etc/which\n";
    assert_eq!(site.batch_well("alice", &["--exclusive", &site.image()], show), "first\n");
    site.finish();
}

#[test]
fn a_site_that_offers_sshd_and_has_no_openssh_runs_jobs_without() {
    let site = SlurmSite::with(
        "enable_sshd=1 shared_jobs=1",
        SlurmOptions { nodes: 1, ..SlurmOptions::default() },
        |_, _| {},
    );
    let show = "srun shifter -v cat /etc/which 2>&1\n";
    let (place, tree) = ("/etc/shifter/udiRoot.conf", site.sandbox.prefix().join("empty"));
    let conf = fs::read_to_string(place).unwrap();
    fs::create_dir(&tree).unwrap();
    for (more, reason) in [
        (String::new(), "udiRoot.conf has no optUdiImage".to_owned()),
        (format!("optUdiImage={}\n", tree.display()), format!("there is no {}/sbin/sshd", tree.display())),
    ] {
        fs::write(place, format!("{conf}{more}")).unwrap();
        let out = site.batch_well("alice", &["--exclusive", &site.image()], show);
        assert!(out.contains("the container prepared for this job") && out.ends_with("first\n"), "{out}");
        let log = site.cluster.log(1);
        assert_eq!(log.matches(&format!("it has no sshd: {reason}")).count(), 1, "{log}");
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
    }
    site.finish();
}

#[test]
fn a_suspended_job_goes_on_in_its_container() {
    suspended("");
}

#[test]
fn a_suspended_job_keeps_its_sshd_and_the_one_before_it_goes_without() {
    suspended("enable_sshd=1");
}

/// A job is pushed aside by one that has the node to itself, and comes back.
fn suspended(arguments: &str) {
    const JOINED: &str = "joined     the container prepared for this job";
    let more = vec![
        ("PreemptType", "preempt/partition_prio".to_owned()),
        ("PreemptMode", "SUSPEND,GANG".to_owned()),
        ("SchedulerTimeSlice", "5".to_owned()),
        ("PartitionName", "low Nodes=ALL OverSubscribe=FORCE:1 PriorityTier=2 State=UP".to_owned()),
        ("PartitionName", "high Nodes=ALL OverSubscribe=FORCE:1 PriorityTier=10 State=UP".to_owned()),
    ];
    let site = site_with_ssh_told(1, arguments, &[], more);
    let with_sshd = !arguments.is_empty();
    let image = site.image();
    let show = "srun shifter -v cat /etc/which 2>&1";
    let by_ssh = if with_sshd { "shifter sh -c 'ssh node1 echo by ssh'" } else { "echo by ssh" };
    let wait = "echo > up; while [ ! -e go ]; do sleep 0.1; done";
    let low =
        site.submit("alice", &["-p", "low", "--exclusive", &image], &format!("{wait}; {show}; {by_ssh}\n"));
    site.text_of("/home/alice/up");
    let sshd = || site.on_node(1, "pgrep -x sshd || :");
    let before = sshd();
    assert_eq!(before.is_empty(), !with_sshd, "{before}");
    let words = ["-p", "high", "--exclusive", &image];
    let high = site.submit("bob", &words, &format!("{show}; {wait}\n"));
    site.text_of("/home/bob/up");
    let state = site.run("alice", &["squeue", "-h", "-j", &low, "-o", "%T"]).out();
    assert_eq!(state, "SUSPENDED\n", "{}", site.logs());
    let containers = site.containers(1);
    assert!(containers.contains(&low) && containers.contains(&high), "{containers}");
    assert_eq!(sshd(), before);
    let said = format!("suspended job {low} keeps its sshd here, and its port: this one has none");
    assert_eq!(site.cluster.log(1).contains(&said), with_sshd, "{}", site.logs());
    for user in ["bob", "alice"] {
        fs::write(format!("/home/{user}/go"), "").unwrap();
    }
    for (user, job) in [("bob", &high), ("alice", &low)] {
        assert_eq!(site.end_of(job), "COMPLETED");
        let out = fs::read_to_string(format!("/home/{user}/out-{job}")).unwrap();
        assert!(out.contains(JOINED) && out.contains("first\n"), "{user}: {out}\n{}", site.logs());
        assert_eq!(out.ends_with("by ssh\n"), user == "alice", "{user}: {out}");
    }
    site.finish();
}
