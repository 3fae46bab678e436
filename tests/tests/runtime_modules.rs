//! Modules: what a site bundles and a user chooses, seen from inside containers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// A machine with three modules; its image has two user hooks.
fn machine() -> Machine {
    let mut entries = shell_image();
    entries.push(dir("hooks"));
    let good = "echo hook of $MINE in $(pwd) as $(id -u) with $MPI; touch /tmp/by-hook";
    entries.push(file("hooks/good.sh", good.as_bytes()));
    entries.push(file("hooks/bad.sh", b"exit 3"));
    let machine = Machine::new(&entries, "ENV: MPI=image\nENV: LD_LIBRARY_PATH=/usr/lib\n");
    let prefix = machine.sandbox.prefix();
    fs::create_dir_all(prefix.join("mpich/lib64/dep")).unwrap();
    fs::write(prefix.join("mpich/lib64/libmpi.so"), "the site's\n").unwrap();
    fs::set_permissions(prefix.join("mpich/lib64/libmpi.so"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir_all(prefix.join("udiImage/bin")).unwrap();
    fs::create_dir_all("/home/alps").unwrap();
    fs::write("/home/alps/state", "alps\n").unwrap();
    let roothook =
        "ls -d proc/self opt/udiImage/modules/gpu > var/seen; echo made > opt/udiImage/modules/gpu/made";
    fs::write(prefix.join("gpu.sh"), roothook).unwrap();
    fs::write(prefix.join("fails.sh"), "exit 1").unwrap();
    fs::create_dir_all(prefix.join("gpu")).unwrap();
    fs::write(prefix.join("gpu/lib"), "gpu\n").unwrap();
    let path = |name: &str| prefix.join(name).display().to_string();
    machine
        .sandbox
        .write_udiroot(&[
            ("optUdiImage", &path("udiImage")),
            ("defaultModules", "mpich"),
            ("siteEnv", "LAST=site"),
            ("siteEnvAppend", "LD_LIBRARY_PATH=/site/lib"),
            ("module_mpich_copyPath", &path("mpich")),
            ("module_mpich_siteEnv", "MPI=module LAST=module"),
            ("module_mpich_siteEnvPrepend", "LD_LIBRARY_PATH=/opt/udiImage/modules/mpich/lib64"),
            ("module_mpich_siteFs", "/home/alps:/var/opt/alps:rec"),
            ("module_gpu_copyPath", &path("gpu")),
            ("module_gpu_roothook", &path("gpu.sh")),
            ("module_gpu_siteEnvUnset", "MINE"),
            ("module_gpu_conflict", "nogpu"),
            ("module_nogpu_siteEnv", "GPU=no"),
            ("module_off_enabled", "0"),
            ("module_hooked_userhook", "/hooks/good.sh"),
            ("module_bad_userhook", "/hooks/bad.sh"),
            ("module_broken_roothook", &path("fails.sh")),
            ("module_mpich_colour", "red"),
        ])
        .unwrap();
    machine
}

#[test]
fn default_modules_are_active_unless_others_are_chosen() {
    let machine = machine();
    let show = "echo $MPI:$LAST:$LD_LIBRARY_PATH; cat /opt/udiImage/modules/mpich/lib64/libmpi.so /var/opt/alps/state";
    let with = "module:site:/opt/udiImage/modules/mpich/lib64:/usr/lib:/site/lib\nthe site's\nalps\n";
    let run = |words: &[&str]| machine.run("alice", &[words, &["sh", "-c", show]].concat());
    assert_eq!(run(&[]).success().unwrap(), with);
    assert_eq!(
        run(&["--env=MPI=mine", "--env=LAST=mine"]).success().unwrap(),
        with,
        "nobody overrides the site"
    );
    for without in ["--module=none", "-mNone", "--module=nogpu"] {
        let out = run(&[without]).out();
        assert!(out.starts_with("image:site:/usr/lib:/site/lib\n") && !out.contains("the site's"), "{out}");
    }
    let chosen = machine.as_user("alice").env("SHIFTER_MODULE", "nogpu");
    let out =
        chosen.run(&machine.words(&["sh", "-c", "echo $GPU; grep -o modules.* /var/shifterConfig.json"]));
    assert_eq!(out.unwrap().success().unwrap(), "no\nmodules\":\"nogpu,\"}\n");
    machine.finish();
}

#[test]
fn a_choice_that_cannot_be_had_is_refused_by_name() {
    let machine = machine();
    for (choice, expected) in [
        ("mpich,cray", "Unknown shifter module: cray"),
        ("off", "module off is not enabled for use."),
        ("gpu,nogpu", "cannot load conflicting modules gpu and nogpu"),
        ("nogpu,gpu", "cannot load conflicting modules nogpu and gpu"),
        ("none,gpu", "Unknown shifter module: none"),
        ("broken", "broken module roothook failed."),
        ("bad", "Failed to setup module bad: /hooks/bad.sh must end with status 0"),
    ] {
        let said = machine.run("alice", &["-m", choice, "true"]).failure(1).unwrap();
        assert!(said.contains(expected), "{choice}: {said}");
    }
    let said = machine.run("alice", &["--verbose", "true"]);
    assert!(said.err().contains("module \"mpich\" has no attribute \"colour\""), "{}", said.describe());
    assert!(machine.run("alice", &["true"]).err().is_empty(), "nobody else need hear of it");
    machine.finish();
}

#[test]
fn a_root_hook_writes_into_the_copies_and_never_into_their_source() {
    let machine = machine();
    let show =
        "cat /var/seen /opt/udiImage/modules/gpu/made; cat /opt/udiImage/modules/gpu/lib; echo [$MINE]";
    for _ in 0..2 {
        let out =
            machine.as_user("alice").env("MINE", "1").run(&machine.words(&["-m", "gpu", "sh", "-c", show]));
        let out = out.unwrap();
        assert_eq!(out.out(), "opt/udiImage/modules/gpu\nmade\ngpu\n[]\n", "no proc yet: {}", out.describe());
    }
    assert!(!machine.sandbox.prefix().join("gpu/made").exists());
    let out = machine.run("alice", &["-m", "gpu", "sh", "-c", "echo x > /opt/udiImage/modules/gpu/made"]);
    assert!(!out.status.success(), "the hook's file is root's: {}", out.describe());
    machine.finish();
}

#[test]
fn a_modules_copies_hide_what_the_sites_tree_has_under_its_name() {
    let machine = machine();
    let tree = machine.sandbox.prefix().join("udiImage/modules");
    for name in ["mpich", "other"] {
        fs::create_dir_all(tree.join(name)).unwrap();
        fs::write(tree.join(name).join("of-tree"), "").unwrap();
    }
    let script = "cd /opt/udiImage/modules; ls -d */*";
    // With a root hook the same, in another kind of mount.
    for (choice, expected) in [
        ("none", "mpich/of-tree\nother/of-tree\n"),
        ("mpich", "mpich/lib64\nother/of-tree\n"),
        ("mpich,gpu", "gpu/lib\ngpu/made\nmpich/lib64\nother/of-tree\n"),
    ] {
        let out = machine.run("alice", &["-m", choice, "sh", "-c", script]);
        assert_eq!(out.out(), expected, "{choice}: {}", out.describe());
    }
    machine.finish();
}

#[test]
fn a_user_hook_runs_as_the_user_with_the_containers_environment() {
    let machine = machine();
    let words = machine.words(&[
        "-m",
        "hooked,mpich",
        "--env=MINE=alice",
        "-w/opt",
        "sh",
        "-c",
        "ls -ln /tmp/by-hook",
    ]);
    let out = machine.as_user("alice").run(&words).unwrap().success().unwrap();
    assert!(
        out.starts_with("hook of alice in /opt as 4201 with module\n") && out.contains(" 4201 "),
        "{out}"
    );
    fs::remove_file("/tmp/by-hook").unwrap();
    machine.finish();
}

#[test]
fn programs_of_modules_run_where_run_is_mounted_noexec() {
    let machine = machine();
    let remount =
        |how: &str| machine.sandbox.root().run(&["mount", "-o", how, "/run"]).unwrap().success().unwrap();
    remount("remount,noexec");
    let tool = machine.sandbox.prefix().join("mpich/tool");
    fs::write(&tool, "#!/bin/sh\necho tool\n").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let out = machine.run("alice", &["/opt/udiImage/modules/mpich/tool"]);
    assert_eq!(out.success().unwrap(), "tool\n");
    remount("remount,exec");
    machine.finish();
}
