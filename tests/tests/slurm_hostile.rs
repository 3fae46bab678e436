//! Processes of a job that do all they can to stay: whatever they do, their node serves the next job, soon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::groups::JobGroups;
use common::slurm::{SlurmSite, offer_openssh};
use std::fs;
use std::time::{Duration, Instant};

/// Programs of alice's: one that is a new process every moment, one that fills its user's limit and goes on trying,
/// one that heeds no signal, one that has stopped.
const PROGRAMS: [(&str, &str); 4] = [
    ("runaway", "\"$0\" &\n"),
    ("crowd", "ulimit -u 150; f() { f & f & sleep 1000; }; f\n"),
    ("deaf", "trap '' TERM HUP INT QUIT USR1 USR2 CONT; while :; do sleep 0.2; done\n"),
    ("stopped", "trap '' TERM; kill -STOP $$; exec \"$0\"\n"),
];

/// From scancel until the node is idle. Slurm asks politely for two seconds first.
const BOUND: Duration = Duration::from_secs(30);

#[test]
fn st57_processes_that_refuse_to_end_hold_up_no_epilog_and_drain_no_node() {
    let groups = JobGroups::new();
    let base = &groups.base;
    let site = SlurmSite::with("", groups.options(), |sandbox, _| {
        offer_openssh(sandbox, &[]);
    });
    let mut start = String::new();
    for (name, text) in PROGRAMS {
        let path = format!("/home/alice/{name}");
        fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for _ in 0..if name == "crowd" { 1 } else { 3 } {
            start.push_str(&format!("setsid {path} >/dev/null 2>&1 </dev/null & "));
        }
    }
    fs::write("/home/alice/all", format!("#!/bin/sh\n{start}\n")).unwrap();
    fs::set_permissions("/home/alice/all", std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = ["--exclusive", &site.image()];
    for (arguments, inside) in [
        (String::new(), "~/all"),
        ("enable_sshd=1".to_owned(), "~/all; ssh node1 ./all"),
        (format!("enable_sshd=1 extern_cgroup=1 memory_cgroup={base}"), "~/all; ssh node1 ./all"),
    ] {
        site.rearrange(&arguments);
        let script = format!("trap '' TERM\nshifter sh -c '{inside}' 2>&1; while :; do sleep 1; done\n");
        let job = site.submit("alice", &options, &script);
        let names = ["deaf", "stopped"].map(|name| format!("/home/alice/{name}"));
        let count = |what: &str| {
            site.on_node(1, &format!("pgrep -u alice -fc '{what}' || :")).trim().parse::<usize>()
        };
        site.until("crowded", || {
            let each = if arguments.is_empty() { 3 } else { 6 };
            names.iter().all(|name| count(name).unwrap() >= each) && count("crowd").unwrap() >= 30
        });
        let begun = Instant::now();
        site.run("alice", &["scancel", &job]).success().unwrap();
        site.assert_gone("alice", 1, begun, BOUND);
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        println!("{arguments}: idle after {:?}", begun.elapsed());
        assert!(begun.elapsed() < BOUND, "{arguments}: {:?}\n{}", begun.elapsed(), site.logs());
        assert!(!site.cluster.log(1).contains("error: shifter: "), "{arguments}: {}", site.logs());
        assert_eq!(site.batch_well("bob", &options, "srun shifter cat /etc/which\n"), "first\n");
        site.assert_undrained();
    }
    site.finish();
    groups.finish();
}
