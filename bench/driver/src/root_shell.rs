//! A shell that stays root while the driver is an ordinary user: batch systems run `setupRoot` as root, and daemons
//! run under accounts that are not the user's.

use anyhow::{Context as _, Result, bail};
use bench_layout::BASE;
use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

struct Shell {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Drop for Shell {
    /// At the end of its input it stops the daemons, and only then it ends.
    fn drop(&mut self) {
        drop(self.to.take());
        let _whatever_its_status = self.child.wait();
    }
}

/// The shell; all copies are the same one. It ends with the last of them.
#[derive(Clone)]
pub(crate) struct RootShell(Rc<RefCell<Shell>>);

impl RootShell {
    /// Starts it; this process must be root still.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new("/bin/sh")
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start root's shell")?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let from = BufReader::new(from.context("its stdout")?);
        let shell = Self(Rc::new(RefCell::new(Shell { child, to, from })));
        shell.run("daemons=; trap 'kill $daemons 2>/dev/null; wait' EXIT; trap exit HUP INT TERM")?;
        Ok(shell)
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, command: &str) -> Result<()> {
        let mut shell = self.0.borrow_mut();
        let to = shell.to.as_mut().context("root's shell has ended")?;
        writeln!(to, "{command} >/dev/null </dev/null; echo $?").context("write to root's shell")?;
        let mut line = String::new();
        shell.from.read_line(&mut line).context("read from root's shell")?;
        if line.trim() != "0" {
            bail!("{command} ended with status {}", line.trim());
        }
        Ok(())
    }

    /// Starts a command in the background until the shell ends; returns where what it says is kept.
    pub(crate) fn start_daemon(&self, name: &str, command: &str) -> Result<String> {
        let log = format!("{BASE}/{name}.log");
        self.run(&format!("{command} >{log} 2>&1 </dev/null & daemons=\"$daemons $!\"; true"))?;
        Ok(log)
    }
}
