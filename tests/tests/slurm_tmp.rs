//! Directories that a site makes anew for each job, or task: a container sees its task's, never another's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::{SlurmSite, private_tmp};
use std::fs;

const JOINED: &str = "joined     the container prepared for this job";

#[test]
fn a_task_with_a_tmp_and_a_shared_memory_of_its_own_sees_them_and_not_the_nodes() {
    // From Linux 6.18 on the kernel may refuse to pin a new namespace, Slurm's own here (docs/decisions.md). Each attempt
    // has a thread, and so a machine, of its own.
    let happens = || std::thread::spawn(a_job_with_a_tmp_of_its_own_runs).join().unwrap();
    assert!((0..5).any(|_| happens()), "the kernel refused Slurm's namespaces each time");
}

/// False where the kernel refused Slurm its namespace.
fn a_job_with_a_tmp_of_its_own_runs() -> bool {
    let site = SlurmSite::with("", private_tmp(), |_, _| {
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

#[test]
fn a_task_in_a_mount_namespace_of_its_own_sees_its_directories_and_the_job_beside_it_the_nodes() {
    const PLACES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
    let site = SlurmSite::new(1, "");
    let each = PLACES.join(" ");
    site.on_node(1, &format!("for p in {each}; do echo node > $p/whose; done"));
    let read = PLACES.map(|place| format!("{place}/whose")).join(" ");
    let script =
        format!("echo > up; while [ ! -e go ]; do sleep 0.05; done; srun shifter -v cat {read} 2>&1\n");
    let job = site.submit("alice", &["--exclusive", &site.image()], &script);
    site.text_of("/home/alice/up");
    // As modules of PAM and plugins of other sites do it: for one task, and for these places.
    for own in [&[][..], &["/tmp"], &["/var/tmp"], &["/dev/shm"], &PLACES] {
        let mount = format!(
            "for p in {}; do mount -t tmpfs -o mode=1777 own $p; echo own > $p/whose; done",
            own.join(" ")
        );
        let show = format!("cat {read}; for p in {each}; do echo inside > $p/new; done");
        let become_alice = "setpriv --reuid=4201 --regid=4201 --groups=4201,4301,4302";
        let start = format!(
            "export SLURM_JOB_ID={job}; {become_alice} /opt/shifter-test/bin/shifter -v {} sh -c '{show}' 2>&1",
            site.image()
        );
        let look = format!("{mount}\n{start}\nfor p in {each}; do cat $p/new; rm $p/new; done");
        // The kernel leaves a pinned namespace out of a copy: there it is a container of the task's own.
        let unshare = ["unshare", "--mount", "--propagation", "private"];
        let words = [if own.is_empty() { &[][..] } else { &unshare }, &["bash", "-ec", &look]].concat();
        let out = site.cluster.on_node(&site.sandbox, 1, &words).unwrap().success().unwrap();
        let expected: String =
            PLACES.map(|place| if own.contains(&place) { "own\n" } else { "node\n" }).concat();
        assert!(out.ends_with(&format!("{expected}inside\ninside\ninside\n")), "{own:?}: {out}");
        assert_eq!(out.contains(JOINED), own.is_empty(), "{own:?}: {out}");
    }
    fs::write("/home/alice/go", "").unwrap();
    assert_eq!(site.end_of(&job), "COMPLETED");
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    assert!(out.contains(JOINED) && out.ends_with("node\nnode\nnode\n"), "{out}");
    site.on_node(1, &format!("for p in {each}; do rm $p/whose; done"));
    site.finish();
}
