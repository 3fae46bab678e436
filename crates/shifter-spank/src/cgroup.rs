//! A cgroup for what a job's prolog starts: `memory_cgroup/shifter/uid_UID/job_JOB`, by version 1 and 2 alike.
//!
//! Whatever is in it at the job's end is killed. Processes are signalled through pidfds, after another look at who is
//! in the group: a number may have become somebody else's.

use crate::Job;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The group of a job.
pub fn of_job(base: &str, job: &Job) -> PathBuf {
    Path::new(base).join(format!("shifter/uid_{}/job_{}", job.uid, job.id))
}

/// Makes the job's group and moves this process, and so all it starts from now on, into it.
pub fn enter(base: &str, job: &Job) -> Result<(), String> {
    let group = of_job(base, job);
    if !Path::new(base).join("cgroup.procs").exists() {
        return Err(format!("{base} is no control group; memory_cgroup= names one"));
    }
    let unified = Path::new(base).join("cgroup.subtree_control").exists();
    let mut place = PathBuf::from(base);
    let below = group.strip_prefix(base).unwrap_or(Path::new(""));
    for part in below.components() {
        if unified {
            // Without the controller the group still holds its processes together.
            let _not_delegated = fs::write(place.join("cgroup.subtree_control"), "+memory");
        }
        place.push(part);
        match fs::create_dir(&place) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(format!("cannot create {}: {error}", place.display()));
            }
            _ => {}
        }
    }
    // 0 is the writer itself, cgroups(7).
    fs::write(group.join("cgroup.procs"), "0")
        .map_err(|error| format!("cannot enter {}: {error}", group.display()))
}

/// The processes of the job's group.
pub fn processes(base: &str, job: &Job) -> Vec<i32> {
    let text = fs::read_to_string(of_job(base, job).join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect()
}

/// Kills what is in the job's group and removes it; nothing there is no error.
pub fn end(base: &str, job: &Job) -> Result<(), String> {
    let group = of_job(base, job);
    let started = Instant::now();
    loop {
        match fs::remove_dir(&group) {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(format!("cannot remove {}: {error}", group.display()));
            }
            Err(_) => {}
        }
        // All at once where the kernel can, Linux 5.14; else one after the other until none is left.
        if fs::write(group.join("cgroup.kill"), "1").is_err() {
            processes(base, job).into_iter().for_each(|pid| kill(base, job, pid));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The user's group stays while another job is in it.
    let _not_empty = group.parent().map(fs::remove_dir);
    Ok(())
}

fn kill(base: &str, job: &Job, pid: i32) {
    let Some(fd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if processes(base, job).contains(&pid) {
        let _gone = pidfd_send_signal(&fd, Signal::KILL);
    }
}
