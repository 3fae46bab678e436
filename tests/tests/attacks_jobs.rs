//! Attacks on containers that `setupRoot` prepared, and by them on the host and its other users: each test is named
//! after what would be seen if one succeeded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::jobs::{ALICE, is_joined, root, says_joined, setup, udi, unsetup};
use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn mounts(machine: &Machine) -> String {
    machine.host("cat /proc/self/mountinfo")
}

/// How often something is mounted at `place`.
fn mounted(machine: &Machine, place: &str) -> usize {
    mounts(machine).lines().filter(|line| line.split(' ').nth(4) == Some(place)).count()
}

#[test]
fn another_user_reads_a_private_image_or_volume_through_a_prepared_container() {
    let mut entries = shell_image();
    entries.extend([dir("secret"), file("secret/word", "of the image\n")]);
    let machine = Machine::new(&entries, "USERACL: 4201\n");
    machine.host(
        "mkdir -p /home/alice/private/data; echo of the user > /home/alice/private/data/word; \
         chown -R alice: /home/alice/private; chmod 700 /home/alice/private",
    );
    let volume = "/home/alice/private/data:/mnt/data";
    setup(&machine, &ALICE, &["--job=5", "-v", volume]).success().unwrap();
    let at = udi(&machine, "").display().to_string();
    let image_at = machine.sandbox.prefix().join("loop").display().to_string();
    for attempt in [
        format!("ls {at}"),
        format!("cat {at}/secret/word"),
        format!("cat {at}/mnt/data/word"),
        format!("cat {image_at}/secret/word"),
        format!("cd {at}/etc"),
    ] {
        let out = machine.shell("bob", &attempt);
        assert!(!out.status.success() && out.out().is_empty(), "{}", out.describe());
    }
    let image_seen = format!("ls {at} | grep secret; cat {at}/secret/word");
    assert_eq!(machine.shell("alice", &image_seen).success().unwrap(), "secret\nof the image\n");
    assert_eq!(machine.host(&image_seen), "secret\nof the image\n");
    assert!(is_joined(&machine, "alice", &["-V", volume]));
    let out = machine.run("alice", &["-V", volume, "cat", "/secret/word", "/mnt/data/word"]);
    assert_eq!(out.success().unwrap(), "of the image\nof the user\n");
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn a_prepared_containers_volume_keeps_another_user_from_moving_their_files() {
    let machine = Machine::new(&shell_image(), "");
    machine.shell("bob", "mkdir -p /tmp/bob/d /tmp/bob/e; echo a > /tmp/bob/f").success().unwrap();
    let volumes = "/home/alice:/tmp/bob/d;/home/alice:/tmp/bob/e;/etc/passwd:/tmp/bob/f";
    setup(&machine, &ALICE, &["-v", volumes]).success().unwrap();
    assert!(!mounts(&machine).contains("/tmp/bob"), "the host has them");
    assert!(is_joined(&machine, "alice", &["-V", volumes]));
    let inside = machine.run("alice", &["-V", volumes, "grep", "-c", " /tmp/bob/", "/proc/self/mountinfo"]);
    assert_eq!(inside.success().unwrap(), "3\n");
    for attempt in
        ["rmdir /tmp/bob/d", "mv /tmp/bob/e /tmp/bob/e2", "echo b > /tmp/bob/g; mv /tmp/bob/g /tmp/bob/f"]
    {
        machine.shell("bob", attempt).success().unwrap();
    }
    unsetup(&machine, &[]);
    machine.host("rm -r /tmp/bob");
    machine.finish();
}

/// ramfs has no access lists.
#[test]
fn a_root_that_cannot_shut_others_out_stands_in_their_sight() {
    let machine = Machine::new(&shell_image(), "");
    machine.sandbox.write_udiroot(&[("rootfsType", "ramfs")]).unwrap();
    let before = mounts(&machine);
    for job in ["--job=1", "--job=2"] {
        setup(&machine, &ALICE, &[job]).success().unwrap();
    }
    let below = machine.sandbox.prefix().display().to_string();
    let ours = |text: &str| text.lines().filter(|line| line.contains(&below)).count();
    assert_eq!(ours(&mounts(&machine)), ours(&before), "{}", mounts(&machine));
    let shown = |path| fs::read_dir(machine.sandbox.prefix().join(path)).unwrap().count();
    assert_eq!((shown("udi"), shown("loop")), (0, 0));
    assert!(is_joined(&machine, "alice", &[]));
    unsetup(&machine, &[]);
    machine.finish();
}

/// A helper that runs as the job's user can be traced by them, and then says what they like.
#[test]
fn a_user_forges_their_groups_by_tracing_the_helper_of_setup_root() {
    let machine = Machine::new(&shell_image(), "GROUPACL: 4302\n");
    let asked = machine.script("asked", "");
    fs::set_permissions(&asked, fs::Permissions::from_mode(0o666)).unwrap();
    let text = format!(
        "#!/bin/sh\n{{ echo $*; id -ru; id -u; grep CapEff /proc/self/status; }} >> {asked}\necho alice 4301 4302\n"
    );
    let helper = machine.script("getent", &text);
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    machine.host(&format!("mount --bind {helper} /usr/bin/getent"));
    let out = setup(&machine, &ALICE, &[]);
    machine.host("umount /usr/bin/getent");
    out.success().unwrap();
    let seen = fs::read_to_string(&asked).unwrap();
    assert!(seen.starts_with("initgroups alice\n0\n0\nCapEff:"), "{seen}");
    assert!(is_joined(&machine, "alice", &[]), "the answer was used");
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn taking_a_container_down_unmounts_what_the_host_has_below_a_shared_site_mount() {
    let machine = Machine::new(&shell_image(), "");
    machine.host(
        "mkdir /home/scratch; mount -t tmpfs scratch /home/scratch; mkdir /home/scratch/{proj,late}; \
         mount -t tmpfs proj /home/scratch/proj",
    );
    for flags in ["rec:shared", "shared", "rec:slave"] {
        machine.sandbox.write_udiroot(&[("siteFs", &format!("/home/scratch:/scratch:{flags}"))]).unwrap();
        setup(&machine, &ALICE, &["--job=5"]).success().unwrap();
        machine.host("mount -t tmpfs late /home/scratch/late");
        unsetup(&machine, &["--job=5"]);
        let left =
            ["/home/scratch", "/home/scratch/proj", "/home/scratch/late"].map(|at| mounted(&machine, at));
        assert_eq!(left, [1, 1, 1], "{flags}: {}", mounts(&machine));
        machine.host("umount /home/scratch/late");
        let said = setup(&machine, &ALICE, &["--job=6", "-v", "/nonexistent:/mnt/x"]).failure(1).unwrap();
        assert!(said.contains("/nonexistent:/mnt/x"), "{said}");
        let left =
            ["/home/scratch", "/home/scratch/proj", "/run/shifter/jobs/6/ns"].map(|at| mounted(&machine, at));
        assert_eq!(left, [1, 1, 0], "after a failure, {flags}: {}", mounts(&machine));
        assert!(!udi(&machine, "var").exists());
    }
    unsetup(&machine, &[]);
    machine.host("umount -R /home/scratch");
    machine.finish();
}

#[test]
fn a_word_that_is_no_text_crashes_the_prolog_or_the_epilog() {
    let machine = Machine::new(&shell_image(), "");
    for (program, words) in [
        ("setupRoot", format!("{} {} -v $'/tmp/\\xff:/mnt'", ALICE.join(" "), machine.id)),
        ("setupRoot", format!("{} $'\\xfe'", ALICE.join(" "))),
        ("unsetupRoot", "$'--job=\\xff'".to_owned()),
    ] {
        let path = machine.sandbox.program(program).unwrap().display().to_string();
        let out = machine.sandbox.root().run(&["bash", "-c", &format!("{path} {words}")]).unwrap();
        let said = out.failure(1).unwrap();
        let first = said.lines().next().unwrap_or_default();
        assert!(
            first.starts_with(&format!("{program}: ")) && first.ends_with("is not UTF-8"),
            "{words}: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
    assert!(!fs::exists("/run/shifter/jobs/0").unwrap());
    machine.finish();
}

/// The first is slow while it mounts what all share.
#[test]
fn jobs_that_begin_at_once_on_a_fresh_node_hide_one_anothers_containers() {
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let slow =
        ["strace", "-qq", "-o/dev/null", "-etrace=fsopen", "-einject=fsopen:delay_enter=200000:when=1"];
    for round in 0..2 {
        let jobs: Vec<String> = (1..=20).map(|job| format!("--job={job}")).collect();
        let start = |job: &String| {
            let slow = if job == "--job=1" { &slow[..] } else { &[] };
            let words = [&[program.as_str()], &ALICE[..], &[&machine.id, "--groups=4301,4302", job]].concat();
            machine.sandbox.root().spawn(&[slow, &words].concat()).unwrap()
        };
        let running: Vec<_> = jobs.iter().map(start).collect();
        for child in running {
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "round {round}: {}", String::from_utf8_lossy(&out.stderr));
        }
        assert_eq!(mounted(&machine, "/run/shifter/jobs"), 1, "round {round}: {}", mounts(&machine));
        for job in 1..=20 {
            let start = machine.as_user("alice").env("SLURM_JOB_ID", &job.to_string());
            assert!(says_joined(start.run(&machine.words(&["-v", "true"])).unwrap()), "round {round}: {job}");
        }
        unsetup(&machine, &[]);
        assert_eq!(mounted(&machine, "/run/shifter/jobs"), 0, "the next round's node is fresh again");
    }
    machine.finish();
}

#[test]
fn a_job_without_a_container_of_its_own_is_shown_another_jobs_hosts() {
    let machine = Machine::new(&shell_image(), "");
    let start = |job: &str| {
        let words = machine.words(&["-v", "sh", "-c", "cat /var/hostsfile 2>/dev/null; true"]);
        let out = machine.as_user("alice").env("SLURM_JOB_ID", job).run(&words).unwrap();
        let joined = out.err().contains("joined     the container prepared for this job");
        (joined, out.success().unwrap())
    };
    setup(&machine, &ALICE, &["--job=7", "-N", "n7/2"]).success().unwrap();
    assert_eq!(start("7"), (true, "n7\nn7\n".to_owned()));
    assert_eq!(start("8"), (false, String::new()));
    let without_image = machine.program(&["cat", "/var/hostsfile"]);
    let out = machine.as_user("alice").env("SLURM_JOB_ID", "8").run(&without_image).unwrap();
    assert!(out.err().contains("No image specified"), "{}", out.describe());
    setup(&machine, &ALICE, &["-N", "any/1"]).success().unwrap();
    assert_eq!(start("7"), (true, "n7\nn7\n".to_owned()));
    assert_eq!(start("8"), (true, "any\n".to_owned()), "the container that belongs to no job");
    assert!(root(&machine, "unsetupRoot", &["--job=7"]).status.success());
    unsetup(&machine, &[]);
    machine.finish();
}
