//! What processes have cost: processor time and memory, of a tool from its end (wait4(2)), of a daemon and its
//! children from `/proc` (proc(5)).
//!
//! Time of a daemon comes in the kernel's ticks of 10 ms. Memory is looked at every few milliseconds, so a peak
//! between two looks is seen in the kernel's own high-water mark only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Memory of a process and its descendants, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peak {
    /// The largest sum of `VmRSS` that was seen.
    pub(crate) resident: u64,
    /// The largest sum of `VmHWM` of processes that lived at one time: no sum was ever larger, seen or not, unless
    /// by a process too short to be seen at all.
    pub(crate) bound: u64,
}

impl Peak {
    /// Both peaks of two runs, or of two steps of one.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { resident: self.resident.max(other.resident), bound: self.bound.max(other.bound) }
    }
}

/// Waits for a child that nobody has waited for yet; returns its end and the time it and its children have taken.
pub(crate) fn wait(child: Child) -> Result<(ExitStatus, Duration)> {
    let mut status = 0;
    // SAFETY: rusage is a plain structure of integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live variables of the types that wait4(2) fills in.
        let pid = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage) };
        if pid >= 0 {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("wait for a program");
        }
    }
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Ok((ExitStatus::from_raw(status), duration(usage.ru_utime) + duration(usage.ru_stime)))
}

/// The processor time that a process, its descendants, and the children they have waited for have taken so far.
pub(crate) fn time_of_tree(root: u32) -> Result<Duration> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut ticks = 0;
    for (pid, _) in tree(root) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        match stat {
            Ok(stat) => ticks += ticks_in(&stat)?,
            // A child that has just ended is in its parent's sum the next time.
            Err(_) if pid != root => {}
            Err(error) => return Err(error).with_context(|| format!("read /proc/{pid}/stat")),
        }
    }
    Ok(Duration::from_millis(ticks * 1000 / ticks_per_second))
}

/// The sum of utime, stime, cutime and cstime: fields 14 to 17 of `/proc/PID/stat`.
fn ticks_in(stat: &str) -> Result<u64> {
    // The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times: Vec<u64> =
        fields.split_whitespace().skip(11).take(4).map_while(|word| word.parse().ok()).collect();
    if times.len() != 4 {
        bail!("/proc/PID/stat has no times: {stat:?}");
    }
    Ok(times.iter().sum())
}

/// A process and its descendants, each with its parent.
fn tree(root: u32) -> Vec<(u32, u32)> {
    let mut found = vec![(root, 0)];
    let mut at = 0;
    while let Some((pid, _)) = found.get(at).copied() {
        at += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|word| Some((word.parse().ok()?, pid))));
        }
    }
    found
}

/// Watches the memory of a process and its descendants.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peak>,
}

impl Watch {
    pub(crate) fn start(root: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut peak = Peak::default();
            loop {
                let last = asked.load(Ordering::Relaxed);
                peak = peak.max(look(root));
                if last {
                    return peak;
                }
                std::thread::sleep(PERIOD);
            }
        });
        Self { stop, thread }
    }

    /// Looks once more and returns the peaks.
    pub(crate) fn stop(self) -> Result<Peak> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the thread that watches memory has failed")
    }
}

fn look(root: u32) -> Peak {
    let command = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut commands = BTreeMap::new();
    let mut peak = Peak::default();
    for (pid, parent) in tree(root) {
        if pid != root {
            // Between vfork and exec a child has its parent's memory and command line: counted once.
            let same = command(pid) == *commands.entry(parent).or_insert_with(|| command(parent));
            if same {
                continue;
            }
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        peak.resident += kib(&status, "VmRSS:");
        peak.bound += kib(&status, "VmHWM:");
    }
    peak
}

fn kib(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn times_are_found_behind_any_name() -> Result<()> {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 99";
        for name in ["sh", "a b", "evil) S 1 2", "((("] {
            assert_eq!(ticks_in(&format!("77 ({name}) {rest}"))?, 127, "{name}");
        }
        assert!(ticks_in("77 (sh) S 1 2 3").is_err());
        Ok(())
    }

    #[test]
    fn a_busy_child_of_a_child_is_counted() -> Result<()> {
        let script = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; read line";
        let mut child =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let watch = Watch::start(child.id());
        let begun = std::time::Instant::now();
        let mut seen = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(20) && tree(child.id()).len() > 1 || seen.is_zero() {
            seen = time_of_tree(child.id())?;
            std::thread::sleep(Duration::from_millis(10));
        }
        let peak = watch.stop()?;
        drop(child.stdin.take());
        let (_, total) = wait(child)?;
        assert!(total >= seen && !seen.is_zero(), "{total:?} {seen:?}");
        assert!(peak.resident > 500 && peak.bound >= peak.resident, "{peak:?}");
        Ok(())
    }
}
