//! Munge credentials of any uid, hundreds a second: one process that stays, instead of setpriv and munge for each.
//!
//! munged takes a client's ids from the kernel (unix(7), SO_PEERCRED: the effective ones), so a process of root's that
//! changes them mints for everybody.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use super::munged::Munged;
use super::sandbox::Sandbox;

/// Reads `UID PAYLOAD` lines, answers each with a credential.
const PROGRAM: &str = r#"
import ctypes, os, sys
munge = ctypes.CDLL("libmunge.so.2")
munge.munge_strerror.restype = ctypes.c_char_p
for line in sys.stdin:
    uid, payload = line.rstrip("\n").split(" ", 1)
    cred, body = ctypes.c_char_p(), payload.encode()
    os.setegid(int(uid)); os.seteuid(int(uid))
    error = munge.munge_encode(ctypes.byref(cred), None, body, len(body))
    os.seteuid(0); os.setegid(0)
    print("error: " + munge.munge_strerror(error).decode() if error else cred.value.decode(), flush=True)
"#;

/// A running minter, for threads to share.
#[derive(Debug)]
pub struct Minter {
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    child: Mutex<Child>,
}

impl Sandbox {
    /// Starts one for the munged that clients find by default; Python 3 runs it.
    pub fn minter(&self, _munged: &Munged) -> Result<Minter> {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig=KILL", "python3", "-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start python3")?;
        let stdin = child.stdin.take().context("the minter's input")?;
        let stdout = BufReader::new(child.stdout.take().context("the minter's output")?);
        Ok(Minter { pipes: Mutex::new((stdin, stdout)), child: Mutex::new(child) })
    }
}

impl Minter {
    /// A credential of this uid, whose gid is the same number; the payload has no newline.
    pub fn mint(&self, uid: u32, payload: &str) -> Result<String> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, stdout) = &mut *pipes;
        writeln!(stdin, "{uid} {payload}").context("ask the minter")?;
        let mut line = String::new();
        stdout.read_line(&mut line).context("hear the minter")?;
        ensure!(line.starts_with("MUNGE:"), "the minter says {line:?}");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Minter {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It ends with its input anyway.
        let _ = child.kill();
        let _ = child.wait();
    }
}
