//! What a test may have left behind: mounts, loop devices, processes, temporary files.
//!
//! Mounts are compared in the sandbox's own namespace, whose mounts are shared, and looked for in the host's by
//! the sandbox's unique directory. Loop devices are matched by that directory too, because others may use the
//! machine. The kernel clears autoclear loops in the background, so a finding is looked at again for five seconds.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, WaitOptions, waitpid};

/// How long an autoclear loop device may take to be cleared, and anything else to be gone.
const SETTLE_LOOP: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_secs(1);

/// The state before the test.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// A path component that only this sandbox has.
    mark: String,
    mounts: Vec<String>,
}

impl Snapshot {
    pub(super) fn take(mark: &str) -> Result<Self> {
        Ok(Self { mark: mark.to_owned(), mounts: mounts("/proc/thread-self/mountinfo")? })
    }

    /// An error that names everything left over.
    pub(super) fn compare(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let left = self.findings()?;
            if left.is_empty() {
                return Ok(());
            }
            let patience = match left.iter().any(|line| line.starts_with("loop device")) {
                true => SETTLE_LOOP,
                false => SETTLE,
            };
            if started.elapsed() > patience {
                bail!("the test left behind:\n  {}", left.join("\n  "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn findings(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for line in mounts("/proc/thread-self/mountinfo")? {
            if !self.mounts.contains(&line) {
                left.push(format!("mount {line}"));
            }
        }
        for line in mounts("/proc/1/mountinfo")? {
            if line.contains(&self.mark) {
                left.push(format!("mount in the host's namespace {line}"));
            }
        }
        left.extend(loops(&self.mark)?);
        left.extend(children()?);
        for directory in ["/tmp", "/var/tmp", "/dev/shm"] {
            left.extend(files(Path::new(directory))?);
        }
        Ok(left)
    }
}

fn mounts(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Loop devices whose backing file lies below a directory named `mark`.
fn loops(mark: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").context("list /sys/block")? {
        let path = entry?.path().join("loop/backing_file");
        // A device that is not in use, or just being cleared, has no such file.
        if let Ok(backing) = fs::read_to_string(&path)
            && backing.contains(mark)
        {
            found.push(format!("loop device {}: {}", path.display(), backing.trim_end()));
        }
    }
    Ok(found)
}

/// Processes below this one. It is their reaper of last resort, so a daemonized one shows up here as well.
fn children() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").context("list this process's threads")? {
        let path = task?.path().join("children");
        for pid in fs::read_to_string(path).unwrap_or_default().split_whitespace() {
            let number = pid.parse().ok().and_then(Pid::from_raw);
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.contains(") Z ") {
                // An orphan that has ended: reaped here as init would, no leak.
                let _ = waitpid(number, WaitOptions::NOHANG);
                continue;
            }
            let name = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push(format!("process {pid}: {}", String::from_utf8_lossy(&name).replace('\0', " ")));
        }
    }
    Ok(found)
}

fn files(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        found.push(format!("temporary file {}", entry?.path().display()));
    }
    Ok(found)
}
