//! MongoDB for gateways: `tools/mongowire.py`, which speaks its protocol, since no distribution has the server.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// A running server on the loopback address, gone with its value.
#[derive(Debug)]
pub struct Mongo {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

impl Mongo {
    /// Starts it on this port, or on one of its own where that is 0. Before the sandbox, which covers `/tmp` and `/home`,
    /// where sources and Python's packages may lie. Python is what `SHIFTER_TEST_PYTHON` names, with mongomock and
    /// pymongo, as `./test` sets it up.
    pub fn start(port: u16) -> Result<Self> {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/mongowire.py");
        let python = std::env::var_os("SHIFTER_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(python).arg(tool).args(["--port", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start setpriv")?;
        let mut started = Self { child, port };
        let mut line = String::new();
        if let Some(output) = started.child.stdout.take() {
            BufReader::new(output).read_line(&mut line).context("read what mongowire.py says")?;
        }
        let said = line.trim().strip_prefix("listening on ").and_then(|port| port.parse().ok());
        started.port = said.context(
            "mongowire.py did not start; it needs the Python packages mongomock and pymongo, in the Python that \
             SHIFTER_TEST_PYTHON names, and its port must be free",
        )?;
        Ok(started)
    }
}

impl Drop for Mongo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
