//! Running other programs: a fixed environment, no input, bounded output, a limit on time, no shell.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where programs look for others.
pub const PATH: &str = "/usr/bin:/usr/sbin:/bin:/sbin";
/// Most bytes that are kept of each output.
const MOST: usize = 256 << 10;
/// Most bytes that are taken from an output at once: more than a pipe holds.
const AT_ONCE: usize = 1 << 20;

/// What came of a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Whether it says it succeeded.
    pub fn well(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a program to its end, with these variables and [`PATH`] alone. An error if it cannot be started, or was
/// killed because it was not done after `limit`.
pub fn run(words: &[&str], environment: &[(&str, &str)], limit: Duration) -> Result<Ended, String> {
    let (program, arguments) = words.split_first().ok_or("no program was named")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).envs(environment.iter().copied()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let (mut out, mut err) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
    let code = wait(&mut child, &mut out, &mut err, limit).map_err(|reason| format!("{program} {reason}"))?;
    // All it has written lies in the pipes; a daemon it has started may keep them open for ever.
    out.take();
    err.take();
    Ok(Ended { code, out: out.text(), err: err.text() })
}

/// Takes what the program says until it has ended.
fn wait<A: AsFd + Read, B: AsFd + Read>(
    child: &mut Child,
    out: &mut Output<A>,
    err: &mut Output<B>,
    limit: Duration,
) -> Result<Option<i32>, String> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.code()),
            Ok(None) if started.elapsed() < limit => {
                // Its end wakes nobody, what it says does.
                let mut open: Vec<PollFd> = [out.poll(), err.poll()].into_iter().flatten().collect();
                let _interrupted_or_over = poll(&mut open, Timespec::try_from(pause).ok().as_ref());
                out.take();
                err.take();
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Ok(None) => {
                let _gone = child.kill();
                let _reaped = child.wait();
                return Err(format!("was not done after {} s and was killed", limit.as_secs()));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

/// One output of a program: what it has said, and where more comes from.
struct Output<R> {
    from: Option<R>,
    kept: Vec<u8>,
}

impl<R: AsFd + Read> Output<R> {
    fn of(pipe: Option<R>) -> Self {
        let from = pipe.filter(|pipe| fcntl_setfl(pipe, OFlags::NONBLOCK).is_ok());
        Self { from, kept: Vec::new() }
    }

    fn poll(&self) -> Option<PollFd<'_>> {
        self.from.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN))
    }

    /// Takes what is there, and keeps what has room.
    fn take(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE / buffer.len() {
            let Some(pipe) = &mut self.from else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.from = None,
                Ok(length) => {
                    let room = MOST.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.from = None,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

/// The end of what a program has said, fit for one line of a message.
pub fn last_words(text: &str) -> String {
    const LONGEST: usize = 1000;
    let line: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let clean: String = line.join("; ").chars().filter(|c| !c.is_control()).collect();
    let skipped = clean.chars().count().saturating_sub(LONGEST);
    clean.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn outputs_and_codes_come_back_whatever_the_program_does_with_them() {
        for (script, code, out, err) in [
            ("echo a; echo b >&2; exit 3", Some(3), "a\n", "b\n"),
            ("kill -9 $$", None, "", ""),
            ("env", Some(0), "PATH=/usr/bin:/usr/sbin:/bin:/sbin\nPWD=/\nX=y\n", ""),
            ("cat", Some(0), "", ""),
            ("exec >&-; echo late >&2", Some(0), "", "late\n"),
        ] {
            let ended = run(&["/bin/dash", "-c", script], &[("X", "y")], LIMIT).unwrap();
            let mut lines: Vec<&str> = ended.out.split_inclusive('\n').collect();
            lines.sort_unstable();
            assert_eq!(
                (ended.code, lines.concat().as_str(), ended.err.as_str()),
                (code, out, err),
                "{script}"
            );
        }
    }

    #[test]
    fn floods_hangs_and_daemons_that_keep_the_pipe_do_no_harm() {
        let ended = run(&["/bin/sh", "-c", "head -c 9000000 /dev/zero; echo x >&2"], &[], LIMIT).unwrap();
        assert!(ended.well() && ended.out.len() <= MOST && ended.err == "x\n");
        // What fills the pipes when the program ends is not lost, however late it is read.
        for _ in 0..20 {
            let script = "head -c 60000 /dev/zero >&2; exec head -c 60000 /dev/zero";
            let ended = run(&["/bin/sh", "-c", script], &[], LIMIT).unwrap();
            assert_eq!((ended.out.len(), ended.err.len()), (60_000, 60_000));
        }
        let started = Instant::now();
        let ended = run(&["/bin/sh", "-c", "sleep 3 & echo up"], &[], LIMIT).unwrap();
        assert_eq!(ended.out, "up\n");
        let said = run(&["/bin/sleep", "9"], &[], Duration::from_millis(50)).unwrap_err();
        assert_eq!(said, "/bin/sleep was not done after 0 s and was killed");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(run(&["/nowhere"], &[], LIMIT).unwrap_err().starts_with("cannot run /nowhere: No such file"));
    }

    /// Runs itself under strace(1), which has every read come back late, as on a machine that is very busy.
    #[test]
    fn what_a_program_said_is_not_lost_where_it_is_read_late() {
        const INSIDE: &str = "SHIFTER_TEST_READ_LATE";
        if std::env::var_os(INSIDE).is_some() {
            let ended = run(&["/bin/dash", "-c", "echo out; echo err >&2"], &[], LIMIT).unwrap();
            return assert_eq!((ended.out.as_str(), ended.err.as_str()), ("out\n", "err\n"));
        }
        let late =
            ["-f", "-qq", "-o", "/dev/null", "-e", "trace=read", "-e", "inject=read:delay_exit=200000"];
        let this = "program::tests::what_a_program_said_is_not_lost_where_it_is_read_late";
        let mut strace = Command::new("strace");
        strace.args(late).arg(std::env::current_exe().unwrap()).args(["--exact", this]).env(INSIDE, "1");
        let output = strace.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn last_words_are_one_short_line() {
        assert_eq!(last_words("a\n\n b \u{7}c\n"), "a; b c");
        assert_eq!(last_words(&"x".repeat(5000)).len(), 1000);
    }
}
