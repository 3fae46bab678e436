//! All that a process started, directly or not: adopting what is orphaned, and ending the lot. Whatever a program's
//! children do to get out of sight (other groups, other sessions), they are found.
//!
//! Sources: PR_SET_CHILD_SUBREAPER(2const), proc_pid_stat(5).

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// How long the killed may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// Makes this process the parent of all orphans below it.
pub(crate) fn adopt() -> Result<(), String> {
    let adopting = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    adopting.map_err(|error| format!("becoming the parent of its orphans failed: {error}"))
}

/// Kills all descendants until there are none. The killed leave children of their own to us, so it takes some rounds.
/// Refuses to guess: where `/proc` cannot be read, or somebody does not die, it fails.
pub(crate) fn end_all() -> Result<(), String> {
    let us = rustix::process::getpid();
    let begun = Instant::now();
    while begun.elapsed() < DYING {
        let alive = descendants(us)
            .map_err(|error| format!("looking in /proc for what a program left running failed: {error}"))?;
        if alive.is_empty() {
            return Ok(());
        }
        for pid in alive {
            // Gone by itself, or killed and not yet gone: the next round tells.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("some of the processes that a program left running could not be killed".to_owned())
}

/// Living processes below this one.
fn descendants(us: Pid) -> io::Result<Vec<Pid>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
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
    Ok(found)
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

    #[test]
    fn whoever_hides_in_another_session_is_found() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "setsid sh -c 'sleep 4324 & sleep 4324' & sleep 4324"])
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let begun = Instant::now();
        while descendants(pid).unwrap().len() < 3 {
            assert!(begun.elapsed() < DYING);
            std::thread::sleep(Duration::from_millis(5));
        }
        for pid in descendants(pid).unwrap() {
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
