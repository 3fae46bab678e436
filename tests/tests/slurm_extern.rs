//! What runs beside a job's own steps: the extern step with the site's program, and control groups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::groups::{Groups, JobGroups};
use common::slurm::{SlurmSite, offer_openssh, script};
use shifter_tests::harness::SlurmOptions;
use std::fs;
use std::time::{Duration, Instant};

const JOINED: &str = "joined     the container prepared for this job";

fn nodes(nodes: usize, cpus: u32) -> SlurmOptions {
    SlurmOptions { nodes, cpus, ..SlurmOptions::default() }
}

#[test]
fn what_the_extern_step_adds_is_seen_by_every_task_and_its_failure_is_told() {
    let setup = "/opt/shifter-test/extern.sh";
    let site = SlurmSite::with(
        &format!("extern_setup={setup} extern_cgroup=1"),
        nodes(2, 2),
        |sandbox, _| {
            let text = "cd /opt/shifter-test/udi; sleep 0.3; echo late > late; mkdir dw; mount -t tmpfs dw dw; echo warp > dw/file";
            script(sandbox, "extern.sh", text);
        },
    );
    let image = site.image();
    let options = ["-N2", "-n4", "--exclusive", &image];
    let out = site.batch_well("alice", &options, "srun shifter cat /late /dw/file; shifter cat /dw/file\n");
    assert_eq!((out.matches("late\n").count(), out.matches("warp\n").count()), (4, 5), "{out}");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    script(&site.sandbox, "extern.sh", "echo the site says no >&2; exit 1");
    let (code, out) = site.batch("alice", &options, "echo ran\n");
    assert!(code != Some(0) && out.contains("the site's extern_setup failed: the site says no"), "{out}");
    // Whoever can write the program could be root.
    fs::set_permissions(setup, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let (code, out) = site.batch("alice", &options, "echo ran\n");
    assert!(code != Some(0) && out.contains("can be written by others than root"), "{out}");
    site.finish();
}

#[test]
fn the_extern_step_of_a_second_job_changes_nothing_of_the_firsts() {
    let site = SlurmSite::with(
        "extern_setup=/opt/shifter-test/extern.sh shared_jobs=1",
        nodes(1, 4),
        |sandbox, _| {
            let text = "echo $SLURM_JOB_ID $SLURM_JOB_UID $SLURM_JOB_GID >> /opt/shifter-test/udi/whose";
            script(sandbox, "extern.sh", text);
        },
    );
    let image = site.image();
    let script = "echo > up; while [ ! -e go ]; do sleep 0.05; done; srun shifter cat /whose\n";
    let first = site.submit("alice", &["-n1", &image], script);
    site.text_of("/home/alice/up");
    let look = "srun shifter -v sh -c 'test -e /whose && cat /whose || echo none' 2>&1\n";
    let out = site.batch_well("bob", &["-n1", &image], look);
    assert!(out.contains(JOINED) && out.ends_with("none\n"), "{out}\n{}", site.logs());
    let said = "extern_setup is not run: the container at udiMount is another job's";
    assert_eq!(site.cluster.log(1).matches(said).count(), 1, "{}", site.logs());
    fs::write("/home/alice/go", "").unwrap();
    assert_eq!(site.end_of(&first), "COMPLETED");
    let out = fs::read_to_string(format!("/home/alice/out-{first}")).unwrap();
    assert_eq!(out, format!("{first} 4201 4201\n"));
    // Once udiMount is free it is the next job's.
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    let out = site.batch_well("bob", &["-n1", &image], look);
    assert!(out.contains(JOINED) && out.ends_with(" 4202 4202\n"), "{out}\n{}", site.logs());
    site.finish();
}

#[test]
fn a_burst_buffer_is_seen_by_the_tasks_of_the_job() {
    let helper = "/opt/shifter-test/sbin/shifter_slurm_dws_support";
    let site = SlurmSite::with(&format!("extern_setup={helper}"), nodes(1, 2), |sandbox, _| {
        assert_eq!(sandbox.program("shifter_slurm_dws_support").unwrap().to_str(), Some(helper));
        let hook = script(sandbox, "pre.sh", "mkdir -p var/opt/cray/dws");
        sandbox.write_udiroot(&[("sitePreMountHook", &hook)]).unwrap();
    });
    let options = ["-n2", "--exclusive", &site.image()];
    // A job that asked for none.
    assert_eq!(site.batch_well("alice", &options, "srun -n1 shifter ls /var/opt/cray/dws\n"), "");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    site.on_node(
        1,
        "mount -t tmpfs -o mode=0755 dws /var/opt; mkdir -p /var/opt/cray/dws/mounts/7; \
         mount -t tmpfs seven /var/opt/cray/dws/mounts/7; echo seven > /var/opt/cray/dws/mounts/7/file; \
         cd /var/opt/cray/dws/mounts; mkdir $'\\xff'; mount -t tmpfs bytes $'\\xff'; cp 7/file $'\\xff'",
    );
    // Users name the places of their mounts as they like, and those are in every table of mounts.
    let script = "srun shifter -v sh -c 'cd /var/opt/cray/dws/mounts && cat */file' 2>&1\n";
    let out = site.batch_well("alice", &options, script);
    assert_eq!((out.matches("seven\n").count(), out.matches(JOINED).count()), (4, 2), "{out}");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    let nhc = site.sandbox.program("shifter-nhc").unwrap();
    let out = site.cluster.on_node(&site.sandbox, 1, &[nhc.to_str().unwrap()]).unwrap();
    assert!(out.status.success() && out.err().is_empty(), "{}", out.describe());
    site.on_node(1, "umount -R /var/opt");
    site.finish();
}

#[test]
fn st57_what_a_prolog_starts_is_in_the_jobs_cgroup_and_ends_with_the_job() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = |kind: &str| {
        let line = mounts.lines().find(|line| line.contains(kind))?;
        line.split(' ').nth(4).map(str::to_owned)
    };
    let trees = [found(" - cgroup cgroup rw,memory"), found(" - cgroup2 ")];
    let trees: Vec<String> = trees.into_iter().flatten().collect();
    assert!(!trees.is_empty(), "no cgroups are mounted");
    let site = SlurmSite::with("", nodes(1, 2), |sandbox, _| {
        fs::copy("/bin/sleep", "/opt/shifter-test/daemon").unwrap();
        script(sandbox, "hook.sh", "setsid /opt/shifter-test/daemon 1000 </dev/null >/dev/null 2>&1 &");
        sandbox.write_udiroot(&[("sitePostMountHook", "/opt/shifter-test/hook.sh")]).unwrap();
    });
    for tree in trees {
        // As a site would delegate one.
        let base = format!("{tree}/shifter-test-{}", std::process::id());
        let made = Groups([format!("{base}/shifter"), base.clone()]);
        fs::create_dir(&base).unwrap();
        site.rearrange(&format!("memory_cgroup={base}"));
        let script = format!(
            "cat {base}/shifter/uid_4201/job_$SLURM_JOB_ID/cgroup.procs | while read p; do cat /proc/$p/comm; done; srun shifter -v true 2>&1\n"
        );
        let out = site.batch_well("alice", &["--exclusive", &site.image()], &script);
        assert!(out.starts_with("daemon\n") && out.contains(JOINED), "{tree}: {out}\n{}", site.logs());
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        assert!(!fs::exists(format!("{base}/shifter/uid_4201")).unwrap(), "{tree}");
        drop(made);
        assert!(!fs::exists(base).unwrap(), "it could not be removed");
    }
    site.finish();
}

#[test]
fn st57_what_runs_beside_the_steps_is_moved_into_the_extern_steps_cgroup() {
    let groups = JobGroups::new();
    let (base, line) = (&groups.base, groups.line);
    let arguments = format!("memory_cgroup={base} extern_cgroup=1");
    let site = SlurmSite::with(&arguments, groups.options(), |sandbox, _| {
        fs::copy("/bin/sleep", "/opt/shifter-test/daemon").unwrap();
        script(sandbox, "hook.sh", "setsid /opt/shifter-test/daemon 1000 </dev/null >/dev/null 2>&1 &");
        sandbox.write_udiroot(&[("sitePostMountHook", "/opt/shifter-test/hook.sh")]).unwrap();
    });
    for job in 1..=2 {
        let script = format!("srun true; grep {line} /proc/$(pgrep -x daemon)/cgroup\n");
        let out = site.batch_well("alice", &["--exclusive", &site.image()], &script);
        let group = format!("/job_{job}/step_extern");
        assert!(out.contains(&group) && out.lines().count() == 1, "{out}\n{}", site.logs());
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        assert!(!fs::exists(format!("{base}/shifter/uid_4201")).unwrap(), "{base}");
    }
    assert!(!site.cluster.log(1).contains("shifter: job "), "{}", site.logs());
    site.finish();
    groups.finish();
}

#[test]
fn st57_a_jobs_sshd_is_in_the_extern_steps_cgroup_and_its_keeper_ends_what_is_in_neither() {
    let groups = JobGroups::new();
    let (base, line) = (&groups.base, groups.line);
    let arguments = format!("enable_sshd=1 extern_cgroup=1 memory_cgroup={base}");
    let site = SlurmSite::with(&arguments, groups.options(), |sandbox, _| {
        offer_openssh(sandbox, &[]);
    });
    let detached = "setsid sleep 86431 > /dev/null 2>&1 < /dev/null &";
    let script = format!(
        "srun true; shifter sh -c \"ssh node1 '{detached}'\"; echo > up; while [ ! -e go ]; do sleep 0.05; done\n"
    );
    for (cancelled, state) in [(false, "COMPLETED"), (true, "CANCELLED")] {
        let job = site.submit("alice", &["--exclusive", &site.image()], &script);
        site.text_of("/home/alice/up");
        let group_of = |process: &str| {
            site.on_node(
                1,
                &format!("grep {line} /proc/$(pgrep -o {process} || cat ~alice/out-{job} >&2)/cgroup"),
            )
        };
        let group = format!("/job_{job}/step_extern");
        for process in ["-x sshd", "-f '^sleep 86431'"] {
            assert!(group_of(process).contains(&group), "{process}: {}\n{}", group_of(process), site.logs());
        }
        // Slurm kills all that is in the step's.
        let keeper = group_of("-x shifter-keeper");
        assert!(!keeper.contains("/step_"), "{keeper}");
        let own = fs::read_to_string(format!("{base}/shifter/uid_4201/job_{job}/cgroup.procs")).unwrap();
        let names = own.lines().map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap());
        assert_eq!(names.filter(|name| name == "shifter-keeper\n").count(), 1, "{own}");
        let ended = if cancelled {
            site.run("alice", &["scancel", &job]).success().unwrap();
            Instant::now()
        } else {
            let now = Instant::now();
            fs::write("/home/alice/go", "").unwrap();
            now
        };
        site.assert_gone("alice", 1, ended, Duration::from_secs(5));
        assert_eq!(site.end_of(&job), state, "{}", site.logs());
        site.cluster.wait_until_idle(&site.sandbox).unwrap();
        assert!(!fs::exists(format!("{base}/shifter/uid_4201")).unwrap(), "{}", site.logs());
        for file in ["up", "go"] {
            let _of_one_that_ended = fs::remove_file(format!("/home/alice/{file}"));
        }
    }
    assert!(!site.cluster.log(1).contains("shifter: job "), "{}", site.logs());
    site.finish();
    groups.finish();
}
