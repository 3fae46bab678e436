//! One connection to one host by OpenSSH's client: an ssh whose own session is SFTP, and which takes further ones for
//! commands through its control socket. It ends with this process, whatever becomes of it, since its input ends then.
//!
//! Sources: ssh(1), ssh_config(5).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::Account;
use super::quote;
use super::sftp::{Session, SftpError};

/// Longest wait for a session to begin; its parts have limits of their own, which sites may set.
const CONNECTING: Duration = Duration::from_secs(60);

/// Longest wait for what ssh says of its own end.
const ENDING: Duration = Duration::from_secs(2);

/// Most bytes that are read of what a command prints.
const MOST_OUTPUT: u64 = 64 << 10;

/// `sun_path` has 108 bytes, and ssh appends 17 while it makes the socket.
const LONGEST_SOCKET: usize = 88;

/// Why something did not work on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) why: String,
    /// Whether it may go well the next time.
    pub(crate) is_passing: bool,
}

impl Fault {
    pub(crate) fn lasting(why: impl Into<String>) -> Self {
        Fault { why: why.into(), is_passing: false }
    }

    pub(crate) fn passing(why: impl Into<String>) -> Self {
        Fault { why: why.into(), is_passing: true }
    }
}

/// What ssh said last; of what it says, only this is of use to a person.
type Said = Arc<Mutex<String>>;

/// How hosts are reached.
#[derive(Clone, Debug)]
pub(crate) struct Ssh {
    program: PathBuf,
    account: Account,
    /// Where control sockets are; none where their names would be too long, and each command connects on its own.
    sockets: Option<PathBuf>,
}

impl Ssh {
    /// `sockets` is a directory of ours that nobody else may enter.
    pub(crate) fn new(program: PathBuf, account: Account, sockets: &Path) -> Ssh {
        let is_short = sockets.as_os_str().len() + 18 <= LONGEST_SOCKET;
        Ssh { program, account, sockets: is_short.then(|| sockets.to_owned()) }
    }

    /// ssh with the options that must hold, the site's, and our wishes, in this order: the first that says something counts.
    fn command(&self, host: &str, control: Option<&Path>, is_master: bool, is_sftp: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-T");
        match control {
            // Percent signs stand for things in names of files.
            Some(path) => command.arg("-S").arg(path.display().to_string().replace('%', "%%")),
            None => command.args(["-S", "none"]),
        };
        let master = if is_master && control.is_some() { "ControlMaster=yes" } else { "ControlMaster=no" };
        for option in [
            "BatchMode=yes",
            master,
            "ControlPersist=no",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
            "RemoteCommand=none",
            "RequestTTY=no",
        ] {
            command.args(["-o", option]);
        }
        command.args(&self.account.options);
        if let Some(key) = &self.account.key {
            command.arg("-i").arg(key.display().to_string().replace('%', "%%"));
        }
        for option in ["ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=3"] {
            command.args(["-o", option]);
        }
        command.args(["-l", &self.account.username]);
        if is_sftp {
            command.arg("-s");
        }
        command.arg("--").arg(host);
        if is_sftp {
            command.arg("sftp");
        }
        command.env("LC_ALL", "C").kill_on_drop(true).stderr(Stdio::piped());
        command
    }
}

/// A connection.
pub(crate) struct Connection {
    pub(crate) sftp: Session,
    ssh: Ssh,
    host: String,
    child: tokio::sync::Mutex<Child>,
    said: Said,
    control: Option<PathBuf>,
}

/// What a command on a host came to.
#[derive(Debug)]
pub(crate) struct Output {
    /// None where a signal ended it; 255 also where ssh failed.
    pub(crate) status: Option<i32>,
    /// Its beginning.
    pub(crate) stdout: Vec<u8>,
    /// The last line that it or ssh wrote to standard error.
    pub(crate) said: String,
}

impl Connection {
    pub(crate) async fn open(ssh: &Ssh, host: &str) -> Result<Connection, Fault> {
        let control = ssh
            .sockets
            .as_ref()
            .map(|directory| directory.join(format!("{:016x}", rand::Rng::random::<u64>(&mut rand::rng()))));
        let mut child = ssh
            .command(host, control.as_deref(), true, true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Fault::lasting(format!("starting {} failed: {error}", ssh.program.display())))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Fault::lasting("ssh has no pipes"));
        };
        let said = Said::default();
        let reading = tokio::spawn(listen(stderr, said.clone(), host.to_owned()));
        match tokio::time::timeout(CONNECTING, Session::start(stdin, stdout)).await {
            Ok(Ok(sftp)) => {
                if let Ok(mut said) = said.lock() {
                    // Greetings of the site's.
                    said.clear();
                }
                let child = tokio::sync::Mutex::new(child);
                Ok(Connection { sftp, ssh: ssh.clone(), host: host.to_owned(), child, said, control })
            }
            Ok(Err(SftpError::Lost)) => {
                let ended = tokio::time::timeout(ENDING, child.wait()).await;
                let _ = tokio::time::timeout(ENDING, reading).await;
                Err(end(&said, ended.ok().and_then(Result::ok)))
            }
            Ok(Err(error)) => Err(Fault::lasting(error.to_string())),
            Err(_) => Err(Fault::passing(format!("no session began within {} s", CONNECTING.as_secs()))),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.sftp.is_over()
    }

    /// What a failed request means: that ssh has ended, where it has, with what it says of it.
    pub(crate) async fn fault(&self, doing: &str, error: &SftpError) -> Fault {
        match error {
            SftpError::Lost => {
                let mut child = self.child.lock().await;
                let ended = tokio::time::timeout(ENDING, child.wait()).await;
                let fault = end(&self.said, ended.ok().and_then(Result::ok));
                // Whoever was let in once was not refused, so it may go well again.
                Fault::passing(format!("{doing} failed: the connection ended, {}", fault.why))
            }
            SftpError::Silent => Fault::passing(format!("{doing} failed: {error}")),
            _ => Fault::lasting(format!("{doing} failed: {error}")),
        }
    }

    /// Runs a program as [`run`](Self::run) does, gives it a line, and has `read` take what it prints, in a thread. When
    /// nothing comes for so long, reading fails; a future that is dropped ends the program and with it the reading.
    pub(crate) async fn stream<T: Send + 'static>(
        &self,
        words: &[&str],
        line: Vec<u8>,
        silence: Duration,
        read: impl FnOnce(&mut dyn std::io::BufRead) -> T + Send + 'static,
    ) -> Result<(T, Output), Fault> {
        let starting = |error: std::io::Error| {
            Fault::lasting(format!("starting {} failed: {error}", self.ssh.program.display()))
        };
        let (mut command, said) = (self.program(words)?, Said::default());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(starting)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Fault::lasting("ssh has no pipes"));
        };
        let hearing = tokio::spawn(listen(stderr, said.clone(), self.host.clone()));
        let stdout = Patient { from: stdout.into_owned_fd().map_err(starting)?.into(), silence };
        let reading = tokio::task::spawn_blocking(move || {
            // Dropped with its end of the pipe when there is no more to be read.
            read(&mut std::io::BufReader::with_capacity(256 << 10, stdout))
        });
        // Who does not take it has said why, or is silent.
        let _ = tokio::time::timeout(silence, stdin.write_all(&line)).await;
        drop(stdin);
        let value = reading.await.map_err(|_| Fault::passing("the gateway is shutting down"))?;
        let status = tokio::time::timeout(ENDING, child.wait()).await.ok().and_then(Result::ok);
        let _ = tokio::time::timeout(ENDING, hearing).await;
        let said = said.lock().map(|said| said.clone()).unwrap_or_default();
        let status = status.and_then(|status| status.code());
        Ok((value, Output { status, stdout: Vec::new(), said }))
    }

    /// The ssh that runs a program on the host.
    fn program(&self, words: &[&str]) -> Result<Command, Fault> {
        let Some(line) = quote::command_line(words) else {
            return Err(Fault::lasting("a name has control characters, which cannot be given to a shell"));
        };
        let mut command = self.ssh.command(&self.host, self.control.as_deref(), false, false);
        command.arg(line);
        Ok(command)
    }

    /// Runs a program on the host with exactly these arguments, without input and without a terminal. It is found and
    /// started by the account's shell, to which the words are quoted; words with control characters are refused.
    ///
    /// Fails where ssh cannot be run or the time is over; how the program ended is the caller's business.
    pub(crate) async fn run(&self, words: &[&str], limit: Duration) -> Result<Output, Fault> {
        let mut child =
            self.program(words)?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| {
                Fault::lasting(format!("starting {} failed: {error}", self.ssh.program.display()))
            })?;
        let said = Said::default();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reading = async {
            let mut bytes = Vec::new();
            if let Some(stdout) = stdout {
                let mut stdout = stdout.take(MOST_OUTPUT);
                // What was read until then counts.
                let _ = stdout.read_to_end(&mut bytes).await;
                let _ = tokio::io::copy(stdout.get_mut(), &mut tokio::io::sink()).await;
            }
            bytes
        };
        let hearing = async {
            if let Some(stderr) = stderr {
                listen(stderr, said.clone(), self.host.clone()).await;
            }
        };
        let all = async { tokio::join!(reading, hearing, child.wait()) };
        match tokio::time::timeout(limit, all).await {
            Ok((stdout, (), Ok(status))) => {
                let said = said.lock().map(|said| said.clone()).unwrap_or_default();
                Ok(Output { status: status.code(), stdout, said })
            }
            Ok((_, (), Err(error))) => Err(Fault::lasting(format!("waiting for ssh failed: {error}"))),
            Err(_) => Err(Fault::passing(format!(
                "{} did not end within {} s",
                words.first().copied().unwrap_or_default(),
                limit.as_secs()
            ))),
        }
    }
}

/// Reads what comes in time.
struct Patient {
    from: std::fs::File,
    silence: Duration,
}

impl std::io::Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut waited = [PollFd::new(&self.from, PollFlags::IN)];
        let limit = rustix::time::Timespec::try_from(self.silence).map_err(std::io::Error::other)?;
        match poll(&mut waited, Some(&limit))? {
            0 => Err(std::io::ErrorKind::TimedOut.into()),
            _ => self.from.read(buffer),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // ssh does so itself unless it is killed.
        let _ = self.control.as_ref().map(std::fs::remove_file);
    }
}

/// Keeps the last line that is said, in printable characters.
async fn listen(stream: impl AsyncRead + Unpin, said: Said, host: String) {
    const LONGEST: u64 = 2000;
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match (&mut stream).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line: String =
            line.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(300).collect();
        if line.is_empty() {
            continue;
        }
        tracing::debug!(host, line, "ssh says");
        if let Ok(mut said) = said.lock() {
            *said = line;
        }
    }
}

/// What the end of an ssh means. Only what nobody but a person can put right is not tried again.
fn end(said: &Said, status: Option<std::process::ExitStatus>) -> Fault {
    const LASTING: [&str; 9] = [
        "Permission denied",
        "Host key verification failed",
        "Too many authentication failures",
        "Name or service not known",
        "Bad configuration option",
        "no matching ",
        "Load key ",
        "not accessible",
        "subsystem request failed",
    ];
    let line = said.lock().map(|said| said.clone()).unwrap_or_default();
    let is_passing = !LASTING.iter().any(|sign| line.contains(sign));
    let why = match (line.is_empty(), status) {
        (false, _) => format!("ssh says: {line}"),
        (true, Some(status)) => format!("ssh said nothing and ended with {status}"),
        (true, None) => "ssh said nothing".to_owned(),
    };
    Fault { why, is_passing }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn words(command: &Command) -> Vec<String> {
        command.as_std().get_args().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_must_hold_stands_before_the_site_s_options_and_what_is_wished_behind_them() {
        let account = Account {
            hosts: vec!["h".to_owned()],
            username: "-u".to_owned(),
            key: Some("/k%".into()),
            options: vec!["-o".to_owned(), "ConnectTimeout=1".to_owned()],
            fasthash: String::new(),
        };
        let ssh = Ssh::new("ssh".into(), account, Path::new("/s"));
        let all = words(&ssh.command("-h", Some(Path::new("/s/%x")), true, true));
        let place = |word: &str| all.iter().position(|known| known == word).unwrap();
        assert!(place("BatchMode=yes") < place("ConnectTimeout=1"));
        assert!(place("ControlMaster=yes") < place("ConnectTimeout=1"));
        assert!(place("ConnectTimeout=1") < place("ConnectTimeout=15"));
        assert_eq!(all[..3], ["-T", "-S", "/s/%%x"]);
        assert_eq!(all[all.len() - 6..], ["-l", "-u", "-s", "--", "-h", "sftp"]);
        assert!(all.windows(2).any(|pair| pair == ["-i", "/k%%"]));
    }

    #[test]
    fn sockets_whose_names_would_be_too_long_are_done_without() {
        let none = String::new();
        let account =
            Account { hosts: vec![], username: none.clone(), key: None, options: vec![], fasthash: none };
        let deep = format!("/{}", "x".repeat(80));
        let ssh = Ssh::new("ssh".into(), account, Path::new(&deep));
        assert!(ssh.sockets.is_none());
        assert!(words(&ssh.command("h", None, true, true)).windows(2).any(|pair| pair == ["-S", "none"]));
    }

    #[test]
    fn only_what_a_person_must_put_right_is_not_tried_again() {
        for (line, is_passing) in [
            ("u@h: Permission denied (publickey).", false),
            ("Host key verification failed.", false),
            ("ssh: Could not resolve hostname h: Name or service not known", false),
            ("ssh: Could not resolve hostname h: Temporary failure in name resolution", true),
            ("ssh: connect to host h port 22: Connection refused", true),
            ("Timeout, server h not responding.", true),
            ("", true),
        ] {
            let fault = end(&Said::new(Mutex::new(line.to_owned())), None);
            assert_eq!(fault.is_passing, is_passing, "{line}");
            assert!(fault.why.contains(line));
        }
    }
}
