//! What happens on a node whatever users and accidents do: prologs and epilogs that are sound, and a node that stays in
//! service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::{SlurmSite, script};
use shifter_tests::harness::SlurmOptions;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

const JOINED: &str = "joined     the container prepared for this job";

fn nodes(nodes: usize, cpus: u32) -> SlurmOptions {
    SlurmOptions { nodes, cpus, ..SlurmOptions::default() }
}

#[test]
fn st52_a_client_of_the_users_own_deceives_no_prolog_and_drains_no_node() {
    let site = SlurmSite::with("shared_jobs=1", nodes(1, 4), |sandbox, _| {
        // As if an administrator had left them writable.
        sandbox.write_udiroot(&[("module_good_siteEnv", "M=1")]).unwrap();
    });
    // Nobody can keep a user from running sbatch with another configuration, whose site allows everything.
    let own = "/home/alice/own";
    fs::create_dir(own).unwrap();
    for file in fs::read_dir("/etc/slurm").unwrap() {
        let file = file.unwrap();
        let text = fs::read_to_string(file.path())
            .unwrap()
            .replace("/etc/slurm/plugstack.conf", &format!("{own}/plugstack.conf"));
        fs::write(format!("{own}/{}", file.file_name().to_str().unwrap()), text).unwrap();
    }
    let plugin = site.sandbox.program("shifter_slurm.so").unwrap();
    fs::write(
        format!("{own}/plugstack.conf"),
        format!(
            "required {} shifter_config={own}/udiRoot.conf enable_ccm=1 enable_sshd=1\n",
            plugin.display()
        ),
    )
    .unwrap();
    let real = fs::read_to_string("/etc/shifter/udiRoot.conf").unwrap();
    let more = "allowLocalChroot=1\nmodule_$(touch /tmp/pwned)_siteEnv=A=1\nmodule_--verbose_siteEnv=A=1\n";
    fs::write(format!("{own}/udiRoot.conf"), format!("{real}{more}")).unwrap();
    fs::write(format!("{own}/shifter.conf"), "volumeAllow=/etc /dev /\n").unwrap();
    let image = site.image();
    for (options, expected) in [
        (&["--image=local:/"][..], "local: images are not allowed here"),
        (&["--image=local:/etc"], "local: images are not allowed here"),
        (&["--ccm"], "local: images are not allowed here"),
        (&[&image, "--module=$(touch /tmp/pwned)"], "Unknown shifter module: $(touch /tmp/pwned)"),
        (&[&image, "--module=--verbose"], "Unknown shifter module: --verbose"),
        (&[&image, "--volume=/home/alice:/etc"], "\"/etc\" is filled by Shifter and cannot be a target"),
        (&[&image, "--volume=/home/alice/nowhere:/mnt"], "nowhere"),
        (
            &["--image=id:0000000000000000000000000000000000000000000000000000000000000000"],
            "FAILED to find requested image",
        ),
    ] {
        fs::write("/home/alice/hostile.sh", "#!/bin/bash\necho ran\n").unwrap();
        let words = [
            &["sbatch", "--parsable", "--output=/home/alice/hostile.out"],
            options,
            &["/home/alice/hostile.sh"],
        ]
        .concat();
        let out = site.as_user("alice").env("SLURM_CONF", &format!("{own}/slurm.conf")).run(&words).unwrap();
        let job = out.success().unwrap().trim().to_owned();
        let end = site.end_of(&job);
        let said = fs::read_to_string("/home/alice/hostile.out").unwrap_or_default();
        assert!(
            end == "FAILED" && said.contains(expected) && !said.contains("ran"),
            "{options:?}: {end} {said}\n{}",
            site.logs()
        );
        assert!(said.contains("shifter: the container of this job could not be prepared: "), "{said}");
        site.assert_undrained();
    }
    assert_eq!(site.on_node(1, "ls /tmp"), "");
    // Names of jobs, which some of Slurm's answers are full of, and variables that only look like ours.
    let name = "x OverSubscribe=NO NumTasks=999 NodeList=evil";
    let out = site.batch_well(
        "alice",
        &[&image, "-J", name, "--comment", "a\nOverSubscribe=NO"],
        "srun shifter cat /var/hostslist\n",
    );
    assert_eq!(out, "node1\n");
    site.finish();
}

#[test]
fn st53_everything_goes_whether_jobs_end_or_are_killed_one_beside_the_other() {
    let site = SlurmSite::with("shared_jobs=1", nodes(1, 4), |_, _| {});
    let image = site.image();
    let script = "shifter sh -c 'echo > up-$SLURM_JOB_ID; trap \"\" TERM; while :; do sleep 0.05; done'\n";
    let jobs: Vec<String> = ["alice", "bob", "alice"]
        .map(|user| {
            let job = site.submit(user, &["-n1", &image], script);
            site.text_of(&format!("/home/{user}/up-{job}"));
            job
        })
        .into();
    for (gone, job) in jobs.iter().enumerate() {
        let user = if gone == 1 { "bob" } else { "alice" };
        let words: &[&str] = if gone == 0 { &["scancel"] } else { &["scancel", "--full", "--signal=KILL"] };
        site.run(user, &[words, &[job.as_str()]].concat()).success().unwrap();
        site.end_of(job);
        let left = jobs.len() - gone - 1;
        site.until("taken down", || {
            site.containers(1).split_whitespace().filter(|name| *name != "owner").count() == left
        });
        for other in &jobs[gone + 1..] {
            assert!(site.containers(1).contains(other.as_str()), "{}", site.containers(1));
        }
    }
    site.finish();
}

#[test]
fn st53_a_job_that_ran_out_of_time_leaves_nothing() {
    let site = SlurmSite::new(1, "");
    let script = "shifter -v sh -c 'trap \"\" TERM; echo > up; while :; do sleep 0.05; done' 2>&1\n";
    let job = site.submit("alice", &["--exclusive", "--time=1", &site.image()], script);
    site.text_of("/home/alice/up");
    // Its minute ends now. Slurm looks at the clock twice a minute.
    let update = format!("JobId={job}");
    site.sandbox.root().run(&["scontrol", "update", &update, "EndTime=now"]).unwrap().success().unwrap();
    let state = || site.run("alice", &["squeue", "-h", "-t", "all", "-j", &job, "-o", "%T"]).out();
    let started = Instant::now();
    while state() == "RUNNING\n" && started.elapsed() < Duration::from_secs(100) {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(site.end_of(&job), "TIMEOUT", "{}", site.logs());
    assert!(fs::read_to_string(format!("/home/alice/out-{job}")).unwrap().contains(JOINED));
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!(site.containers(1), "");
    site.finish();
}

#[test]
fn st53_a_node_whose_daemons_were_killed_serves_the_next_job() {
    let site = SlurmSite::new(2, "");
    let image = site.image();
    let options = ["-w", "node1", "--exclusive", &image];
    let job = site.submit("alice", &options, "srun shifter sh -c 'echo > up; sleep 1000'\n");
    site.text_of("/home/alice/up");
    // All of Slurm's on the node dies, and the record looks like one of another boot.
    site.on_node(
        1,
        "kill -9 $(pgrep slurmd) $(pgrep slurmstepd); rm /run/slurmd.pid; pkill -9 -u alice || :",
    );
    site.on_node(
        1,
        &format!(
            "sed -i 's/^boot .*/boot 0/' /run/shifter/jobs/{job}/record; umount -l /run/shifter/jobs/{job}/ns"
        ),
    );
    site.run("alice", &["scancel", &job]).success().unwrap();
    // A crash leaves more than one would think of.
    site.on_node(1, "mkdir -p /run/shifter/jobs/77/image /run/shifter/jobs/3; : > /run/shifter/slurm/88.failed; echo no > /run/shifter/slurm/2.failed");
    site.cluster.start_slurmd(&site.sandbox, 1).unwrap();
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    let out = site.batch_well("alice", &options, "srun shifter -v cat /etc/which 2>&1\n");
    assert!(out.contains(JOINED) && out.ends_with("first\n"), "{out}");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!(site.containers(1), "");
    assert_eq!(site.on_node(1, "ls /run/shifter/slurm"), "");
    // A plain job knows nothing of an older one that had its number.
    site.on_node(1, "echo no > /run/shifter/slurm/3.failed");
    assert_eq!(site.batch_well("alice", &["-w", "node1"], "srun echo $SLURM_JOB_ID\n"), "3\n");
    site.finish();
}

#[test]
fn st53_a_node_whose_daemons_died_with_all_their_mounts_serves_the_next_job() {
    let site = SlurmSite::new(1, "");
    // As a service manager may start them: with mounts of their own, while /run is the node's.
    let start = || site.on_node(1, "unshare --mount --propagation slave slurmd -N node1");
    site.cluster.kill_slurmd(&site.sandbox, 1).unwrap();
    start();
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    let options = ["--exclusive", &site.image()];
    let job = site.submit("alice", &options, "srun shifter -v sh -c 'echo > up; sleep 1000' 2>&1\n");
    site.text_of("/home/alice/up");
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    assert!(out.contains(JOINED), "{out}");
    let mounts = || site.on_node(1, "cat /proc/self/mountinfo");
    assert!(!mounts().contains("shifter/udi ") && !mounts().contains("/run/shifter/jobs"), "{}", mounts());
    let namespace = |process: &str| site.on_node(1, &format!("readlink /proc/$(pgrep -o {process})/ns/mnt"));
    let before = namespace("slurmd");
    // All of Slurm's, the extern step's own process with it.
    let kill = "for p in /proc/[0-9]*; do [ \"$(readlink $p/ns/mnt)\" != $before ] || kill -9 ${p#/proc/}; done; \
                pkill -9 -u alice; rm /run/slurmd.pid; true";
    site.on_node(1, &format!("set +e; before={}; {kill}", before.trim()));
    let daemons = "for p in /proc/[0-9]*; do readlink $p/ns/mnt || :; done";
    site.until("without its daemons' mounts", || !site.on_node(1, daemons).contains(before.trim()));
    assert!(site.on_node(1, "ls -d /run/shifter/jobs").contains("jobs"), "what is in /run stays");
    site.run("alice", &["scancel", &job]).success().unwrap();
    start();
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    for user in ["bob", "alice"] {
        let out = site.batch_well(user, &options, "srun shifter -v cat /etc/which 2>&1\n");
        assert!(out.contains(JOINED) && out.ends_with("first\n"), "{out}\n{}", site.logs());
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        assert_eq!(site.on_node(1, "find /run/shifter/slurm /run/shifter/jobs -mindepth 1"), "");
    }
    site.finish();
}

#[test]
fn st55_without_loop_devices_the_job_is_told_and_the_next_one_runs() {
    let site = SlurmSite::new(1, "");
    site.on_node(1, "mount --bind /dev/null /dev/loop-control; for d in /dev/loop[0-9]*; do mount --bind /dev/null $d; done");
    let options = ["--exclusive", &site.image()];
    let (code, out) = site.batch("alice", &options, "echo ran\n");
    assert!(
        code != Some(0)
            && out.contains("could not be prepared")
            && out.contains("loop")
            && !out.contains("ran"),
        "{out}"
    );
    site.on_node(1, "umount /dev/loop-control /dev/loop[0-9]*");
    assert_eq!(site.batch_well("alice", &options, "srun shifter cat /etc/which\n"), "first\n");
    site.finish();
}

#[test]
fn st56_sixty_four_tasks_at_once_share_one_container_and_one_loop() {
    let site = SlurmSite::with("", nodes(1, 64), |_, _| {});
    let image = site.image();
    // Built by each task for itself: nothing was prepared for a job that shares its node. All are there at once.
    for (place, more, joined) in [("private", &[][..], 0), ("together", &["--exclusive"], 64)] {
        fs::create_dir(format!("/home/alice/{place}")).unwrap();
        std::os::unix::fs::chown(format!("/home/alice/{place}"), Some(4201), None).unwrap();
        let show = format!(
            ": > {place}/$SLURM_PROCID; set -- {place}/*; while [ $# -lt 64 ]; do sleep 0.3; set -- {place}/*; done; \
             cat /etc/which /proc/self/mountinfo"
        );
        let words = [&["srun", "-l", "-n64", &image][..], more, &["shifter", "-v", "sh", "-c", &show]];
        let out = site.run("alice", &words.concat());
        assert_eq!(
            (out.out().matches("first").count(), out.err().matches(JOINED).count()),
            (64, joined),
            "{}",
            out.describe()
        );
        let text = out.out();
        let mut tables: Vec<Vec<&str>> = vec![Vec::new(); 64];
        for (task, line) in text.lines().filter_map(|line| line.split_once(": ")) {
            tables[task.trim().parse::<usize>().unwrap()].push(line);
        }
        let of_image = |table: &Vec<&str>| -> BTreeSet<String> {
            let lines = table.iter().filter(|line| line.contains(" - squashfs "));
            lines.map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect()
        };
        let loops: BTreeSet<String> = tables.iter().flat_map(of_image).collect();
        assert!(
            tables.iter().all(|table| of_image(table).len() == 1) && loops.len() == 1,
            "{loops:?}\n{text}"
        );
        // The numbers of mounts are of one namespace each.
        let containers: BTreeSet<_> = tables.iter().collect();
        assert_eq!(containers.len(), if joined == 64 { 1 } else { 64 }, "{place}");
    }
    site.finish();
}

#[test]
fn ccm_is_offered_only_where_the_site_has_enabled_all_of_it() {
    let site = SlurmSite::new(1, "");
    for (arguments, expected) in [
        ("", "unrecognized option '--ccm'"),
        ("enable_ccm=1", "unrecognized option '--ccm'"),
        ("enable_ccm=1 enable_sshd=1", "shifter: local: images are not allowed here (allowLocalChroot)"),
    ] {
        site.rearrange(arguments);
        let out = site.run("alice", &["srun", "--ccm", "true"]);
        assert!(!out.status.success() && out.err().contains(expected), "{}", out.describe());
        let image = site.image();
        let out = site.run("alice", &["srun", "--ccm", &image, "true"]);
        assert!(
            !out.status.success()
                && (out.err().contains("unrecognized") || out.err().contains("another --image")),
            "{}",
            out.describe()
        );
    }
    site.finish();
}

#[test]
fn a_failed_setup_is_told_to_every_step_and_costs_only_this_job() {
    let site = SlurmSite::with("", nodes(2, 2), |sandbox, _| {
        script(sandbox, "hook.sh", "[ $(hostname) = node1 ] || { echo broken here >&2; exit 1; }");
        sandbox.write_udiroot(&[("sitePostMountHook", "/opt/shifter-test/hook.sh")]).unwrap();
    });
    let image = site.image();
    let script = "srun -N2 hostname; echo $?; srun -N1 -w node1 shifter cat /etc/which\n";
    let out = site.batch_well("alice", &["-N2", "--exclusive", &image], script);
    assert!(out.contains("error: shifter: the container of this job could not be prepared: setupRoot: Site postmount hook failed."), "{out}");
    assert!(out.contains("\n1\n") && out.ends_with("first\n"), "{out}");
    assert_eq!(site.run("alice", &["srun", "-w", "node2", "hostname"]).success().unwrap(), "node2\n");
    site.finish();
}
