//! A program that runs beside a job, as the job's user in the job's container, and ends with everything it started.
//!
//! A process of root's, the keeper, starts it and adopts whatever it leaves behind (PR_SET_CHILD_SUBREAPER), so that
//! nothing started through it can leave the keeper's family, daemons included. Told to end, the keeper stops the
//! whole family and kills it, on its own: whoever told it may be killed meanwhile. Until it is let go it ends
//! likewise when its maker is gone. It is found by process id and start time and signalled through a pidfd: never by
//! what a command line says.

use crate::child::start;
use crate::credentials::irrevocably_drop_privileges;
use crate::error::{Cause, During, Error, Result};
use crate::lockdown::LockedDown;
use crate::{exec, namespace, signals};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, Gid, Mode, OFlags, Uid};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, set_parent_process_death_signal, setsid, wait,
};
use std::collections::BTreeSet;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::time::{Duration, Instant};

/// Longest wait for a program to be ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a keeper may go on by.
const YES: &[u8] = b"1";
/// What it says where all is well, before the program's process id.
const READY: &str = "ready ";

/// What is to be kept.
#[derive(Debug)]
pub struct Program<'a> {
    /// For messages.
    pub name: &'static str,
    /// Its words, an absolute path of the container first. Once it is ready it writes to its standard output.
    pub argv: &'a [&'a str],
    /// The namespace it runs in.
    pub pin: &'a OwnedFd,
    /// A directory of root's, and the file in it that the keeper removes when it has ended everything.
    pub record: (&'a OwnedFd, &'a str),
}

/// A keeper whose program is ready. Dropped, it ends, and everything with it.
#[derive(Debug)]
pub struct Begun {
    identity: String,
    go: PipeWriter,
}

impl Begun {
    /// What [`end`] finds it by, a line: process ids of the program and of the keeper, and the keeper's start time.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// From now on it outlives this process.
    pub fn let_go(mut self) -> Result<()> {
        self.go.write_all(YES).during("let go of", "the keeper")
    }
}

/// Starts a program as `locked`'s user, and its keeper; returns when the program says that it is ready.
pub fn begin(locked: &LockedDown, program: &Program<'_>) -> Result<Begun> {
    let (mut said, tell) = std::io::pipe().during("make a pipe for", program.name)?;
    let (go_on, go) = std::io::pipe().during("make a pipe for", program.name)?;
    let parents_ends = [said.as_raw_fd(), go.as_raw_fd()];
    let pid = start(program.name, || {
        for end in parents_ends {
            // SAFETY: this process's copies, which the child never uses otherwise: it ends by _exit.
            unsafe { libc::close(end) };
        }
        keep(locked, program, tell, go_on)
    })?;
    let keeper = format!("{} {}", pid.as_raw_nonzero(), start_time(pid)?);
    let mut text = String::new();
    said.read_to_string(&mut text).during("hear from", program.name)?;
    if let Some(number) = text.strip_prefix(READY) {
        return Ok(Begun { identity: format!("{number} {keeper}\n"), go });
    }
    let cause = Cause::Said(text);
    Err(Error { operation: "start", object: program.name.to_owned(), cause })
}

/// Has a keeper end its program and everything that was started through it, and waits for that. One that is gone
/// already is no error; whether it did its part then shows in its record.
pub fn end(identity: &str, patience: Duration) -> Result<()> {
    let damaged = || Error::refused("end", "a keeper", "its record is damaged");
    let mut words = identity.split_whitespace().skip(1);
    let (pid, started) = words.next().zip(words.next()).ok_or_else(damaged)?;
    let pid = pid.parse().ok().and_then(Pid::from_raw).ok_or_else(damaged)?;
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.during("find", "a keeper")?,
    };
    // Looked at after it is held: the number may be another's by now.
    if start_time(pid).map_or(true, |found| found != started) {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.during("signal", "a keeper")?,
    }
    if crate::child::readable_before(&process, Instant::now() + patience) {
        return Ok(());
    }
    Err(Error::refused("end", "all that was started through it", "some of it still runs; look with ps"))
}

/// With the process id it tells one process from every other of this boot.
fn start_time(pid: Pid) -> Result<String> {
    stat_field(pid, 19)
}

/// A field of proc_pid_stat(5), counted from the one behind the name.
fn stat_field(pid: Pid, number: usize) -> Result<String> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let text = crate::directory::read_host(&path, 4096)?;
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let field = fields.split(' ').nth(number).filter(|field| !field.is_empty());
    field.map(str::to_owned).ok_or_else(|| Error::refused("read", path, "it ends too early"))
}

/// The keeper's life.
fn keep(
    locked: &LockedDown,
    program: &Program<'_>,
    mut tell: PipeWriter,
    mut go_on: PipeReader,
) -> Result<()> {
    let begun = leave_everything(program, &[tell.as_raw_fd(), go_on.as_raw_fd()])
        .and_then(|()| start_program(locked, program));
    let told = match begun {
        Err(error) => {
            end_family()?;
            return tell.write_all(error.to_string().as_bytes()).during("write to", "its maker");
        }
        Ok(pid) => tell.write_all(format!("{READY}{}", pid.as_raw_nonzero()).as_bytes()),
    };
    drop(tell);
    let mut word = Vec::new();
    if told.is_ok() && go_on.read_to_end(&mut word).is_ok() && word == YES {
        drop(go_on);
        // All signals are held back, so none is lost in between.
        while wait_for_signal() != libc::SIGTERM {
            reap();
        }
    }
    end_family()?;
    let (directory, file) = program.record;
    // Absent where its maker was killed too early to write it.
    let _absent = fs::unlinkat(directory, file, fs::AtFlags::empty());
    Ok(())
}

/// A session of its own without a terminal, no directory that it would keep in use, and no descriptor but those needed.
fn leave_everything(program: &Program<'_>, pipes: &[i32]) -> Result<()> {
    setsid().during("leave the session of", "its maker")?;
    rustix::process::chdir("/").during("enter", "/")?;
    let _older_names_do = rustix::thread::set_name(c"shifter-keeper");
    set_child_subreaper(Some(getpid())).during("adopt", "what is left behind")?;
    children_of(getpid())?;
    let null = fs::open("/dev/null", OFlags::RDWR, Mode::empty()).during("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).during("redirect", "standard input")?;
    rustix::stdio::dup2_stdout(&null).during("redirect", "standard output")?;
    rustix::stdio::dup2_stderr(&null).during("redirect", "standard error")?;
    drop(null); // before its number is closed below
    let mut kept = pipes.to_vec();
    kept.extend([program.pin.as_raw_fd(), program.record.0.as_raw_fd()]);
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.into_iter().chain([i32::MAX]) {
        if first < number {
            // SAFETY: close_range(2) on numbers that no value used from here on owns: the child ends by _exit.
            unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) };
        }
        first = number.saturating_add(1);
    }
    Ok(())
}

/// Starts the program and waits until it is ready.
fn start_program(locked: &LockedDown, program: &Program<'_>) -> Result<Pid> {
    let (mut ready, tell) = std::io::pipe().during("make a pipe for", program.name)?;
    let words = fs::memfd_create("said", fs::MemfdFlags::CLOEXEC).during("make room for", program.name)?;
    let (uid, gid) = (Uid::from_raw(locked.caller().uid()), Gid::from_raw(locked.caller().gid()));
    // It may open both again by name.
    for file in [tell.as_raw_fd(), words.as_raw_fd()] {
        // SAFETY: both are open for as long as this function runs.
        let file = unsafe { rustix::fd::BorrowedFd::borrow_raw(file) };
        fs::fchown(file, Some(uid), Some(gid)).during("give a pipe to", program.name)?;
    }
    let keeper = getpid();
    let pid = start(program.name, || become_program(locked, program, keeper, &tell, &words))?;
    drop(tell);
    let mut first = [0];
    if crate::child::readable_before(&ready, Instant::now() + PATIENCE)
        && matches!(ready.read(&mut first), Ok(1))
    {
        return Ok(pid);
    }
    let mut words = std::fs::File::from(words);
    let mut text = Vec::new();
    std::io::Seek::rewind(&mut words)
        .and_then(|()| words.take(4096).read_to_end(&mut text))
        .during("read the words of", program.name)?;
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    let cause = Cause::Said(if text.is_empty() { "it was not ready".to_owned() } else { text });
    Err(Error { operation: "wait for", object: program.name.to_owned(), cause })
}

/// In the program's process: the container, the user, no descriptor of ours, exec.
fn become_program(
    locked: &LockedDown,
    program: &Program<'_>,
    keeper: Pid,
    tell: &PipeWriter,
    words: &OwnedFd,
) -> Result<()> {
    rustix::stdio::dup2_stdout(tell).during("redirect", "standard output")?;
    rustix::stdio::dup2_stderr(words).during("redirect", "standard error")?;
    namespace::join(program.pin)?;
    let proof = irrevocably_drop_privileges(locked.caller())?;
    // After the ids changed, which takes it back (PR_SET_PDEATHSIG(2const)).
    set_parent_process_death_signal(Some(Signal::KILL)).during("stay with", "the keeper")?;
    if getppid() != Some(keeper) {
        return Err(Error::refused("stay with", "the keeper", "it is gone"));
    }
    locked.give_back(&proof)?;
    signals::reset()?;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC only marks descriptors; exec then closes them.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    let argv: Vec<Vec<u8>> = program.argv.iter().map(|word| word.as_bytes().to_vec()).collect();
    let environment = [b"PATH=/usr/bin:/bin:/usr/sbin:/sbin".to_vec()];
    Err(exec::exec(&proof, &argv, &environment, b"")).during("run", program.argv[0])
}

/// Takes leave of children that have ended; false when there are none at all any more.
fn reap() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Ends the family. All of it is stopped first: a stopped process forks no more and still counts against its user's
/// limit, so that however fast the others fork, they come to an end. Then it is killed.
fn end_family() -> Result<()> {
    // Ahead of a family that may be runnable in hundreds; a refusal only makes it take longer.
    let _stays_as_it_is = rustix::process::setpriority_process(None, -20);
    // SAFETY: a sched_param is plain old data, in some C libraries with fields that must be zero.
    let mut first: libc::sched_param = unsafe { std::mem::zeroed() };
    first.sched_priority = 1;
    // SAFETY: sched_setscheduler(2) reads the structure, which lives through the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &first) };
    while reap() {
        // The last that were found first: while its parent is stopped and lives, nobody else gets a process's number.
        for (pid, parent) in stopped_family()?.into_iter().rev() {
            signal(pid, parent, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Stops all processes below this one, until there is none that was not seen before; each with its parent, parents
/// before their children.
fn stopped_family() -> Result<Vec<(Pid, Pid)>> {
    let mut family = Vec::new();
    let mut seen = BTreeSet::new();
    loop {
        let before = seen.len();
        let mut parents = vec![getpid()];
        while let Some(parent) = parents.pop() {
            for child in children_of(parent)? {
                if seen.insert(child.as_raw_nonzero()) {
                    signal(child, parent, Signal::STOP);
                    family.push((child, parent));
                }
                parents.push(child);
            }
        }
        if seen.len() == before {
            return Ok(family);
        }
    }
}

/// Signals a process if it still is a child of that parent, or of this process, which gets orphans.
fn signal(pid: Pid, parent: Pid, signal: Signal) {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // Looked at after it is held: the number may be another's by now.
    let now = stat_field(pid, 1).ok().and_then(|field| field.parse().ok()).and_then(Pid::from_raw);
    if now.is_some_and(|now| now == parent || now == getpid()) {
        let _ended_already = pidfd_send_signal(&process, signal);
    }
}

/// The children of all threads of a process; none of one that is gone (proc_pid_task(5)).
fn children_of(parent: Pid) -> Result<Vec<Pid>> {
    let path = format!("/proc/{}/task", parent.as_raw_nonzero());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(threads) = fs::open(&path, flags, Mode::empty()) else { return Ok(Vec::new()) };
    let mut children = Vec::new();
    for thread in crate::directory::entries(&threads, &path, usize::MAX).unwrap_or_default() {
        let path = format!("{path}/{}/children", thread.name.to_string_lossy());
        match crate::directory::read_host(&path, 1 << 24) {
            Ok(list) => children.extend(list.split(' ').filter_map(|pid| Pid::from_raw(pid.parse().ok()?))),
            // A kernel without CONFIG_PROC_CHILDREN, by which nobody could be ended.
            Err(error) if parent == getpid() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(children)
}

/// The next signal of those a keeper heeds.
fn wait_for_signal() -> i32 {
    // SAFETY: a signal set is plain old data; all zeros is the empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in [libc::SIGTERM, libc::SIGCHLD] {
        // SAFETY: `set` is a live, initialized set.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: `set` is live; no information is asked for, so the second pointer may be null.
    unsafe { libc::sigwaitinfo(&set, std::ptr::null_mut()) }
}
