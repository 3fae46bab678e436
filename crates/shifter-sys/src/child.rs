//! Programs beside the user's own, off the hot path. Helpers (an image lookup, an account lookup) run as the
//! user, fully dropped before they start, and what they print is the user's word, not root's. Site hooks run as
//! root with nothing of the user's: no stream, terminal or descriptor, a fixed environment, root's limits. So what
//! they do and when they end is no choice of the user's.

use crate::credentials::{Unprivileged, irrevocably_drop_privileges};
use crate::error::{During, Error, Result};
use crate::exec::exec;
use crate::lockdown::LockedDown;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use std::io::{PipeReader, PipeWriter, Read, Seek};
use std::time::{Duration, Instant};

/// Everything a helper gets as environment.
const ENVIRONMENT: [&[u8]; 2] = [b"PATH=/usr/bin:/bin:/usr/sbin:/sbin", b"POSIXLY_CORRECT=1"];

/// Most of what a hook prints that is kept, bytes.
const MOST_SAID: u64 = 64 << 10;

/// How a program ended, and at most the asked-for number of bytes it printed.
#[derive(Debug)]
pub struct Output {
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, invalid UTF-8 replaced.
    pub text: String,
}

/// Runs `argv` (an absolute path first) as the caller: standard input empty, standard error the caller's. In programs
/// that root runs it runs as root.
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

/// Runs `/bin/sh SCRIPT` as root in `directory`, to its end.
pub fn run_hook(script: &str, directory: &OwnedFd) -> Result<Output> {
    run_child(script, |said| {
        rustix::process::fchdir(directory).during("enter", "the container's root")?;
        exec_as_root(&["/bin/sh", script], said, 3)
    })
}

/// Runs a program of the system as root, to its end; it gets `file` as descriptor 3.
pub fn run_on(argv: &[&str], file: &OwnedFd) -> Result<Output> {
    let name = argv.first().copied().unwrap_or("");
    run_child(name, |said| {
        // Beyond 3, so that it can be copied there.
        let file = rustix::io::fcntl_dupfd_cloexec(file, 4).during("keep", name)?;
        let said = rustix::io::fcntl_dupfd_cloexec(said, 4).during("keep", name)?;
        // SAFETY: descriptor numbers only; what was 3 is this child's copy, which it does not use any more.
        unsafe { libc::dup2(file.as_raw_fd(), 3) };
        exec_as_root(argv, &said, 4)
    })
}

/// Runs a program of the system as root, to its end.
#[cfg(feature = "setup")]
pub fn run_as_root(argv: &[&str]) -> Result<Output> {
    run_child(argv[0], |said| exec_as_root(argv, said, 3))
}

/// Runs `action`, which ends in [`exec_as_root`], in a child. What it prints goes to memory: a stream of the user's
/// could be closed, or never read.
fn run_child(name: &str, action: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<Output> {
    let said =
        fs::memfd_create("said", fs::MemfdFlags::CLOEXEC).during("make room for the words of", name)?;
    let pid = start(name, || action(&said))?;
    let code = wait(pid, name)?;
    let mut said = std::fs::File::from(said);
    let mut text = Vec::new();
    said.rewind()
        .and_then(|()| said.take(MOST_SAID).read_to_end(&mut text))
        .during("read the words of", name)?;
    Ok(Output { code, text: String::from_utf8_lossy(&text).into_owned() })
}

/// In a child: a session of its own, streams of ours, a fixed environment and default signals, then exec.
/// Descriptors from `first_closed` on are closed.
fn exec_as_root(argv: &[&str], said: &impl AsFd, first_closed: u32) -> Result<()> {
    rustix::process::setsid().during("leave the terminal for", argv[0])?;
    let null = fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).during("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).during("redirect", "standard input")?;
    rustix::stdio::dup2_stdout(said).during("redirect", "standard output")?;
    rustix::stdio::dup2_stderr(said).during("redirect", "standard error")?;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC only marks descriptors; exec then closes them.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, first_closed, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(std::io::Error::last_os_error()).during("close the descriptors of", argv[0]);
    }
    crate::signals::reset()?;
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
    #[cfg(feature = "setup")]
    if locked.is_roots() {
        // What runs as the user could be traced by the user, who would then say what their groups are.
        return exec_as_root(argv, writer, 3);
    }
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

pub(crate) fn readable_before(fd: &impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut wanted = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let timeout =
        rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    matches!(rustix::event::poll(&mut wanted, Some(&timeout)), Ok(ready) if ready > 0)
}
