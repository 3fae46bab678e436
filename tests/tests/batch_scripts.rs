//! Batch scripts whose first line names shifter: the whole script runs in the container, wherever it lies outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::jobs::{ALICE, setup, unsetup};
use common::{Machine, shell_image};
use shifter_tests::fixture::program_entries;
use shifter_tests::harness::Outcome;
use std::fs;

/// A machine with bash in its image, on which a batch system has a spool that no container shows.
fn machine() -> Machine {
    let mut entries = shell_image();
    for entry in program_entries("bin", &["bash"]).unwrap() {
        if !entries.iter().any(|known| known.name == entry.name) {
            entries.push(entry);
        }
    }
    let machine = Machine::new(&entries, "ENV: IN_IMAGE=yes\n");
    let spool = machine.sandbox.prefix().join("spool/job00042").display().to_string();
    machine.host(&format!("mkdir -p {spool}; chown alice: {spool}; chmod 0700 {spool}"));
    machine
}

/// Puts a script where Slurm does, with the modes it gives, and starts it as Slurm does.
fn run(machine: &Machine, text: &str, words: &[&str]) -> Outcome {
    let prefix = machine.sandbox.prefix().display().to_string();
    let script = format!("{prefix}/spool/job00042/slurm_script");
    fs::write(&script, text.replace("/usr/bin/shifter", &format!("{prefix}/bin/shifter"))).unwrap();
    machine.host(&format!("chown alice: {script}; chmod 0500 {script}"));
    let command = machine.as_user("alice").env("SHIFTER_IMAGETYPE", "id").env("SHIFTER_IMAGE", &machine.id);
    let out =
        command.directory("/home/alice").stdin("input\n").run(&[&[script.as_str()], words].concat()).unwrap();
    fs::remove_file(&script).unwrap();
    out
}

const BODY: &str = "#SBATCH --image=ignored\nread line\necho \"$line $IN_IMAGE $# $2\"; pwd; id -u\n\
                    test -e /opt/shifter-test && echo outside\n: > made; echo end >&2; exit 5\n";

#[test]
fn a_script_in_the_spool_runs_whole_in_the_container_under_every_first_line() {
    let machine = machine();
    for prepared in [false, true] {
        if prepared {
            setup(&machine, &ALICE, &[]).success().unwrap();
        }
        for first in [
            "#!/usr/bin/shifter",
            "#!/usr/bin/shifter /bin/bash",
            "#! /usr/bin/shifter /bin/sh -e ",
            "#!/usr/bin/shifter --env=A=b  bash",
            "#!/usr/bin/shifter --clearenv",
            "#!/usr/bin/shifter -v",
        ] {
            let first = match first.contains("clearenv") {
                true => format!("{first} --image=id:{}", machine.id),
                false => first.to_owned(),
            };
            let out = run(&machine, &format!("{first}\n{BODY}"), &["one", "two words"]);
            assert_eq!(
                out.out(),
                "input yes 2 two words\n/home/alice\n4201\n",
                "{first}: {}",
                out.describe()
            );
            assert_eq!(out.err().contains("joined     "), prepared && first.ends_with("-v"), "{first}");
            assert!(out.failure(5).unwrap().ends_with("end\n"), "{first}");
            fs::remove_file("/home/alice/made").unwrap();
        }
    }
    unsetup(&machine, &[]);
    machine.finish();
}

#[test]
fn a_script_that_the_container_shows_keeps_its_name_and_others_cannot_take_its_place() {
    let machine = machine();
    let shifter = machine.sandbox.program("shifter").unwrap().display().to_string();
    let start = |words: &[&str]| {
        let command =
            machine.as_user("alice").env("SHIFTER_IMAGETYPE", "id").env("SHIFTER_IMAGE", &machine.id);
        command.directory("/home/alice").run(words).unwrap()
    };
    let show = "echo $0; ls -l /proc/self/fd | grep -c -e slurm_script -e visible\n";
    let place = |path: &str, first: &str| {
        fs::write(path, format!("#!{shifter}{first}\n{show}")).unwrap();
        machine.host(&format!("chown alice: {path}; chmod 0700 {path}"));
    };
    place("/home/alice/visible", " /bin/bash");
    assert_eq!(start(&["/home/alice/visible"]).out(), "/home/alice/visible\n0\n");
    assert_eq!(start(&["./visible"]).out(), "./visible\n0\n");
    // Not there in the container: it is found by descriptor.
    let prefix = machine.sandbox.prefix().display().to_string();
    let hidden = format!("{prefix}/spool/job00042/slurm_script");
    place(&hidden, "");
    let out = start(&[&hidden]).out();
    assert!(out.starts_with("/proc/self/fd/") && out.ends_with("\n1\n"), "{out}");
    // Named by hand it is a path of the container like any other.
    let said = start(&[&shifter, "sh", &hidden]);
    assert!(said.err().contains("can't open") || said.err().contains("No such file"), "{}", said.describe());
    // What the user cannot read is not read for them.
    machine.host(&format!("chown root: {hidden}; chmod 0711 {hidden}"));
    let said = start(&[&hidden]);
    assert!(!said.status.success() && said.out().is_empty(), "{}", said.describe());
    machine.finish();
}
