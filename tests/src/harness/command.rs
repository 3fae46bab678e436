//! Running a program as an account of the sandbox, with a clean environment, and what came of it.
//!
//! setpriv(1) changes identity, so that the test suite needs no code between fork and exec. For umask, open
//! descriptors or signal dispositions a test runs a shell that sets them and then execs.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::accounts::Account;

/// A program about to be run by an account.
#[derive(Debug, Clone)]
pub struct UserCommand {
    account: Option<Account>,
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    stdin: Vec<u8>,
    limit: Duration,
    within: Option<u32>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The words that were run, for messages.
    pub words: Vec<String>,
    /// How the program ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The standard output of a program that must have succeeded; otherwise an error that shows everything.
    pub fn success(self) -> Result<String> {
        if self.status.success() { Ok(self.out()) } else { bail!("{}", self.describe()) }
    }

    /// The standard error of a program that must have failed with this exit code.
    pub fn failure(self, code: i32) -> Result<String> {
        if self.status.code() == Some(code) { Ok(self.err()) } else { bail!("{}", self.describe()) }
    }

    /// Everything, for an assertion's message.
    pub fn describe(&self) -> String {
        format!("{:?}: {}\nstdout: {}\nstderr: {}", self.words, self.status, self.out(), self.err())
    }
}

impl UserCommand {
    /// A command of `account`, or of root where there is none.
    pub(super) fn new(account: Option<Account>) -> Self {
        let name = account.map_or("root", |account| account.name);
        let home = account.map_or_else(|| "/root".to_owned(), |account| format!("/home/{}", account.name));
        let path = format!("{}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", super::namespace::BASE);
        let environment = [("HOME", home.as_str()), ("PATH", &path), ("USER", name), ("LANG", "C.UTF-8")];
        Self {
            account,
            environment: environment.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            directory: PathBuf::from("/"),
            stdin: Vec::new(),
            limit: Duration::from_secs(60),
            within: None,
        }
    }

    /// With this variable added to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Started in this directory rather than in `/`.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// With this on standard input, which is otherwise empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// With another limit than 60 seconds.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// In the namespaces of this process.
    #[must_use]
    pub(super) fn within(self, pid: u32) -> Self {
        Self { within: Some(pid), ..self }
    }

    /// The words that start `words` under this account.
    fn prefixed(&self, words: &[&str]) -> Vec<String> {
        let mut prefixed = Vec::new();
        if let Some(pid) = self.within {
            let directory = format!("--wdns={}", self.directory.display());
            let words =
                ["nsenter", &format!("--target={pid}"), "--net", "--mount", "--uts", &directory, "--"];
            prefixed.extend(words.map(str::to_owned));
        }
        if let Some(account) = self.account {
            let groups: Vec<_> = account.groups.iter().map(u32::to_string).collect();
            prefixed.extend(["setpriv".to_owned(), format!("--reuid={}", account.uid)]);
            prefixed.push(format!("--regid={}", account.gid));
            prefixed.push(match groups.is_empty() {
                true => "--clear-groups".to_owned(),
                false => format!("--groups={}", groups.join(",")),
            });
            prefixed.push("--".to_owned());
        }
        prefixed.extend(words.iter().map(|word| (*word).to_owned()));
        prefixed
    }

    /// Starts the program with pipes on its standard streams.
    pub fn spawn(&self, words: &[&str]) -> Result<Child> {
        self.spawn_on(words, [Stdio::piped(), Stdio::piped(), Stdio::piped()])
    }

    /// Starts the program with these standard streams: input, output, errors.
    pub fn spawn_on(&self, words: &[&str], [stdin, stdout, stderr]: [Stdio; 3]) -> Result<Child> {
        let prefixed = self.prefixed(words);
        let Some((program, arguments)) = prefixed.split_first() else { bail!("no program was named") };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.environment).current_dir(&self.directory);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        command.spawn().with_context(|| format!("start {words:?}"))
    }

    /// Runs the program to its end, or kills it at the limit.
    pub fn run(&self, words: &[&str]) -> Result<Outcome> {
        let mut child = self.spawn(words)?;
        let stdout = reader(child.stdout.take());
        let stderr = reader(child.stderr.take());
        if let Some(mut pipe) = child.stdin.take() {
            // A program need not read what it is given.
            let _ = pipe.write_all(&self.stdin);
        }
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if started.elapsed() > self.limit {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let ended = status.is_some();
        if !ended {
            child.kill()?;
        }
        let status = child.wait()?;
        let join = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
        let outcome = Outcome {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            status,
            stdout: join(stdout),
            stderr: join(stderr),
        };
        if ended { Ok(outcome) } else { bail!("killed after {:?}: {}", self.limit, outcome.describe()) }
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
