//! What happens on a node whatever users and accidents do: prologs and epilogs that are sound, and a node that stays in
//! service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::{SlurmSite, script};
use shifter_tests::harness::SlurmOptions;
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
    site.on_node(1, "rm -f /run/shifter/slurm/88.failed");
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
    let show = [
        "-n64",
        "shifter",
        "-v",
        "sh",
        "-c",
        "cat /etc/which; sleep 0.3; cat /proc/self/mountinfo | grep ' / / ' | cut -d' ' -f3",
    ];
    // Built by each task for itself: nothing was prepared for a job that shares its node.
    let private = site.run("alice", &[&["srun", &image], &show[..]].concat());
    let together = site.run("alice", &[&["srun", "--exclusive", &image], &show[..]].concat());
    for (out, joined) in [(private, 0), (together, 64)] {
        assert_eq!(
            (out.out().matches("first").count(), out.err().matches(JOINED).count()),
            (64, joined),
            "{}",
            out.describe()
        );
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

#[test]
fn a_task_with_a_tmp_and_a_shared_memory_of_its_own_sees_them_and_not_the_nodes() {
    // From Linux 6.18 on the kernel may refuse to pin a new namespace, Slurm's own here (docs/decisions.md). Each attempt
    // has a thread, and so a machine, of its own.
    let happens = || std::thread::spawn(a_job_with_a_tmp_of_its_own_runs).join().unwrap();
    assert!((0..5).any(|_| happens()), "the kernel refused Slurm's namespaces each time");
}

/// False where the kernel refused Slurm its namespace.
fn a_job_with_a_tmp_of_its_own_runs() -> bool {
    let more = vec![("JobContainerType", "job_container/tmpfs".to_owned())];
    let text = "AutoBasePath=true\nBasePath=/opt/shifter-test/tmps\n";
    let files = vec![("job_container.conf", text.to_owned())];
    let options = SlurmOptions { nodes: 1, cpus: 2, more, files, ..SlurmOptions::default() };
    let site = SlurmSite::with("", options, |_, _| {
        fs::create_dir("/opt/shifter-test/tmps").unwrap();
    });
    // The places that this Slurm makes anew for each job.
    const PLACES: [&str; 2] = ["/tmp", "/dev/shm"];
    let remove = || PLACES.map(|place| site.on_node(1, &format!("rm {place}/whose")));
    let script = PLACES.map(|place| {
        site.on_node(1, &format!("echo node > {place}/whose"));
        format!(
            "cd {place}; echo job > whose; srun shifter cat {place}/whose; shifter cat {place}/whose; \
             shifter sh -c 'echo inside > {place}/new'; cat new\n"
        )
    });
    let job = site.submit("alice", &["--exclusive", &site.image()], &script.concat());
    let is_refused = || site.cluster.log(1).contains("ns base mount failed: Invalid argument");
    let state = || site.run("alice", &["squeue", "-h", "-t", "all", "-j", &job, "-o", "%T"]);
    site.until("at an end", || is_refused() || ["COMPLETED", "FAILED"].contains(&state().out().trim()));
    if is_refused() {
        site.run("alice", &["scancel", &job]);
        remove();
        site.give_up();
        return false;
    }
    assert_eq!(fs::read_to_string(format!("/home/alice/out-{job}")).unwrap(), "job\njob\ninside\n".repeat(2));
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    remove();
    site.finish();
    true
}
