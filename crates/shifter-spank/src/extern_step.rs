//! The step that Slurm starts on each node before a job's own: the site's last word on the prepared container, and
//! the cgroup that what runs beside the job's steps belongs in.
//!
//! Slurm shows this step none of the job's options, so it goes by what the prolog has noted. Its failures are noted for
//! the job's tasks and fail nothing else.
//!
//! The site's program changes what stands at udiMount, and only the first job of a node has its container there. For
//! others it is not run: it would change that job's.

use crate::arguments::Arguments;
use crate::node::{Node, Note};
use crate::program::{self, last_words};
use crate::site::must_be_roots;
use crate::{EXTERN_STEP, Job, Level, Spank, cgroup};
use rustix::io::Errno;
use shifter_core::mountinfo::mounts;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time for the site's program.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often what came meanwhile is looked for.
const MOST_LOOKS: usize = 10;

/// What Slurm calls the groups of its extern step.
const EXTERN_GROUP: &str = "step_extern";

/// Whether tasks have to wait for this step.
pub fn is_wanted(arguments: &Arguments) -> bool {
    arguments.extern_cgroup || arguments.extern_setup.is_some()
}

/// Does the site's part, where this is that step and the prolog has prepared something.
pub fn extern_step(spank: &mut dyn Spank, arguments: &Arguments, node: &Node) {
    let Some(job) = spank.job().filter(|job| job.step == EXTERN_STEP) else { return };
    if !is_wanted(arguments) || node.read(job.id, Note::Prepared).is_none() {
        return;
    }
    if arguments.extern_cgroup
        && let Err(reason) = join_cgroups(arguments, node, &job)
    {
        spank.say(Level::Error, &format!("shifter: job {}: {reason}", job.id));
    }
    let done = match arguments.extern_setup.as_deref() {
        Some(program) if node.at_udi_mount() == Some(job.id) => run_setup(program, &job),
        Some(_) => {
            let what = "extern_setup is not run: the container at udiMount is another job's";
            spank.say(Level::Error, &format!("shifter: job {}: {what}", job.id));
            Ok(())
        }
        None => Ok(()),
    };
    let noted = match done {
        Ok(()) => node.write(job.id, Note::Extern, ""),
        Err(reason) => {
            spank.say(Level::Error, &format!("shifter: job {}: {reason}", job.id));
            node.write(job.id, Note::Failed, &reason)
        }
    };
    if let Err(fault) = noted {
        spank.say(Level::Error, &format!("shifter: {fault}"));
    }
}

/// Tells the program whose container it changes by variables, as Slurm's own prologs are told.
fn run_setup(program: &str, job: &Job) -> Result<(), String> {
    must_be_roots(Path::new(program))?;
    let (id, uid, gid) = (job.id.to_string(), job.uid.to_string(), job.gid.to_string());
    let of_job = [("SLURM_JOB_ID", &*id), ("SLURM_JOB_UID", &*uid), ("SLURM_JOB_GID", &*gid)];
    let ended = program::run(&[program], &of_job, PATIENCE)?;
    match ended.code {
        Some(0) => Ok(()),
        _ => Err(format!("the site's extern_setup failed: {}", last_words(&ended.err))),
    }
}

/// Moves what the prolog has started into the cgroups of this step, which end with the job.
fn join_cgroups(arguments: &Arguments, node: &Node, job: &Job) -> Result<(), String> {
    let (sshd, keeper) = node.sshd(job.id).unzip();
    let in_memory_cgroup = || {
        let base = arguments.memory_cgroup.as_deref();
        base.map(|base| cgroup::processes(base, job)).unwrap_or_default()
    };
    // The keeper has to outlive the job's processes, to end what is left of them.
    let mut moved = BTreeSet::from_iter(keeper);
    let mut pids: Vec<i32> = sshd.into_iter().chain(in_memory_cgroup()).collect();
    pids.retain(|pid| moved.insert(*pid));
    if pids.is_empty() {
        return Ok(());
    }
    let mounts = fs::read("/proc/self/mountinfo")
        .map_err(|error| format!("cannot see where cgroups are mounted: {error}"))?;
    let groups = groups_of_step(&mounts, job).ok_or(
        "Slurm has no cgroup for its extern step here, and extern_cgroup needs one (ProctrackType=proctrack/cgroup)",
    )?;
    // What they start meanwhile is where they were: looked for again, until there is nothing new, or too often.
    let mut result = Ok(());
    for _ in 0..MOST_LOOKS {
        for pid in &pids {
            result = groups.iter().map(|group| move_into(group, *pid)).fold(result, Result::and);
        }
        pids = in_memory_cgroup();
        pids.retain(|pid| moved.insert(*pid));
        if pids.is_empty() {
            break;
        }
    }
    result
}

/// A process that is gone is no fault: a user's come and go.
fn move_into(group: &Path, pid: i32) -> Result<(), String> {
    let list = fs::OpenOptions::new().write(true).open(group.join("cgroup.procs"));
    match list.and_then(|mut list| list.write_all(pid.to_string().as_bytes())) {
        Err(error) if error.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => {
            Err(format!("cannot move {pid} into {}: {error}", group.display()))
        }
        _ => Ok(()),
    }
}

/// The directories of this step's cgroups: those of the process that Slurm keeps in it, which it does before 26.05,
/// or those that follow from where Slurm has put this very process.
fn groups_of_step(mounts: &[u8], job: &Job) -> Option<Vec<PathBuf>> {
    let child = own_child().map(|pid| pid.to_string());
    let memberships = child
        .into_iter()
        .chain(["self".to_owned()])
        .filter_map(|process| fs::read_to_string(format!("/proc/{process}/cgroup")).ok());
    memberships.map(|text| groups_of_job(&text, mounts, job)).find(|groups| !groups.is_empty())
}

/// The one process that Slurm keeps in the extern step; `spank_get_item(3)` knows of no task there. Whatever else this
/// has started is no harm: it is in the same cgroups, or in none of the job's.
fn own_child() -> Option<i32> {
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.filter_map(|pids| pids.split_whitespace().next()?.parse().ok()).next()
}

/// The directories of the cgroups of a job's extern step, by the cgroups of a process of it: no others are ours to fill.
fn groups_of_job(memberships: &str, mounts: &[u8], job: &Job) -> Vec<PathBuf> {
    let lines = memberships.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some((controllers, group_of_step(controllers, path, job)?))
    });
    lines
        .filter_map(|(controllers, path)| {
            Some(mount_of(mounts, controllers)?.join(path.trim_start_matches('/')))
        })
        .collect()
}

/// The group of a job's extern step, as Slurm names groups, of which this one belongs to one of its processes.
/// Version 1: `…/uid_U/job_N/step_extern` and below, where slurmstepd itself is in the job's for the freezer.
/// Version 2: the leaves of `…/job_N/step_extern`, `user/task_special` or slurmstepd's `slurm`; others can have no
/// processes. What Slurm did not make itself it would neither end nor remove.
fn group_of_step(controllers: &str, path: &str, job: &Job) -> Option<String> {
    let of_job = if controllers.is_empty() {
        format!("/job_{}/", job.id)
    } else {
        format!("/uid_{}/job_{}/", job.uid, job.id)
    };
    let slashed = format!("{path}/");
    // The last one: slurmd may run in a job of another Slurm.
    let (_, below) = slashed.rsplit_once(&of_job)?;
    match below {
        "" if !controllers.is_empty() => Some(slashed + EXTERN_GROUP),
        _ => below.starts_with(&format!("{EXTERN_GROUP}/")).then(|| path.to_owned()),
    }
}

/// Where the hierarchy with these controllers is mounted; none of them: the unified one.
fn mount_of(table: &[u8], controllers: &str) -> Option<PathBuf> {
    let wanted = controllers.trim_start_matches("name=");
    mounts(table).find_map(|mount| {
        let options = String::from_utf8_lossy(mount.options);
        let fits = match (mount.kind, controllers) {
            (b"cgroup2", "") => true,
            (b"cgroup", some) if !some.is_empty() => wanted
                .split(',')
                .all(|name| options.split(',').any(|option| option.trim_start_matches("name=") == name)),
            _ => false,
        };
        fits.then(|| PathBuf::from(OsString::from_vec(mount.point)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_of_the_job_are_found_and_no_others() {
        // Users name the places of their own mounts.
        let mounts = b"29 1 0:25 / /home/a\xff rw - fuse.x x rw\n\
                      30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 1 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 1 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      33 1 0:29 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw\n";
        let job = Job { id: 7, uid: 1, gid: 1, step: EXTERN_STEP };
        let check = |memberships: &str, expected: &[&str]| {
            let found = groups_of_job(memberships, mounts, &job);
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{memberships}");
        };
        // The process that Slurm keeps there.
        check(
            "4:memory:/slurm_n1/uid_1/job_7/step_extern/task_0\n5:cpu,cpuacct:/user.slice\n1:name=systemd:/a/uid_1/job_7/step_extern\n",
            &[
                "/sys/fs/cgroup/memory/slurm_n1/uid_1/job_7/step_extern/task_0",
                "/sys/fs/cgroup/systemd/a/uid_1/job_7/step_extern",
            ],
        );
        let v2 = "/system.slice/n1_slurmstepd.scope/job_7/step_extern";
        let unified = format!("/sys/fs/cgroup/unified{v2}");
        check(&format!("0::{v2}/user/task_special\n"), &[&format!("{unified}/user/task_special")]);
        // Slurm's daemon.
        check(
            "4:memory:/slurm_n1/uid_1/job_7\n0::/\n",
            &["/sys/fs/cgroup/memory/slurm_n1/uid_1/job_7/step_extern"],
        );
        check(&format!("0::{v2}/slurm\n"), &[&format!("{unified}/slurm")]);
        // Another job's, user's or step's, and a job's in which slurmd itself is.
        for others in [
            "0::/job_70\n0::/job_7/step_0/user/task_0\n0::/job_7\n9:pids:/uid_1/job_7\nnonsense\n",
            "4:memory:/slurm/uid_2/job_7/step_extern\n4:memory:/slurm/job_7\n4:memory:/uid_1/job_7/step_externally\n",
            "4:memory:/uid_1/job_7/step_extern/slurm_n1/uid_1/job_7/step_batch\n0::/job_7/step_extern/x/job_7/step_0\n",
            "4:memory:/uid_1/job_7/step_0\n4:memory:/uid_1/job_17/step_extern\n0::/xjob_7/step_extern/slurm\n",
        ] {
            check(others, &[]);
        }
    }
}
