//! The child that runs a site's examiner: starts it, listens to it, and ends it with all that it started when it is
//! over, too slow, or wanted by nobody any more.
//!
//! The examiner is the site's own program, so it keeps the network; of files it reaches what `Reach` says, where the
//! kernel has Landlock. Whatever its children do to get out of sight (other groups, other sessions, orphans), they are
//! found: this process adopts them.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::said::LastWords;
use crate::confine::{self, Reach};
use crate::convert::{PATH, read_job};

/// How long the killed may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExamineJob {
    pub(super) program: PathBuf,
    pub(super) tree: PathBuf,
    pub(super) id: String,
    /// For its temporary files; also its home and working directory.
    pub(super) scratch: PathBuf,
    pub(super) seconds: u64,
    /// The largest file that it may write.
    pub(super) bytes: u64,
    pub(super) reach: Reach,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// It ended by itself.
    Ended {
        passed: bool,
        status: String,
        said: String,
    },
    TooLong,
    /// It could not be run.
    Failed(String),
}

/// The child: reads the job, runs the examiner, answers. Returns the exit status.
pub(crate) fn child() -> u8 {
    let verdict = read_job().and_then(|job| supervise(&job)).unwrap_or_else(Verdict::Failed);
    match serde_json::to_string(&verdict) {
        Ok(line) => {
            println!("{line}");
            0
        }
        Err(_) => 1,
    }
}

fn supervise(job: &ExamineJob) -> Result<Verdict, String> {
    confine::behave()?;
    let limited = confine::lower(Resource::Fsize, job.bytes);
    limited.map_err(|error| format!("limiting the size of its files failed: {error}"))?;
    let us = rustix::process::getpid();
    let adopting = rustix::process::set_child_subreaper(Some(us));
    adopting.map_err(|error| format!("becoming the parent of its orphans failed: {error}"))?;
    confine::fence(&job.reach)?;
    let mut child = start(job).map_err(|error| format!("{}: {error}", job.program.display()))?;
    let words = LastWords::listen(child.stderr.take());
    let over = wait(child, Duration::from_secs(job.seconds));
    end_all(us);
    Ok(match over {
        Some(status) => {
            Verdict::Ended { passed: status.success(), status: status.to_string(), said: words.text(DYING) }
        }
        None => Verdict::TooLong,
    })
}

fn start(job: &ExamineJob) -> io::Result<Child> {
    let mut command = Command::new(&job.program);
    command.arg(&job.tree).arg(&job.id).env_clear().env("PATH", PATH).env("LC_ALL", "C");
    command.env("HOME", &job.scratch).env("TMPDIR", &job.scratch).current_dir(&job.scratch);
    // Its output is for the gateway's log; its complaints are for the user, too.
    command.stdin(Stdio::null()).stdout(io::stderr()).stderr(Stdio::piped());
    command.spawn()
}

/// Waits for its end; nothing if that takes too long, or the gateway has gone.
fn wait(mut child: Child, limit: Duration) -> Option<ExitStatus> {
    let (ended, over) = channel();
    let abandoned = ended.clone();
    std::thread::spawn(move || {
        let _nobody_waits = ended.send(child.wait().ok());
    });
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _nobody_waits = abandoned.send(None);
    });
    over.recv_timeout(limit).unwrap_or_default()
}

/// Kills all descendants until there are none. The killed leave children of their own to us, so it takes some rounds.
fn end_all(us: Pid) {
    let begun = Instant::now();
    while begun.elapsed() < DYING {
        let alive = descendants(us);
        if alive.is_empty() {
            return;
        }
        for pid in alive {
            // Gone by itself, or killed and not yet gone: the next round tells.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!("shifter-imagegw: some of an examiner's processes could not be killed");
}

/// Living processes below this one.
fn descendants(us: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = living_parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![us.as_raw_nonzero().get()];
    while let Some(parent) = next.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            found.extend(Pid::from_raw(pid));
            next.push(pid);
        }
    }
    found
}

/// The parent in a line of `/proc/PID/stat` (proc_pid_stat(5)), unless the process is dead already. The name stands in
/// parentheses and may hold some itself.
fn living_parent(stat: &str) -> Option<i32> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_process_may_call_itself_anything() {
        for (stat, parent) in [
            ("12 (sh) S 7 12 12 0", Some(7)),
            ("12 (a) S 1 (b) R 7 12", Some(7)),
            ("12 (sh) Z 7 12", None),
            ("12 (sh", None),
            ("", None),
        ] {
            assert_eq!(living_parent(stat), parent, "{stat}");
        }
    }
}
