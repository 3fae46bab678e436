//! The original's documented job scripts, commands and plugin arguments, retyped under `tests/documents/`, do what the
//! documents say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::documented_jobs::{CCM, at_home, image, site_with_ssh, site_with_ssh_told};
use common::mpi;
use common::slurm::{SlurmSite, script};
use shifter_tests::fixture::{file, program_entries};
use shifter_tests::harness::SlurmOptions;
use std::fs;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

const PLUGSTACK: &str = include_str!("../documents/plugstack.conf");
const MPI: &str = include_str!("../documents/job.mpi.sh");
const OUTSIDE: &str = include_str!("../documents/job.outside.sh");
const INSIDE: &str = include_str!("../documents/job.inside.sh");
const SALLOC: &str = include_str!("../documents/salloc.txt");
const SESSION: &str = include_str!("../documents/session.ssh.txt");
const OUTSIDE_SSH: &str = include_str!("../documents/batch.outside-ssh.sh");
const MPIRUN: &str = include_str!("../documents/batch.mpirun-ssh.sh");
const CCM_JOB: &str = include_str!("../documents/batch.ccm.sh");

const JOINED: &str = "joined     the container prepared for this job";

/// A cluster and the documents' image in it.
fn site(nodes: usize, cpus: u32, arguments: &str) -> (SlurmSite, String) {
    let options = SlurmOptions { nodes, cpus, ..SlurmOptions::default() };
    let site = SlurmSite::with(arguments, options, |_, _| {});
    let id = site.sandbox.install_image(&image(), "").unwrap();
    (site, id)
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
fn with_the_documented_prolog_flag_alone_all_nodes_are_prepared_before_the_first_step() {
    prepared_with(include_str!("../documents/slurm.conf.alloc"));
}

#[test]
fn with_both_documented_prolog_flags_all_nodes_are_prepared_before_the_first_step() {
    prepared_with(include_str!("../documents/slurm.conf.alloc-contain"));
}

fn prepared_with(flags: &str) {
    let flags = flags.trim().strip_prefix("PrologFlags=").unwrap();
    let more = vec![("PrologFlags", flags.to_owned())];
    let site = SlurmSite::with("", SlurmOptions { nodes: 2, more, ..SlurmOptions::default() }, |_, _| {});
    let id = site.sandbox.install_image(&image(), "").unwrap();
    let step = at_home(MPI, &id).replace("srun shifter ", "srun shifter -v ");
    let wait = "echo > up; while [ ! -e go ]; do sleep 0.1; done";
    let image = format!("--image=id:{id}");
    let script = format!("{wait}\n{}\n", step.lines().last().unwrap());
    let job = site.submit("alice", &["-N2", "-n4", "--exclusive", &image], &script);
    site.text_of("/home/alice/up");
    site.until("prepared", || [1, 2].iter().all(|node| site.containers(*node).contains(&job)));
    fs::write("/home/alice/go", "").unwrap();
    assert_eq!(site.end_of(&job), "COMPLETED", "{}", site.logs());
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    assert_eq!((out.matches("rank ").count(), out.matches(JOINED).count()), (4, 4), "{flags}: {out}");
    site.finish();
}

#[test]
fn the_documented_arguments_of_the_plugin_are_all_understood_and_do_what_they_say() {
    let memory = "/sys/fs/cgroup/memory";
    let has_memory = fs::exists(format!("{memory}/cgroup.procs")).unwrap();
    let keys = [&CCM[..], &[("module_custom_siteEnv", "CUSTOM=1")]].concat();
    let site = site_with_ssh(2, "", &keys);
    let id = site.sandbox.install_image(&image(), "").unwrap();
    let custom = site.sandbox.prefix().join("custom.conf");
    std::os::unix::fs::symlink("/etc/shifter/udiRoot.conf", &custom).unwrap();
    let setup = script(&site.sandbox, "setup.sh", "echo > /opt/shifter-test/udi/extern");
    let line = PLUGSTACK.trim().split_once(' ').unwrap().1.split_once(' ').unwrap().1;
    let line = line
        .replace("/path/to/custom/udiRoot.conf", &custom.display().to_string())
        .replace("/path/to/script", &setup)
        .replace(if has_memory { "" } else { "memory_cgroup=/sys/fs/cgroup/memory " }, "");
    site.rearrange(&line);
    let image = format!("--image=id:{id}");
    let script =
        "srun -N1 -n1 shifter -v sh -c 'ls /extern; echo custom $CUSTOM; ssh node2 yourExecutable' 2>&1\n";
    let out = site.batch_well("alice", &["-N2", "--exclusive", &image, "--module=custom"], script);
    assert!(out.contains("joined ") && out.ends_with("/extern\ncustom 1\nmine on node2\n"), "{out}");
    // A program of the nodes' own system.
    let make = "printf '#!/bin/sh\\necho mine on $(uname -n)\\n' > program; chmod 755 program";
    site.run("alice", &["sh", "-c", make]).success().unwrap();
    let job = at_home(CCM_JOB, &id).replace("yourExecutable", "/home/alice/program");
    let out = site.batch_well("alice", &["--exclusive"], &job);
    assert_eq!(out, "mine on node1\nmine on node2\n", "{}", site.logs());
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert!(!site.cluster.log(1).contains("plugstack.conf:"), "{}", site.cluster.log(1));
    if has_memory {
        let _others_may_use_it = fs::remove_dir(format!("{memory}/shifter"));
    }
    site.finish();
}

#[test]
fn the_documented_loop_over_scontrols_names_runs_by_the_nodes_own_sshd() {
    let (site, id) = site(2, 2, "");
    let ssh = "mkdir -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519; \
        cp .ssh/id_ed25519.pub .ssh/authorized_keys; \
        printf 'StrictHostKeyChecking no\\nLogLevel ERROR\\n' > .ssh/config";
    site.run("alice", &["sh", "-ec", ssh]).success().unwrap();
    for node in [1, 2] {
        let start = "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key; \
            /usr/sbin/sshd -f /dev/null -h /run/sshd/key -o PidFile=/run/sshd/pid; \
            until [ -s /run/sshd/pid ]; do sleep 0.05; done";
        site.on_node(node, start);
    }
    let out = site.batch_well("alice", &["--exclusive"], &at_home(OUTSIDE_SSH, &id));
    assert_eq!(out, "mine on node1\nmine on node2\n", "{}", site.logs());
    for node in [1, 2] {
        site.on_node(node, "kill $(cat /run/sshd/pid)");
    }
    site.finish();
}

#[test]
fn the_documented_mpirun_in_the_image_reaches_the_nodes_of_the_nodes_list_by_ssh() {
    let mut entries =
        program_entries("usr/bin", &["mpiexec.hydra", "hydra_pmi_proxy", "mpichversion"]).unwrap();
    entries.extend(program_entries("bin", &["bash"]).unwrap());
    // As MPICH's own is called where no other MPI is beside it.
    entries.push(file("usr/bin/mpirun", "#!/bin/sh\nexec mpiexec.hydra \"$@\"\n").mode(0o755));
    let entries = mpi::image(entries);
    let site = site_with_ssh(2, "enable_sshd=1", &[]);
    let id = site.sandbox.install_image(&entries, "").unwrap();
    fs::write("/home/alice/sum.c", mpi::PROGRAM).unwrap();
    site.run("alice", &["mpicc.mpich", "-o", "sum", "sum.c"]).success().unwrap();
    let script = at_home(MPIRUN, &id).replace("mpiExecutable", "/home/alice/sum");
    let out = site.batch_well("alice", &["-N2", "-n4", "--exclusive"], &script);
    mpi::assert_ranks(&out, 4, "node", &site.logs());
    site.finish();
}

#[test]
fn from_the_documented_interactive_shell_ssh_reaches_the_other_node() {
    let more = vec![("LaunchParameters", "use_interactive_step".to_owned())];
    let site = site_with_ssh_told(2, "enable_sshd=1", &[], more);
    let id = site.sandbox.install_image(&image(), "").unwrap();
    let session = at_home(SESSION, &id);
    let (salloc, typed) = session.split_once('\n').unwrap();
    // On a terminal of its own; the shell is Slurm's on the job's first node.
    let words = ["script", "-qfec", salloc, "/dev/null"];
    let mut running = site.as_user("alice").env("SHELL", "/bin/bash").spawn(&words).unwrap();
    let (mut keyboard, mut screen) = (running.stdin.take().unwrap(), running.stdout.take().unwrap());
    let mut said = String::new();
    for line in typed.lines() {
        writeln!(keyboard, "{line}").unwrap();
        // ssh takes what is typed while it runs.
        let begun = Instant::now();
        while line.starts_with("ssh ") && !said.contains("mine on node2") {
            let mut some = [0; 4096];
            let length = screen.read(&mut some).unwrap();
            said.push_str(&String::from_utf8_lossy(&some[..length]));
            assert!(length > 0 && begun.elapsed() < Duration::from_secs(60), "{said}\n{}", site.logs());
        }
    }
    screen.read_to_string(&mut said).unwrap();
    assert!(running.wait().unwrap().success(), "{said}\n{}", site.logs());
    site.finish();
}
