//! A shell that stays root while the driver is an ordinary user: batch systems run `setupRoot` as root.

use anyhow::{Context as _, Result, bail};
use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

struct Shell {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// The shell; all copies are the same one. It ends with the driver.
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
        let (to, from) = (to.context("its stdin")?, BufReader::new(from.context("its stdout")?));
        Ok(Self(Rc::new(RefCell::new(Shell { _child: child, to, from }))))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, command: &str) -> Result<()> {
        let mut shell = self.0.borrow_mut();
        writeln!(shell.to, "{command} >/dev/null </dev/null; echo $?").context("write to root's shell")?;
        let mut line = String::new();
        shell.from.read_line(&mut line).context("read from root's shell")?;
        if line.trim() != "0" {
            bail!("{command} ended with status {}", line.trim());
        }
        Ok(())
    }
}
