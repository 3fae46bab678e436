//! Containers prepared by `setupRoot`: joined by the job's user, and only where a start would build the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::jobs::{ALICE, BOB, is_joined, root, says_joined, setup, udi, unsetup};
use common::{Machine, image_with_probes, shell_image};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

#[test]
fn starts_of_the_jobs_user_join_and_others_build_their_own() {
    let machine = Machine::new(&shell_image(), "ENV: IMG=1\n");
    assert!(!is_joined(&machine, "alice", &[]), "nothing is prepared yet");
    setup(&machine, &ALICE, &["-N", "n1/2 n2/1", "--job=17"]).success().unwrap();
    assert!(is_joined(&machine, "alice", &[]));
    assert!(!is_joined(&machine, "bob", &[]));
    let script = "id -u; id -G; grep Cap /proc/self/status | sort -u -k2 | wc -l; cat /var/hostsfile; echo $IMG; pwd; ls /..";
    let words = machine.words(&["sh", "-c", script]);
    let out = machine.as_user("alice").directory("/home").run(&words).unwrap().success().unwrap();
    assert!(
        out.starts_with("4201\n4201 4301 4302\n1\nn1\nn1\nn2\n1\n/home\n") && !out.contains("shifter-test"),
        "{out}"
    );
    let record = fs::read_to_string(udi(&machine, "var/shifterConfig.json")).unwrap();
    assert!(
        record.starts_with(&format!("{{\"identifier\":\"{}\",\"user\":\"alice\"", machine.id)),
        "{record}"
    );
    unsetup(&machine, &[]);
    assert!(!is_joined(&machine, "alice", &[]));
    assert!(!udi(&machine, "var").exists() && !Path::new("/run/shifter/jobs/17").exists());
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn a_start_that_would_differ_is_built_privately() {
    let machine = Machine::new(&shell_image(), "");
    let keys = [("module_m_siteEnv", "M=1"), ("siteFs", "/home:/home:rec:slave")];
    machine.sandbox.write_udiroot(&keys).unwrap();
    setup(&machine, &ALICE, &["-v", "/home:/mnt:ro", "-m", "m"]).success().unwrap();
    let same = ["-V", "/home:/mnt:ro", "--module=m"];
    assert!(is_joined(&machine, "alice", &same));
    assert_eq!(
        machine.run("alice", &[&same[..], &["sh", "-c", "echo $M"]].concat()).success().unwrap(),
        "1\n"
    );
    for other in
        [&[][..], &same[..2], &same[2..], &["-V", "/home:/mnt", "-mm"], &["-V/home:/mnt:ro;/tmp:/x", "-mm"]]
    {
        assert!(!is_joined(&machine, "alice", other), "{other:?}");
    }
    // Another group, a record of the image written anew, another /tmp, another configuration.
    let with_group = format!(
        "setpriv --reuid=4201 --regid=4201 --groups=4301 {} -v {} true",
        machine.command_line(),
        same.join(" ")
    );
    assert!(!says_joined(machine.sandbox.root().run(&["sh", "-c", &with_group]).unwrap()));
    for place in ["/tmp", "/var/tmp", "/dev/shm"] {
        let private = format!(
            "mount -t tmpfs -o mode=1777 private {place}; : > {place}/mine; \
             setpriv --reuid=4201 --regid=4201 --groups=4301,4302 {} -v {} ls {place}",
            machine.command_line(),
            same.join(" ")
        );
        let out = machine.sandbox.root().run(&["unshare", "-m", "sh", "-c", &private]).unwrap();
        assert!(!out.err().contains("joined     "), "{place}: {}", out.describe());
        assert_eq!(out.success().unwrap(), "mine\n", "never the node's {place}");
    }
    assert!(is_joined(&machine, "alice", &same));
    machine.sandbox.write_record(&machine.id, "FORMAT: squashfs\nENV: NEW=1\n").unwrap();
    assert!(!is_joined(&machine, "alice", &same));
    unsetup(&machine, &[]);
    setup(&machine, &ALICE, &[]).success().unwrap();
    assert!(is_joined(&machine, "alice", &["--module=none"]));
    machine.sandbox.write_udiroot(&[("siteEnv", "OTHER=1")]).unwrap();
    assert!(!is_joined(&machine, "alice", &["--module=none"]));
    // An image that became private to others is not joined either.
    machine.sandbox.write_record(&machine.id, "FORMAT: squashfs\nUSERACL: 4202\n").unwrap();
    let said = machine.run("alice", &["true"]).failure(1).unwrap();
    assert!(said.contains("FAILED permission denied to image"), "{said}");
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn jobs_of_several_users_stand_side_by_side() {
    let machine = Machine::new(&shell_image(), "");
    setup(&machine, &ALICE, &["--job=1"]).success().unwrap();
    setup(&machine, &BOB, &["--job=2"]).success().unwrap();
    let said = setup(&machine, &BOB, &["--job=2"]).failure(1).unwrap();
    assert!(said.contains("a container for job 2 is prepared already"), "{said}");
    assert!(is_joined(&machine, "alice", &[]) && is_joined(&machine, "bob", &[]));
    // The number only selects: it opens nothing of another user's.
    for key in ["2", "3", "../1", ""] {
        let out =
            machine.as_user("alice").env("SLURM_JOB_ID", key).run(&machine.words(&["-v", "true"])).unwrap();
        assert_eq!(says_joined(out), !["2", "3"].contains(&key), "{key}");
    }
    unsetup(&machine, &["--job=1"]);
    assert!(!is_joined(&machine, "alice", &[]) && is_joined(&machine, "bob", &[]));
    unsetup(&machine, &["--job=1"]);
    setup(&machine, &ALICE, &["--job", "3"]).success().unwrap();
    assert!(is_joined(&machine, "alice", &[]), "udiMount is free again");
    unsetup(&machine, &["--job=2"]);
    unsetup(&machine, &["--job=3"]);
    assert!(!udi(&machine, "var").exists());
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn without_an_image_the_callers_prepared_container_is_joined() {
    let machine = Machine::new(&shell_image(), "");
    setup(&machine, &ALICE, &["--job=9"]).success().unwrap();
    let words = machine.program(&["-v", "sh", "-c", "echo $SHIFTER_IMAGE"]);
    let out = machine.as_user("alice").run(&words).unwrap();
    assert!(out.err().contains("joined     "), "{}", out.describe());
    assert_eq!(out.success().unwrap(), format!("{}\n", machine.id));
    let said = machine.as_user("bob").run(&words).unwrap();
    assert!(said.err().contains("No image specified"), "{}", said.describe());
    unsetup(&machine, &[]);
    // With all that it was made of, unless something else is asked for.
    let tree = machine.sandbox.prefix().join("of-module").display().to_string();
    fs::create_dir(&tree).unwrap();
    let module = [("module_m_siteEnv", "M=1"), ("module_other_siteEnv", "O=1"), ("defaultModules", "other")];
    machine.sandbox.write_udiroot(&module).unwrap();
    fs::write("/home/file", "shown\n").unwrap();
    for (choice, script, expected) in [
        (
            &["-v", "/home:/mnt", "-v", "/tmp:/media:ro", "-m", "m"][..],
            "cat /mnt/file; echo $M$O",
            "shown\n1\n",
        ),
        (&["-m", "none"], "echo [$M$O]", "[]\n"),
        (&[], "echo [$M$O]", "[1]\n"),
    ] {
        setup(&machine, &ALICE, choice).success().unwrap();
        let start = |words: &[&str]| machine.as_user("alice").run(&machine.program(words)).unwrap();
        let out = start(&["-v", "sh", "-c", script]);
        assert!(out.err().contains("joined     "), "{choice:?}: {}", out.describe());
        assert_eq!(out.success().unwrap(), expected, "{choice:?}");
        let other = start(&["-v", "--volume=/home:/srv", "--module=m,other", "cat", "/srv/file"]);
        assert!(!other.err().contains("joined     "), "{}", other.describe());
        assert_eq!(other.success().unwrap(), "shown\n");
        unsetup(&machine, &[]);
    }
    machine.finish();
}

#[test]
fn what_is_no_key_of_the_configuration_is_said_by_setup_root_and_refuses_nothing() {
    let machine = Machine::new(&shell_image(), "");
    machine.sandbox.write_udiroot(&[("module_m_sitefs", "/a:/b"), ("autoLoadKernelModule", "1")]).unwrap();
    let out = setup(&machine, &ALICE, &[]);
    for said in ["module \"m\" has no attribute \"sitefs\"", "have loop, squashfs and overlay loaded at boot"]
    {
        assert!(out.err().contains(said), "{}", out.describe());
    }
    out.success().unwrap();
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn later_host_mounts_are_seen_in_prepared_and_private_containers_and_go_again() {
    let machine = Machine::new(&shell_image(), "");
    fs::create_dir_all("/home/dw/job").unwrap();
    machine.sandbox.write_udiroot(&[("siteFs", "/home/dw:/dw:rec:slave")]).unwrap();
    setup(&machine, &ALICE, &[]).success().unwrap();
    let host = |words: &[&str]| machine.sandbox.root().run(words).unwrap().success().unwrap();
    let private = machine.start("alice", "read x; cat /dw/job/file; echo seen; read x; ls /dw/job");
    let mut private = private;
    let (mut stdin, mut stdout) = (private.stdin.take().unwrap(), private.stdout.take().unwrap());
    use std::io::Write as _;
    host(&["mount", "-t", "tmpfs", "dw", "/home/dw/job"]);
    fs::write("/home/dw/job/file", "data warp\n").unwrap();
    assert_eq!(machine.run("alice", &["cat", "/dw/job/file"]).success().unwrap(), "data warp\n");
    stdin.write_all(b"\n").unwrap();
    let mut seen = [0; 15];
    std::io::Read::read_exact(&mut stdout, &mut seen).unwrap();
    assert_eq!(&seen, b"data warp\nseen\n");
    host(&["umount", "/home/dw/job"]);
    stdin.write_all(b"\n").unwrap();
    drop(stdin);
    let mut left = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut left).unwrap();
    assert!(private.wait().unwrap().success() && left.is_empty(), "{left}");
    assert_eq!(machine.run("alice", &["ls", "/dw/job"]).success().unwrap(), "");
    // What root mounts on the container itself after the job has begun.
    fs::create_dir(udi(&machine, "late")).unwrap();
    host(&["mount", "-t", "tmpfs", "late", &udi(&machine, "late").display().to_string()]);
    fs::write(udi(&machine, "late/file"), "late\n").unwrap();
    assert_eq!(machine.run("alice", &["cat", "/late/file"]).success().unwrap(), "late\n");
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn a_setup_that_fails_says_why_and_leaves_nothing() {
    let machine = Machine::new(&shell_image(), "");
    let hook = machine.sandbox.prefix().join("post.sh");
    fs::write(&hook, "exit 1").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    machine.sandbox.write_udiroot(&[("sitePostMountHook", &hook.display().to_string())]).unwrap();
    let id = machine.id.as_str();
    for (words, expected) in [
        (&["-U", "4201", "-G", "4201", "-u", "alice", "id", id][..], "Site postmount hook failed."),
        (&["-U", "0", "-G", "4201", "-u", "root", "id", id], "ordinary users"),
        (&["-U", "4201", "-u", "alice", "id", id], "ordinary users"),
        (&["-U", "4201", "-G", "4201", "-u", "bob", "id", id], "uid 4201 is alice's, not \"bob\"'s"),
        (&["-U", "4201", "-G", "4201", "-u", "alice", id], "two words are needed"),
        (&["-U", "4201", "-G", "4201", "-u", "alice", "oci", id], "is no image type"),
        (&["-U", "4201", "-G", "4201", "-u", "alice", "-m", "x", "id", id], "Unknown shifter module: x"),
        (&["-U", "4201", "-G", "4201", "-u", "alice", "-v", "/a:/etc", "id", id], "cannot be a target"),
        (
            &["-U", "4201", "-G", "4201", "-u", "alice", "-v", "/nowhere:/mnt", "id", id],
            "Site postmount hook failed.",
        ),
        (
            &["-U", "4201", "-G", "4201", "-u", "alice", "-s", "ssh-ed25519 AAAA", "id", id],
            "-s needs -N: the hosts between which the key is for",
        ),
    ] {
        let said = root(&machine, "setupRoot", words).failure(1).unwrap();
        assert!(said.starts_with("setupRoot: ") && said.contains(expected), "{words:?}: {said}");
        assert!(!udi(&machine, "var").exists() && !Path::new("/run/shifter/jobs/0").exists(), "{words:?}");
    }
    let program = machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let said = machine.as_user("alice").run(&[&[program.as_str()], &ALICE[..], &[id]].concat()).unwrap();
    assert!(said.err().contains("run it as root"), "{}", said.describe());
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn a_setup_killed_at_any_moment_is_cleared_away_and_no_half_container_is_joined() {
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let words = [&[program.as_str()], &ALICE[..], &[machine.id.as_str()]].concat();
    for round in 0..40u64 {
        let mut child = machine.sandbox.root().spawn(&words).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 100));
        child.kill().unwrap();
        child.wait().unwrap();
        machine.run("alice", &["true"]).success().unwrap();
        unsetup(&machine, &[]);
        assert!(!udi(&machine, "var").exists());
    }
    setup(&machine, &ALICE, &[]).success().unwrap();
    assert!(is_joined(&machine, "alice", &[]));
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn a_pin_or_record_that_is_none_is_passed_over() {
    let machine = Machine::new(&shell_image(), "");
    setup(&machine, &ALICE, &["--job=5"]).success().unwrap();
    let record = fs::read("/run/shifter/jobs/5/record").unwrap();
    for text in [&record[..record.len() - 1], b"", b"\xff\xfe", &[&record[..], b"x 1\n"].concat()] {
        fs::write("/run/shifter/jobs/5/record", text).unwrap();
        assert!(!is_joined(&machine, "alice", &[]));
    }
    fs::write("/run/shifter/jobs/5/record", &record).unwrap();
    assert!(is_joined(&machine, "alice", &[]));
    machine.sandbox.root().run(&["umount", "/run/shifter/jobs/5/ns"]).unwrap().success().unwrap();
    assert!(!is_joined(&machine, "alice", &[]), "a file is no namespace");
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn teardown_says_what_stays_signals_nobody_and_touches_nothing_beside_it() {
    let machine = Machine::new(&image_with_probes(), "");
    let host = |words: &[&str]| machine.sandbox.root().run(words).unwrap().success().unwrap();
    setup(&machine, &ALICE, &["--job=7"]).success().unwrap();
    // Programs of the name that the original's epilog looked for: the job's own, and the node's.
    host(&["cp", "/bin/cat", "/home/sshd"]);
    let inside = &machine.words(&["/home/sshd"]);
    let mut daemons = [
        machine.as_user("alice").spawn(inside).unwrap(),
        machine.sandbox.root().spawn(&["/home/sshd"]).unwrap(),
    ];
    let named = |child: &std::process::Child| {
        fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|name| name == "sshd\n")
    };
    while !daemons.iter().all(named) {
        assert!(daemons.iter_mut().all(|child| child.try_wait().unwrap().is_none()), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let beside = machine.sandbox.prefix().join("udi_nfs");
    fs::create_dir(&beside).unwrap();
    host(&["mount", "-t", "tmpfs", "beside", &beside.display().to_string()]);
    let in_the_way = "/run/shifter/jobs/7/kept";
    fs::create_dir(in_the_way).unwrap();
    host(&["mount", "-t", "tmpfs", "kept", in_the_way]);
    for _ in 0..2 {
        let said = root(&machine, "unsetupRoot", &["--job=7"]).failure(1).unwrap();
        assert!(said.starts_with("unsetupRoot: cannot remove ") && said.contains("kept"), "{said}");
        assert!(!udi(&machine, "var").exists(), "what can go is gone");
    }
    host(&["umount", in_the_way]);
    unsetup(&machine, &["--job=7"]);
    for child in &mut daemons {
        assert!(child.try_wait().unwrap().is_none(), "it was signaled");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    unsetup(&machine, &[]);
    host(&["umount", &beside.display().to_string()]);
    machine.finish();
}
