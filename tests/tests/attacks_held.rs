//! A start that comes to a halt at one of its privileged steps, at each in turn: frozen, killed, or let go on. Nobody
//! else waits for it, its user has no hand in it, and it leaves nothing.
//!
//! strace(1) stops the process at the entry of one system call ("inject" in its manual) until strace itself is ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::time::{Duration, Instant};

/// System calls by which a start gets on, and something that the one meant has among its arguments.
const STEPS: [(&str, &str); 14] = [
    ("unshare", "CLONE_NEWNS"),
    ("ioctl", "LOOP_CTL_GET_FREE"),
    ("ioctl", "LOOP_CONFIGURE"),
    ("fsopen", "squashfs"),
    ("fsmount", ""),
    ("fsopen", "tmpfs"),
    ("open_tree", ""),
    ("mount_setattr", ""),
    ("move_mount", ""),
    ("fsopen", "overlay"),
    ("pivot_root", ""),
    ("umount2", ""),
    ("setgroups", "4301"),
    ("setresuid", "4201"),
];

/// How long others wait for a lock at most is a second.
const PATIENCE: Duration = Duration::from_secs(4);

/// A start of alice's, with strace beside it that was given these words.
struct Start {
    process: Child,
    strace: Child,
}

impl Start {
    fn under(machine: &Machine, strace: &[&str]) -> Self {
        // The kernel clears devices in its own time; one that is left would be shared, and some steps left out.
        wait_until("no loop device", || !has_loop(machine));
        let script = format!("read go; exec {} echo ran", machine.command_line());
        let mut process = machine.as_user("alice").spawn(&["bash", "-c", &script]).unwrap();
        let pid = process.id().to_string();
        wait_until("bash", || fs::read(format!("/proc/{pid}/comm")).unwrap() == b"bash\n");
        let words = [&["strace", "-qqq"], strace, &["-p", &pid]].concat();
        let strace = machine.sandbox.root().spawn(&words).unwrap();
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        wait_until("traced", || status().contains("TracerPid:") && !status().contains("TracerPid:\t0\n"));
        process.stdin.take().unwrap().write_all(b"\n").unwrap();
        Self { process, strace }
    }

    /// One that halts where this system call is made for the `when`th time.
    fn halted(machine: &Machine, call: &str, when: usize) -> Self {
        let inject = format!("inject={call}:delay_enter=600000000:when={when}");
        let trace = format!("trace={call}");
        let mut start = Self::under(machine, &["-o", "/dev/null", "-e", &trace, "-e", &inject]);
        let mut still = 0;
        wait_until(&format!("halted at {call}"), || {
            assert!(start.process.try_wait().unwrap().is_none(), "it never came to {call} {when}");
            still = if start.is_halted() { still + 1 } else { 0 };
            still > 25
        });
        start
    }

    fn is_halted(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        stat.contains(") t ")
    }

    /// The end of both, and what the start printed.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let mut out = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let status = self.process.wait().unwrap();
        self.strace.wait().unwrap();
        (status, out)
    }
}

fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(30), "never {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn has_loop(machine: &Machine) -> bool {
    let carries = |name: std::ffi::OsString| {
        let backing = fs::read_to_string(format!("/sys/block/{}/loop/backing_file", name.display()));
        backing.is_ok_and(|path| path.contains(&machine.id))
    };
    fs::read_dir("/sys/block").unwrap().any(|device| carries(device.unwrap().file_name()))
}

/// Each of [`STEPS`] with how many such calls a start has made by then.
fn steps(machine: &Machine) -> Vec<(&'static str, usize, &'static str)> {
    let path = machine.sandbox.prefix().join("trace").display().to_string();
    let (status, out) = Start::under(machine, &["-o", &path]).end();
    let trace = fs::read_to_string(path).unwrap();
    assert!(status.success() && out == "ran\n", "{status}: {out}\n{trace}");
    let number = |(call, argument): (&'static str, &'static str)| {
        let of_call = trace.lines().filter(|line| line.starts_with(&format!("{call}(")));
        let at = of_call.take_while(|line| !line.contains(argument)).count() + 1;
        let is_there = trace.lines().any(|line| line.starts_with(call) && line.contains(argument));
        assert!(is_there, "a start has no {call} with {argument:?}:\n{trace}");
        (call, at, argument)
    };
    STEPS.into_iter().map(number).collect()
}

#[test]
fn a_start_that_is_frozen_or_killed_at_any_step_holds_up_others_or_leaves_something() {
    let machine = Machine::new(&shell_image(), "");
    // Later starts find what the first has made.
    machine.run("bob", &["true"]).success().unwrap();
    for (call, when, argument) in steps(&machine) {
        for killed in [true, false] {
            let mut start = Start::halted(&machine, call, when);
            let pid = start.process.id();
            for signal in ["STOP", "KILL", "INT"] {
                let out = machine.shell("alice", &format!("kill -{signal} {pid}"));
                assert!(out.err().contains("not permitted"), "{call} {argument}: {}", out.describe());
            }
            let begin = Instant::now();
            let other = machine.run("bob", &["echo", "other"]);
            let took = begin.elapsed();
            assert_eq!(other.out(), "other\n", "{call} {argument}: {}", other.describe());
            assert!(took < PATIENCE, "{call} {argument}: another user's start took {took:?}");
            assert!(start.is_halted(), "{call} {argument}: it was let go");
            if killed {
                start.process.kill().unwrap();
                // A tracer is told of the end, and strace still waits.
                start.strace.kill().unwrap();
                assert_eq!(start.end().0.signal(), Some(9), "{call} {argument}");
            } else {
                start.strace.kill().unwrap();
                let (status, out) = start.end();
                assert!(status.success() && out == "ran\n", "{call} {argument}: {status}: {out}");
            }
        }
    }
    assert_eq!(machine.run("bob", &["echo", "after"]).success().unwrap(), "after\n");
    machine.finish();
}
