//! The command line as users write it, seen by what runs in the container.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file};
use std::fs;

fn machine() -> Machine {
    let mut entries = shell_image();
    entries.push(dir("srv"));
    entries.push(file("srv/env", b"# comment\nFROM_FILE=f i l e\n\n  BOTH=file\nEMPTY="));
    entries.push(file("srv/bad", b"A=1\nno variable\n"));
    let record =
        "ENTRY: ['/bin/echo', 'entry']\nCMD: ['cmd', 'two']\nWORKDIR: /srv\nENV: BOTH=image\nENV: IMG=1\n";
    Machine::new(&entries, record)
}

#[test]
fn the_command_is_chosen_by_the_documented_table() {
    let machine = machine();
    for (words, expected) in [
        (&["--entrypoint"][..], "entry cmd two\n"),
        (&["--entry", "a", "b"], "entry a b\n"),
        (&["--entrypoint=/bin/pwd"], "/\n"),
        (&["--entrypoint=/bin/echo", "x"], "x\n"),
        (&["--run"], "entry cmd two\n"),
        (&["--run", "x"], "entry x\n"),
        (&["--run", "--entrypoint=/bin/pwd"], "/srv\n"),
        (&["--run", "-w/opt", "--entrypoint=/bin/pwd"], "/opt\n"),
        (&["-w", "pwd"], "/srv\n"),
        (&["-n", "--", "echo", "--image"], "--image\n"),
        (&["--wor=/bin", "pwd"], "/bin\n"),
    ] {
        let out = machine.as_user("alice").directory("/").run(&machine.words(words)).unwrap();
        assert_eq!(out.success().unwrap(), expected, "{words:?}");
    }
    let out = machine.as_user("alice").stdin("echo shell").run(&machine.words(&[])).unwrap();
    assert_eq!(out.success().unwrap(), "shell\n", "without a command there is a shell");
    machine.finish();
}

#[test]
fn variables_come_from_image_file_and_command_line_in_this_order() {
    let machine = machine();
    let script = "echo $IMG:$FROM_FILE:$BOTH:$MINE:${EMPTY-unset}";
    for (words, expected) in [
        (&[][..], "1::image:caller:unset\n"),
        (&["--env-file=/srv/env"], "1:f i l e:file:caller:\n"),
        (&["--env-file", "env", "-w/srv"], "1:f i l e:file:caller:\n"),
        (&["--env-file=/srv/env", "--env", "BOTH=line", "-eMINE="], "1:f i l e:line::\n"),
        (&["-E"], "1::image::unset\n"),
    ] {
        let words = machine.words(&[words, &["sh", "-c", script]].concat());
        let out = machine.as_user("alice").env("MINE", "caller").run(&words).unwrap();
        assert_eq!(out.success().unwrap(), expected);
    }
    for (file, expected) in [
        ("/srv/bad", "Invalid env-file entry: line 2 of /srv/bad is not NAME=VALUE"),
        ("/nowhere", "cannot open /nowhere"),
    ] {
        let said = machine.run("alice", &["--env-file", file, "true"]).failure(1).unwrap();
        assert!(said.contains(expected), "{said}");
    }
    machine.finish();
}

#[test]
fn a_dry_run_shows_plan_and_environment_with_the_users_own_rights() {
    let machine = machine();
    let words = ["--dry-run", "-V/home:/mnt:ro", "--env=MINE=1", "true"];
    let record = machine.sandbox.image_file(&machine.id, "meta");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&record, fs::Permissions::from_mode(0o600)).unwrap();
    let hidden = machine.run("alice", &words).success().unwrap();
    for file in [record, machine.sandbox.image_file(&machine.id, "squashfs")] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let shown = machine.run("alice", &words).success().unwrap();
    for out in [&hidden, &shown] {
        for line in
            ["volume     /home:/mnt:ro", "overlay    /etc over image:/etc (ro,nosuid,nodev)", "MINE=1"]
        {
            assert!(out.lines().any(|found| found == line), "{line}:\n{out}");
        }
    }
    assert!(!hidden.contains("IMG=1") && shown.contains("\nIMG=1\n"), "{hidden}\n{shown}");
    machine.finish();
}

#[test]
fn the_image_comes_from_the_documented_variables() {
    let machine = machine();
    let id = machine.id.as_str();
    let show = machine.program(&["sh", "-c", "echo $SHIFTER_IMAGE $SHIFTER_IMAGEREQUEST"]);
    let (pair, single) = (format!("{id} id:{id}\n"), format!("id:{id}"));
    for (variables, expected) in [
        (&[("SHIFTER_IMAGETYPE", "id"), ("SHIFTER_IMAGE", id)][..], pair.as_str()),
        (&[("SLURM_SPANK_SHIFTER_IMAGETYPE", "id"), ("SLURM_SPANK_SHIFTER_IMAGE", id)], &pair),
        (&[("SHIFTER_IMAGEREQUEST", &single)], &pair),
        (&[("SHIFTER", &single)], &pair),
        (&[("SHIFTER", "id:none"), ("SHIFTER_IMAGEREQUEST", &single)], &pair),
    ] {
        let user =
            variables.iter().fold(machine.as_user("alice"), |user, (name, value)| user.env(name, value));
        assert_eq!(user.run(&show).unwrap().success().unwrap(), expected, "{variables:?}");
    }
    let out = machine.as_user("alice").run(&show).unwrap();
    assert!(
        out.err().starts_with("shifter: No image specified, or specified incorrectly!"),
        "{}",
        out.describe()
    );
    let help = machine.as_user("alice").run(&machine.program(&["--help"])).unwrap();
    assert!(help.err().is_empty() && help.success().unwrap().contains("--volume"));
    let wrong = machine.as_user("alice").run(&machine.program(&["--colour"])).unwrap();
    let said = wrong.failure(1).unwrap();
    assert!(said.starts_with("shifter: there is no option --colour\nUsage:"), "{said}");
    machine.finish();
}
