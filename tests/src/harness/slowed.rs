//! A daemon whose renames take long, so that a test can look between two of them, and kill.
//!
//! strace(1) delays system calls by ptrace(2) ("inject" in its manual); the daemon itself is the installed one. The
//! delay is the process's alone: nothing else on the machine becomes slower.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::daemon::{DaemonId, Start};
use super::sandbox::Sandbox;

impl Sandbox {
    /// From now on each rename of this daemon, and of what it starts, takes `delay` before it happens and `delay`
    /// afterwards. Ends with the daemon.
    pub fn slow_renames(&mut self, slowed: DaemonId, delay: Duration) -> Result<DaemonId> {
        let pid = self.pid(slowed)?.to_string();
        let micros = delay.as_micros();
        let renames = "rename,renameat,renameat2";
        let inject = format!("inject={renames}:delay_enter={micros}:delay_exit={micros}");
        let words = [
            "strace",
            "-f",
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={renames}"),
            "-e",
            &inject,
            "-p",
            &pid,
        ];
        let status = format!("/proc/{pid}/status");
        let is_traced = move || {
            let text = std::fs::read_to_string(Path::new(&status)).unwrap_or_default();
            text.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        let start = Start { name: "strace", words: &words, ids: (0, 0), environment: &[] };
        self.start_daemon(&start, &is_traced)
    }
}
