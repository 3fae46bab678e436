//! Daemons of a sandbox: started with a log file, waited for, stopped by SIGTERM, never left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a daemon may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names a running daemon of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DaemonId(pub(super) usize);

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) log: PathBuf,
    child: Child,
}

/// What to start: words, and whose it is.
pub(super) struct Start<'a> {
    pub(super) name: &'a str,
    pub(super) words: &'a [&'a str],
    pub(super) ids: (u32, u32),
    pub(super) environment: &'a [(&'a str, &'a str)],
}

impl Daemon {
    /// Starts a daemon as `ids`, writing both output streams to `log`; the kernel kills it with the test.
    pub(super) fn start(start: &Start<'_>, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", start.ids.0)).arg(format!("--regid={}", start.ids.1));
        command.args(["--clear-groups", "--pdeathsig=KILL", "--"]).args(start.words);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(start.environment.iter().copied()).current_dir("/");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", start.name))?;
        Ok(Self { name: start.name.to_owned(), log: log.to_owned(), child })
    }

    /// Waits until `ready` says so; an early end, or silence, is an error with the log.
    pub(super) fn wait_until(&mut self, ready: &dyn Fn() -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}); its log:\n{}", self.name, self.log_text());
            }
            if ready() {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!("{} was not ready after {PATIENCE:?}; its log:\n{}", self.name, self.log_text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log_text(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGTERM, and an error unless it ends in time; it is gone afterwards either way.
    pub(super) fn stop(mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("{} did not end within {PATIENCE:?} of SIGTERM; its log:\n{}", self.name, self.log_text())
    }

    /// SIGKILL, as a crash would.
    pub(super) fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("look for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Whether something accepts connections there.
pub(super) fn accepts(port: u16) -> bool {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}
