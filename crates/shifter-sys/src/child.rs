//! Programs beside the user's own, off the hot path. Helpers (an image lookup, an account lookup) run as the
//! user, fully dropped before they start, and what they print is the user's word, not root's. Site hooks run as
//! root with nothing of the user's: standard streams only, a fixed environment, root's limits.

use crate::credentials::{Unprivileged, irrevocably_drop_privileges};
use crate::error::{During, Error, Result};
use crate::exec::exec;
use crate::lockdown::LockedDown;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use std::io::{PipeReader, PipeWriter, Read};
use std::time::{Duration, Instant};

/// Everything a helper gets as environment.
const ENVIRONMENT: [&[u8]; 2] = [b"PATH=/usr/bin:/bin:/usr/sbin:/sbin", b"POSIXLY_CORRECT=1"];

/// How a helper ended, and at most the asked-for number of bytes it printed.
#[derive(Debug)]
pub struct Output {
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, invalid UTF-8 replaced.
    pub text: String,
}

/// Runs `argv` (an absolute path first) as the caller: standard input empty, standard error the caller's.
/// A helper that prints more than `limit` bytes or runs longer than `patience` is killed.
pub fn output_of(locked: &LockedDown, argv: &[&str], limit: usize, patience: Duration) -> Result<Output> {
    let name = argv.first().copied().unwrap_or("");
    let (reader, writer) = std::io::pipe().during("make a pipe for", name)?;
    let pid = start(name, || become_helper(locked, argv, &writer))?;
    drop(writer);
    let deadline = Instant::now() + patience;
    // Its output may end long before it does: the user may trace and stop what runs as the user.
    let text = collect(reader, limit, deadline)
        .and_then(|text| if ends_before(pid, deadline) { Ok(text) } else { Err("it took too long") });
    if text.is_err() {
        let _already_gone = kill_process(pid, Signal::KILL);
    }
    let code = wait(pid, name)?;
    let text = text.map_err(|rule| Error::refused("run", name, rule))?;
    Ok(Output { code, text })
}

/// Runs `/bin/sh SCRIPT` as root in `directory`, to its end; returns its exit status.
pub fn run_hook(script: &str, directory: &OwnedFd) -> Result<Option<i32>> {
    let pid = start(script, || {
        rustix::process::fchdir(directory).during("enter", "the container's root")?;
        exec_as_root(&["/bin/sh", script])
    })?;
    wait(pid, script)
}

/// Runs a program of the system as root, silently, to its end; it gets `file` as descriptor 3.
pub fn run_on(argv: &[&str], file: &OwnedFd) -> Result<Option<i32>> {
    let name = argv.first().copied().unwrap_or("");
    let pid = start(name, || {
        let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.during("open", "/dev/null")?;
        rustix::stdio::dup2_stdout(&null).during("redirect", "standard output")?;
        rustix::stdio::dup2_stderr(&null).during("redirect", "standard error")?;
        // SAFETY: descriptor numbers only; what was 3 is this child's copy, which it does not use any more.
        unsafe { libc::dup2(file.as_raw_fd(), 3) };
        if file.as_raw_fd() == 3 {
            rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).during("keep", name)?;
        }
        exec_as_root(argv)
    })?;
    wait(pid, name)
}

/// In a child: standard streams, a fixed environment and default signals, then exec.
fn exec_as_root(argv: &[&str]) -> Result<()> {
    let null = fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).during("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).during("redirect", "standard input")?;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC only marks descriptors; exec then closes them.
    unsafe { libc::syscall(libc::SYS_close_range, 4, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    crate::signals::reset();
    let c_string = |word: &&str| std::ffi::CString::new(*word).unwrap_or_default();
    let words: Vec<_> = argv.iter().map(c_string).collect();
    let environment = ENVIRONMENT.map(|variable| std::ffi::CString::new(variable).unwrap_or_default());
    Err(crate::exec::execve(&words[0], &words, &environment)).during("run", argv[0])
}

/// Runs `/bin/sh SCRIPT` as the user this process has become, to its end; returns its exit status.
pub fn run_as_user(proof: &Unprivileged, script: &str, environment: &[Vec<u8>]) -> Result<Option<i32>> {
    let pid = start(script, || {
        let argv = [b"/bin/sh".to_vec(), script.as_bytes().to_vec()];
        Err(exec(proof, &argv, environment, b"")).during("run", script)
    })?;
    wait(pid, script)
}

/// Forks; the child does `action`, which execs, or ends with status 127.
pub(crate) fn start(name: &str, action: impl FnOnce() -> Result<()>) -> Result<Pid> {
    // SAFETY: the process has one thread, so no lock can be held in the child, which only makes system
    // calls and allocates until it execs or exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _never_returns = action();
        // SAFETY: _exit ends the child without running anything of the parent's.
        unsafe { libc::_exit(127) };
    }
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(std::io::Error::last_os_error).during("start", name)
}

fn wait(pid: Pid, name: &str) -> Result<Option<i32>> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.during("wait for", name)?.and_then(|(_, status)| status.exit_status())),
        }
    }
}

/// In the child: user, streams, caller's signals and limits, exec.
fn become_helper(locked: &LockedDown, argv: &[&str], writer: &PipeWriter) -> Result<()> {
    let proof = irrevocably_drop_privileges(locked.caller())?;
    let null = fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).during("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).during("redirect", "standard input")?;
    rustix::stdio::dup2_stdout(writer).during("redirect", "standard output")?;
    locked.give_back(&proof)?;
    let argv: Vec<Vec<u8>> = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
    let environment: Vec<Vec<u8>> = ENVIRONMENT.iter().map(|variable| variable.to_vec()).collect();
    Err(exec(&proof, &argv, &environment, b"")).during("run", "the helper")
}

fn collect(mut pipe: PipeReader, limit: usize, until: Instant) -> std::result::Result<String, &'static str> {
    let mut text = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        if !readable_before(&pipe, until) {
            return Err("it took too long");
        }
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(length) => text.extend_from_slice(&chunk[..length]),
            Err(_) => return Err("its output could not be read"),
        }
        if text.len() > limit {
            return Err("it printed more than such a program does");
        }
    }
}

fn ends_before(pid: Pid, deadline: Instant) -> bool {
    pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|process| readable_before(&process, deadline))
}

fn readable_before(fd: &impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut wanted = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let timeout =
        rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    matches!(rustix::event::poll(&mut wanted, Some(&timeout)), Ok(ready) if ready > 0)
}
