//! Running other programs: a fixed environment, no input, bounded output, a limit on time, no shell.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Where programs look for others.
pub const PATH: &str = "/usr/bin:/usr/sbin:/bin:/sbin";
/// Most bytes that are kept of each output.
const MOST: u64 = 256 << 10;
/// How long outputs may stay open after the end: a daemon the program has started may have kept them.
const LINGER: Duration = Duration::from_millis(50);

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
    let out = reader(child.stdout.take());
    let err = reader(child.stderr.take());
    let code = wait(&mut child, limit).map_err(|reason| format!("{program} {reason}"))?;
    let late = Instant::now() + LINGER;
    let text = |from: mpsc::Receiver<Vec<u8>>| {
        let mut bytes = Vec::new();
        while let Ok(more) = from.recv_timeout(late.saturating_duration_since(Instant::now())) {
            bytes.extend(more);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Ended { code, out: text(out), err: text(err) })
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<i32>, String> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.code()),
            Ok(None) if started.elapsed() < limit => {
                std::thread::sleep(pause);
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

/// Reads to the end, keeping what has room; what came is passed on as it comes.
fn reader(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (to, from) = mpsc::channel();
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let (mut buffer, mut kept) = ([0; 4096], 0);
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            kept += length as u64;
            if kept <= MOST && to.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    from
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
        assert!(ended.well() && ended.out.len() as u64 <= MOST && ended.err == "x\n");
        let started = Instant::now();
        let ended = run(&["/bin/sh", "-c", "sleep 3 & echo up"], &[], LIMIT).unwrap();
        assert_eq!(ended.out, "up\n");
        let said = run(&["/bin/sleep", "9"], &[], Duration::from_millis(50)).unwrap_err();
        assert_eq!(said, "/bin/sleep was not done after 0 s and was killed");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(run(&["/nowhere"], &[], LIMIT).unwrap_err().starts_with("cannot run /nowhere: No such file"));
    }

    #[test]
    fn last_words_are_one_short_line() {
        assert_eq!(last_words("a\n\n b \u{7}c\n"), "a; b c");
        assert_eq!(last_words(&"x".repeat(5000)).len(), 1000);
    }
}
