//! The child that runs a site's examiner: starts it, listens to it, and ends it with all that it started when it is
//! over, too slow, or wanted by nobody any more.
//!
//! The examiner is the site's own program, so it keeps the network; of files it reaches what `Reach` says, where the
//! kernel has Landlock, and of system calls it lacks those that are dangerous. This process stays outside of that fence, and adopts whatever the examiner orphans.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use super::said::LastWords;
use crate::confine::{self, Reach};
use crate::convert::{PATH, read_job};
use crate::offspring;

/// How long what it said may take to be read to its end when all are gone.
const READING: Duration = Duration::from_secs(10);

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
    offspring::adopt()?;
    let mut child = start_fenced(job)?;
    let words = LastWords::listen(child.stderr.take());
    let over = wait(child, Duration::from_secs(job.seconds));
    offspring::end_all()?;
    Ok(match over {
        Some(status) => {
            Verdict::Ended { passed: status.success(), status: status.to_string(), said: words.text(READING) }
        }
        None => Verdict::TooLong,
    })
}

/// The fence is a thread's and its children's. That thread is gone afterwards, so we stand outside: what is inside can
/// neither signal nor trace us.
fn start_fenced(job: &ExamineJob) -> Result<Child, String> {
    let started = std::thread::scope(|scope| {
        let inside = || {
            confine::fence(&job.reach)?;
            confine::refuse_dangers()?;
            start(job).map_err(|error| format!("{}: {error}", job.program.display()))
        };
        scope.spawn(inside).join()
    });
    started.unwrap_or_else(|_| Err("the thread that starts it failed".to_owned()))
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
