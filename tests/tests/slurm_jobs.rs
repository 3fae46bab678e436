//! Jobs with images on a real cluster: prepared once per node, joined by every task, gone with the job.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::{PLACEMENTS, SlurmSite, image_named, script};
use shifter_tests::harness::SlurmOptions;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_jobs_tasks_join_the_container_that_was_prepared_on_each_node() {
    let site = SlurmSite::new(2, "");
    let script = format!(
        "#!/bin/bash\n#SBATCH {}\n#SBATCH -N2 -n3 --exclusive\n\
         srun shifter -v sh -c 'cat /etc/which; echo tasks on $(uname -n): $(cat /var/nodeslist | tr \"\\n\" \" \")'\n\
         echo $SHIFTER_IMAGETYPE $SHIFTER_IMAGEREQUEST $SLURM_SPANK_SHIFTER_IMAGE\n",
        site.image()
    );
    let out = site.batch_well("alice", &[], &script);
    assert_eq!(out.matches("joined     the container prepared for this job").count(), 3, "{out}");
    assert_eq!(out.matches("first\n").count(), 3, "{out}");
    assert_eq!(out.matches("tasks on node1: node1 node1 node2").count(), 2, "{out}");
    assert_eq!(out.matches("tasks on node2: node1 node1 node2").count(), 1, "{out}");
    assert!(out.contains(&format!("id {0} {0}\n", site.id)), "{out}");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!((site.containers(1).as_str(), site.containers(2).as_str()), ("", ""));
    site.finish();
}

#[test]
fn the_hosts_file_has_each_node_as_often_as_srun_puts_tasks_there() {
    let options = SlurmOptions { nodes: 2, cpus: 4, ..SlurmOptions::default() };
    let site = SlurmSite::with("shared_jobs=1", options, |_, _| {});
    let image = site.image();
    for words in PLACEMENTS {
        for more in [&["--exclusive"][..], &[]] {
            site.assert_hosts_are_where_srun_puts_tasks(&[words, more, &[&image]].concat());
        }
    }
    site.finish();
}

#[test]
fn a_step_from_outside_a_job_without_a_container_names_its_image() {
    let site = SlurmSite::new(1, "");
    let image = site.image();
    let out = site.run("alice", &["salloc", "--no-shell", "-n1", &image]);
    let granted = out.err();
    let job = granted.split_once("Granted job allocation ").and_then(|(_, rest)| rest.lines().next());
    let step = format!("--jobid={}", job.unwrap_or_else(|| panic!("{}", out.describe())));
    let out = site.run("alice", &["srun", &step, "shifter", "cat", "/etc/which"]);
    assert!(out.out().is_empty() && out.err().contains("No image specified"), "{}", out.describe());
    let out = site.run("alice", &["srun", &step, &image, "shifter", "cat", "/etc/which"]);
    assert_eq!(out.success().unwrap(), "first\n");
    site.run("alice", &["scancel", step.trim_start_matches("--jobid=")]).success().unwrap();
    site.finish();
}

const JOINED: &str = "joined     the container prepared for this job";

/// A site where jobs may share nodes and still have their containers prepared.
fn sharing(nodes: usize, keys: &[(&str, &str)]) -> SlurmSite {
    let options = SlurmOptions { nodes, cpus: 8, ..SlurmOptions::default() };
    SlurmSite::with("shared_jobs=1", options, |sandbox, _| sandbox.write_udiroot(keys).unwrap())
}

fn directories(user: &str, names: &[&str]) {
    for name in names {
        let path = format!("/home/{user}/{name}");
        fs::create_dir(&path).unwrap();
        fs::write(format!("{path}/name"), format!("{name}\n")).unwrap();
    }
}

#[test]
fn salloc_arrays_and_requeued_jobs_have_their_containers_too() {
    let site = sharing(2, &[]);
    let image = site.image();
    let show = ["srun", "shifter", "-v", "cat", "/etc/which"];
    let out = site.run("alice", &[&["salloc", "-N2", "--exclusive", &image], &show[..]].concat());
    assert_eq!(
        (out.out().matches("first").count(), out.err().matches(JOINED).count()),
        (2, 2),
        "{}",
        out.describe()
    );
    let out = site.run("alice", &[&["srun", &image, "-N2"], &show[1..]].concat());
    assert_eq!(
        (out.out().matches("first").count(), out.err().matches(JOINED).count()),
        (2, 2),
        "{}",
        out.describe()
    );

    let job = site.submit(
        "alice",
        &["--array=1-4", &image],
        "echo task $SLURM_ARRAY_TASK_ID; srun shifter -v cat /etc/which\n",
    );
    site.until("done", || site.run("alice", &["squeue", "-h", "-j", &job]).out().is_empty());
    let outputs: String = fs::read_dir("/home/alice")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("out-"))
        .map(|entry| fs::read_to_string(entry.path()).unwrap())
        .collect();
    for expected in ["task 1\n", "task 2\n", "task 3\n", "task 4\n"] {
        assert!(outputs.contains(expected), "{outputs}");
    }
    assert_eq!((outputs.matches(JOINED).count(), outputs.matches("first\n").count()), (4, 4), "{outputs}");

    let script = "srun shifter -v cat /etc/which\n\
        [ -n \"$SLURM_RESTART_COUNT\" ] || { scontrol requeue $SLURM_JOB_ID; sleep 30; }\necho again\n";
    let job = site.submit("alice", &["--requeue", "--open-mode=append", &image], script);
    let output = format!("/home/alice/out-{job}");
    site.until("back in the queue", || {
        site.run("alice", &["squeue", "-h", "-j", &job, "-o", "%T"]).out() == "PENDING\n"
            && fs::read_to_string(&output).is_ok_and(|text| text.contains("first"))
    });
    // Slurm would let it wait for two minutes; in the second of its end, slurmd takes it for the job that has ended.
    std::thread::sleep(Duration::from_millis(2100));
    site.sandbox
        .root()
        .run(&["scontrol", "update", &format!("jobid={job}"), "StartTime=now"])
        .unwrap()
        .success()
        .unwrap();
    let end = site.end_of(&job);
    let out = fs::read_to_string(&output).unwrap();
    assert_eq!(end, "COMPLETED", "{out}\n{}", site.logs());
    assert_eq!((out.matches(JOINED).count(), out.matches("again\n").count()), (2, 1), "{out}");
    site.finish();
}

#[test]
fn steps_may_have_other_images_volumes_and_modules_and_the_job_keeps_its_own() {
    let site = sharing(1, &[("module_m_siteEnv", "M=1"), ("module_n_siteEnv", "M=2")]);
    let second = site.sandbox.install_image(&image_named("second\n"), "").unwrap();
    directories("alice", &["a", "b", "c"]);
    // In one stream: srun forwards the two apart.
    let inside = "cat /etc/which /data/name /more/name; echo M=$M; echo end";
    let show = script(&site.sandbox, "show.sh", &format!("shifter -v sh -c '{inside}' 2>&1\n"));
    let script = format!(
        "#!/bin/bash\n#SBATCH {} --volume=/home/alice/a:/data --volume=/home/alice/c:/more --module=m\n\
         srun {show}\n\
         srun --image=id:{second} {show}\n\
         srun --volume=/home/alice/a:/data {show}\n\
         srun --module=n {show}\n\
         srun --module=none {show}\n\
         srun --overlap bash -c \"srun --overlap {show}\"\n\
         {show}\n",
        site.image()
    );
    let out = site.batch_well("alice", &["--volume=/home/alice/b:/data"], &script);
    let steps: Vec<&str> = out.split_inclusive("end\n").collect();
    let expected = [
        (true, "first\nb\nc\nM=1\n"),
        (false, "second\nb\nc\nM=1\n"),
        (false, "first\na\nc\nM=1\n"),
        (false, "first\nb\nc\nM=2\n"),
        (false, "first\nb\nc\nM=\n"),
        (true, "first\nb\nc\nM=1\n"),
        (true, "first\nb\nc\nM=1\n"),
    ];
    assert_eq!(steps.len(), expected.len(), "{out}");
    for (step, (joined, said)) in steps.iter().zip(expected) {
        assert_eq!(step.contains(JOINED), joined, "{step}\nof\n{out}");
        assert!(step.ends_with(&format!("{said}end\n")), "{step}\nof\n{out}");
    }
    site.finish();
}

#[test]
fn an_emptied_environment_leaves_the_job_its_image() {
    let site = sharing(1, &[("module_m_siteEnv", "M=1")]);
    let emptied = "export PATH=/opt/shifter-test/bin:/usr/bin:/bin; env | grep -c ^SHIFTER_; shifter -v cat /etc/which; srun /opt/shifter-test/bin/shifter -v /bin/cat /etc/which\n";
    let (_, out) = site.batch("alice", &["--export=NONE", &site.image()], emptied);
    assert_eq!((out.matches(JOINED).count(), out.matches("first\n").count()), (2, 2), "{out}");
    assert!(out.contains("\n0\n") || out.starts_with("0\n"), "{out}");
    // What a step chose otherwise counts there, too, and in the steps it starts.
    let second = site.sandbox.install_image(&image_named("second\n"), "").unwrap();
    directories("alice", &["a", "b"]);
    let inside = "/opt/shifter-test/bin/shifter /bin/sh -c 'cat /etc/which /data/name; echo M=$M'";
    let show = script(&site.sandbox, "show.sh", &format!("export PATH=/usr/bin:/bin\n{inside}\n"));
    for export in ["NONE", "FOO=1"] {
        let script = format!(
            "srun --export={export} --image=id:{second} --volume=/home/alice/b:/data --module=m {show}\n\
             srun --overlap --export={export} --image=id:{second} /bin/bash -c 'srun --overlap {show}'\n\
             srun --export={export} {show}\n"
        );
        let out = site.batch_well("alice", &[&site.image(), "--volume=/home/alice/a:/data"], &script);
        assert_eq!(out, "second\nb\nM=1\nsecond\na\nM=\nfirst\na\nM=\n", "{export}");
    }
    site.finish();
}

#[test]
fn exit_codes_and_signals_are_those_of_plain_jobs() {
    let site = sharing(1, &[]);
    let image = site.image();
    for (script, expected) in [
        ("exit 0", "0:0"),
        ("exit 7", "7:0"),
        ("exit 127", "127:0"),
        ("kill -TERM $$", "0:15"),
        ("kill -SEGV $$", "0:11"),
        ("kill -KILL $$", "0:9"),
    ] {
        let plain = site.run("alice", &["srun", "-n1", "sh", "-c", script]);
        let ours = site.run("alice", &["srun", "-n1", &image, "shifter", "sh", "-c", script]);
        assert_eq!(
            ours.status.code(),
            plain.status.code(),
            "{script}: {} {}",
            ours.describe(),
            plain.describe()
        );
        let inside = format!("exec shifter sh -c '{script}'");
        for (options, script) in [(&[][..], script), (&[image.as_str()], &inside)] {
            let job = site.submit("alice", options, script);
            let state = site.end_of(&job);
            assert_eq!(site.code_and_signal_of(&job), expected, "{script}: {state}\n{}", site.logs());
        }
    }
    site.finish();
}

#[test]
fn st54_scancel_and_asked_for_signals_reach_the_task() {
    let site = sharing(1, &[]);
    let image = site.image();
    let waiting = |exec: &str| {
        format!(
            "exec {exec}shifter sh -c 'for s in TERM USR1; do trap \"echo $s >> got; [ $s = USR1 ] || exit 0\" $s; done; \
             echo > up; while :; do sleep 0.05; done'\n"
        )
    };
    let got = || fs::read_to_string("/home/alice/got").unwrap_or_default();
    for exec in ["srun ", ""] {
        let job = site.submit("alice", &[&image], &waiting(exec));
        site.text_of("/home/alice/up");
        let signal: &[&str] =
            if exec.is_empty() { &["--batch", "--signal=USR1"] } else { &["--signal=USR1"] };
        site.run("alice", &[&["scancel"], signal, &[job.as_str()]].concat()).success().unwrap();
        site.until("signalled", || got() == "USR1\n");
        site.run("alice", &["scancel", &job]).success().unwrap();
        site.until("told to end", || got() == "USR1\nTERM\n");
        assert_eq!(site.end_of(&job), "CANCELLED");
        for file in ["got", "up"] {
            fs::remove_file(format!("/home/alice/{file}")).unwrap();
        }
    }
    // Before the time limit, which Slurm looks at twice a minute: to the steps, and to the batch script alone.
    let jobs = [("step", "--signal=USR1@60", "srun "), ("batch", "--signal=B:USR1@60", "")].map(
        |(place, signal, exec)| {
            let place = format!("/home/alice/{place}");
            fs::create_dir(&place).unwrap();
            std::os::unix::fs::chown(&place, Some(4201), None).unwrap();
            let (place, got) = (format!("--chdir={place}"), format!("{place}/got"));
            (site.submit("alice", &[&image, "-n1", "--time=1", signal, &place], &waiting(exec)), got)
        },
    );
    let started = Instant::now();
    for (job, got) in &jobs {
        while fs::read_to_string(got).unwrap_or_default() != "USR1\n" {
            assert!(started.elapsed() < Duration::from_secs(75), "no signal: {got}\n{}", site.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        site.run("alice", &["scancel", job]).success().unwrap();
        site.end_of(job);
    }
    site.finish();
}

#[test]
fn a_job_cancelled_during_its_prolog_leaves_nothing() {
    let hook = "/opt/shifter-test/slow.sh";
    let site = SlurmSite::with("", SlurmOptions { nodes: 2, ..SlurmOptions::default() }, |sandbox, _| {
        script(sandbox, "slow.sh", "echo > /home/alice/begun; sleep 2");
        sandbox.write_udiroot(&[("sitePostMountHook", hook)]).unwrap();
    });
    let job = site.submit("alice", &["-N2", "--exclusive", &site.image()], "srun shifter true; echo > ran\n");
    site.text_of("/home/alice/begun");
    site.run("alice", &["scancel", &job]).success().unwrap();
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!(site.end_of(&job), "CANCELLED");
    assert!(!Path::new("/home/alice/ran").exists());
    site.finish();
}

#[test]
fn two_users_on_one_node_have_a_container_each() {
    let site = sharing(1, &[]);
    let image = site.image();
    let script = "shifter -v sh -c 'id -un; cat /etc/which'; echo > up-$USER; while [ ! -e go ]; do sleep 0.05; done; srun shifter -v id -un\n";
    let jobs = ["alice", "bob"].map(|user| site.submit(user, &["-n1", &image, "--export=ALL"], script));
    for user in ["alice", "bob"] {
        site.text_of(&format!("/home/{user}/up-{user}"));
    }
    assert_eq!(site.containers(1).split_whitespace().count(), 3, "{}", site.containers(1));
    // The other's number opens nothing.
    let steal = format!("SLURM_JOB_ID={} shifter -v {image} id -un", jobs[1]);
    let outer = format!("setpriv --reuid=4201 --regid=4201 --groups=4301,4302 bash -c '{steal}' 2>&1");
    let out = site.on_node(1, &format!("export PATH=/opt/shifter-test/bin:$PATH; {outer}"));
    assert!(out.ends_with("alice\n") && !out.contains(JOINED), "{out}");
    for (user, job) in [("alice", &jobs[0]), ("bob", &jobs[1])] {
        fs::write(format!("/home/{user}/go"), "").unwrap();
        assert_eq!(site.end_of(job), "COMPLETED");
        let out = fs::read_to_string(format!("/home/{user}/out-{job}")).unwrap();
        assert_eq!((out.matches(JOINED).count(), out.matches(&format!("{user}\n")).count()), (2, 2), "{out}");
    }
    site.finish();
}

#[test]
fn jobs_that_share_their_nodes_build_their_own_containers_unless_the_site_says_otherwise() {
    let site = SlurmSite::new(1, "");
    let out = site.batch_well(
        "alice",
        &["-n1", &site.image()],
        "ls /run/shifter/jobs 2>&1; srun shifter -v cat /etc/which\n",
    );
    assert!(out.ends_with("first\n") && !out.contains(JOINED), "{out}");
    site.finish();
}

#[test]
fn a_preempted_job_makes_room_for_the_next_ones_container() {
    let more = vec![
        ("PreemptType", "preempt/partition_prio".to_owned()),
        ("PreemptMode", "CANCEL".to_owned()),
        ("PartitionName", "high Nodes=ALL PriorityTier=10 State=UP".to_owned()),
    ];
    let site =
        SlurmSite::with("", SlurmOptions { nodes: 1, cpus: 2, more, ..SlurmOptions::default() }, |_, _| {});
    let image = site.image();
    let script = "shifter -v sh -c 'trap \"\" TERM; echo > up; while :; do sleep 0.05; done'\n";
    let low = site.submit("alice", &["--exclusive", &image], script);
    site.text_of("/home/alice/up");
    let out = site.batch_well(
        "bob",
        &["-p", "high", "--exclusive", &image],
        "srun shifter -v cat /etc/which 2>&1\n",
    );
    assert!(out.contains(JOINED) && out.ends_with("first\n"), "{out}");
    assert_eq!(site.end_of(&low), "PREEMPTED");
    assert!(fs::read_to_string(format!("/home/alice/out-{low}")).unwrap().contains(JOINED));
    site.finish();
}

#[test]
fn a_job_of_another_of_the_users_groups_has_a_container_with_that_group() {
    let site = sharing(1, &[]);
    let script = "/home/alice/script.sh";
    fs::write(script, "#!/bin/bash\nsrun shifter -v id -G 2>&1\n").unwrap();
    let image = site.image();
    let submit = ["sbatch", "--parsable", "--output=/home/alice/out", &image, script];
    let as_physicist = ["setpriv", "--reuid=4201", "--regid=4301", "--groups=4302"];
    let root = site.sandbox.root().directory("/home/alice");
    let job = root.run(&[&as_physicist[..], &submit].concat()).unwrap().success().unwrap();
    assert_eq!(site.end_of(job.trim()), "COMPLETED");
    let out = fs::read_to_string("/home/alice/out").unwrap();
    assert!(
        out.contains(JOINED) && out.lines().last().is_some_and(|groups| groups.starts_with("4301 ")),
        "{out}"
    );
    // A group that the container leaves out is in the way of nothing.
    let out = site.run("carol", &["srun", &image, "shifter", "-v", "id", "-G"]);
    assert!(out.err().contains(JOINED) && out.out() == "4203 4302\n", "{}", out.describe());
    let out = site.run("dave", &["srun", &image, "true"]);
    assert!(!out.status.success() && out.err().contains("ordinary users"), "{}", out.describe());
    site.finish();
}
