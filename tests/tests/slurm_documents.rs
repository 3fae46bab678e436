//! The original's documented job scripts, commands and plugin arguments, retyped under `tests/documents/`, do what the
//! documents say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::shell_image;
use common::slurm::{SlurmSite, script};
use shifter_tests::fixture::{Entry, file, program_entries};
use shifter_tests::harness::SlurmOptions;
use std::fs;

const PLUGSTACK: &str = include_str!("../documents/plugstack.conf");
const MPI: &str = include_str!("../documents/job.mpi.sh");
const OUTSIDE: &str = include_str!("../documents/job.outside.sh");
const INSIDE: &str = include_str!("../documents/job.inside.sh");
const SALLOC: &str = include_str!("../documents/salloc.txt");

/// The documents' image: their programs, as far as a shell can stand for them, in its PATH.
fn image() -> Vec<Entry> {
    let program =
        |name: &str, text: &str| file(format!("bin/{name}"), format!("#!/bin/sh\n{text}")).mode(0o755);
    let mut entries = shell_image();
    entries.extend([
        program("hello", "echo hello from $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME\n"),
        program("mpiExecutable.sh", "echo rank $SLURM_PROCID of $SLURM_NTASKS\n"),
        program(
            "threadedExecutable",
            "cat $1/baseData > $2/result; echo $OMP_NUM_THREADS threads >> $2/result\n",
        ),
        program("python", "[ -e $2/result ] && echo $1 of $2 > $2/processed\n"),
    ]);
    // The scripts' own shell.
    for entry in program_entries("bin", &["bash"]).unwrap() {
        entries.retain(|known| known.name != entry.name);
        entries.push(entry);
    }
    entries
}

/// A cluster and the documents' image in it.
fn site(nodes: usize, cpus: u32, arguments: &str) -> (SlurmSite, String) {
    let options = SlurmOptions { nodes, cpus, ..SlurmOptions::default() };
    let site = SlurmSite::with(arguments, options, |_, _| {});
    let id = site.sandbox.install_image(&image(), "").unwrap();
    (site, id)
}

/// A document moved into the test's cluster.
fn at_home(text: &str, id: &str) -> String {
    let replaced = [
        ("docker:yourRepo/yourImage:latest", format!("id:{id}")),
        ("dmjacobsen/mpitest:latest", format!("id:{id}")),
        ("/scratch/sd/you", "/home/alice".to_owned()),
        ("/usr/bin/shifter", "/opt/shifter-test/bin/shifter".to_owned()),
    ];
    replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn experiment(site: &SlurmSite) {
    let make = "mkdir -p exp1/data exp1/results; echo base > baseData; cp baseData exp1/data";
    site.run("alice", &["sh", "-c", make]).success().unwrap();
}

#[test]
fn the_documented_mpi_script_runs_its_tasks_in_the_container() {
    let (site, id) = site(2, 2, "");
    let out = site.batch_well("alice", &["-N2", "-n4", "--exclusive"], &at_home(MPI, &id));
    let mut ranks: Vec<&str> = out.lines().collect();
    ranks.sort_unstable();
    assert_eq!(ranks, ["rank 0 of 4", "rank 1 of 4", "rank 2 of 4", "rank 3 of 4"]);
    site.finish();
}

#[test]
fn the_documented_script_outside_the_container_reads_and_writes_its_volumes() {
    let (site, id) = site(1, 64, "");
    experiment(&site);
    fs::remove_file("/home/alice/exp1/data/baseData").unwrap();
    site.batch_well("alice", &[], &at_home(OUTSIDE, &id));
    assert_eq!(fs::read_to_string("/home/alice/exp1/results/result").unwrap(), "base\n32 threads\n");
    site.finish();
}

#[test]
fn the_documented_script_inside_the_container_runs_from_slurms_spool() {
    let (site, id) = site(1, 64, "");
    for options in [&[][..], &["--exclusive"]] {
        experiment(&site);
        assert_eq!(site.batch_well("alice", options, &at_home(INSIDE, &id)), "");
        let results = "/home/alice/exp1/results";
        assert_eq!(fs::read_to_string(format!("{results}/result")).unwrap(), "base\n32 threads\n");
        let processed = fs::read_to_string(format!("{results}/processed")).unwrap();
        assert_eq!(processed, "myComplexPostProcessingScript.py of /output\n");
        fs::remove_dir_all("/home/alice/exp1").unwrap();
    }
    // Without a shell of its own in the first line.
    let plain = at_home(INSIDE, &id).replace("shifter /bin/bash", "shifter");
    experiment(&site);
    site.batch_well("alice", &[], &plain);
    assert!(fs::exists("/home/alice/exp1/results/processed").unwrap());
    site.finish();
}

#[test]
fn the_documented_interactive_session_says_hello_from_every_task() {
    let (site, id) = site(4, 32, "");
    let session = at_home(SALLOC, &id);
    let (salloc, typed) = session.split_once('\n').unwrap();
    let salloc: Vec<&str> = salloc.split(' ').collect();
    // What the user types into the shell that salloc starts.
    let command = [&salloc[..], &["sh"]].concat();
    let out = site.as_user("alice").stdin(typed).run(&command).unwrap();
    let said = out.success().unwrap();
    assert_eq!(said.matches(" of 4 on node").count(), 4, "{said}");
    assert_eq!(said.matches(" of 128 on node").count(), 128, "{said}");
    for rank in 0..128 {
        assert_eq!(said.matches(&format!("hello from {rank} of 128 on node")).count(), 1, "{rank}: {said}");
    }
    site.finish();
}

#[test]
fn the_documented_arguments_of_the_plugin_are_all_understood() {
    let memory = "/sys/fs/cgroup/memory";
    let has_memory = fs::exists(format!("{memory}/cgroup.procs")).unwrap();
    let (site, id) = site(1, 2, "");
    let custom = site.sandbox.prefix().join("custom.conf");
    site.sandbox.write_udiroot(&[("module_custom_siteEnv", "CUSTOM=1")]).unwrap();
    std::os::unix::fs::symlink("/etc/shifter/udiRoot.conf", &custom).unwrap();
    let setup = script(&site.sandbox, "setup.sh", "echo > /opt/shifter-test/udi/extern");
    let line = PLUGSTACK.trim().split_once(' ').unwrap().1.split_once(' ').unwrap().1;
    let line = line
        .replace("/path/to/custom/udiRoot.conf", &custom.display().to_string())
        .replace("/path/to/script", &setup)
        .replace(if has_memory { "" } else { "memory_cgroup=/sys/fs/cgroup/memory " }, "");
    // Where sshd is not installed below optUdiImage it cannot be started.
    site.rearrange(&line.replace("enable_ccm=1 enable_sshd=1", ""));
    let image = format!("--image=id:{id}");
    let script = "srun shifter -v sh -c 'ls /extern; echo custom $CUSTOM' 2>&1\n";
    let out = site.batch_well("alice", &["--exclusive", &image, "--module=custom"], script);
    assert!(out.contains("joined ") && out.ends_with("/extern\ncustom 1\n"), "{out}");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert!(!site.cluster.log(1).contains("plugstack.conf:"), "{}", site.cluster.log(1));
    if has_memory {
        let _others_may_use_it = fs::remove_dir(format!("{memory}/shifter"));
    }
    site.finish();
}
