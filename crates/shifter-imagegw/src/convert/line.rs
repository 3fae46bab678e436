//! What the gateway and its children say to each other: a job on one line, lines of progress, and how it ended. Knows
//! nothing of what the jobs are.

use std::io::{BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};

use super::ConvertError;
use super::asked::Files;
use super::talk::unless_gone;
use crate::confine::{self, Reach};

/// Longest job, bytes.
const LONGEST_JOB: u64 = 4 << 20;

/// A job as it is handed over.
#[derive(Serialize, Deserialize)]
struct Line<J> {
    /// The gateway's version: an upgrade may have replaced the binary under a running gateway.
    version: String,
    #[serde(flatten)]
    job: J,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Layers begun, bytes of their files read.
    Progress(usize, u64),
    /// This layer, by number, is to be handed over.
    Asks(usize),
    Done {
        entries: u64,
        bytes: u64,
    },
    /// This layer, by number, cannot be taken from where it was remembered to be.
    Needs(usize),
    Failed(String),
}

/// Writes the job to a child's standard input; the pipe that comes back is its lifeline.
pub(crate) async fn hand_over(
    child: &mut Child,
    job: &impl Serialize,
) -> Result<Option<ChildStdin>, ConvertError> {
    let mut lifeline = child.stdin.take();
    if let Some(stdin) = &mut lifeline {
        unless_gone(write_job(stdin, job).await)?;
    }
    Ok(lifeline)
}

pub(super) async fn write_job(
    to: &mut (impl AsyncWrite + Unpin),
    job: &impl Serialize,
) -> std::io::Result<()> {
    let line = Line { version: env!("CARGO_PKG_VERSION").to_owned(), job };
    let mut line = serde_json::to_vec(&line)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await
}

/// Tells the gateway how the work ended: entries and bytes, or why not. Returns the exit status.
pub(crate) fn answer(result: Result<(u64, u64), String>) -> u8 {
    end(&match result {
        Ok((entries, bytes)) => Answer::Done { entries, bytes },
        Err(why) => Answer::Failed(why),
    })
}

/// Tells the gateway the last there is to say. Returns the exit status.
pub(super) fn end(answer: &Answer) -> u8 {
    u8::from(tell(answer).is_err() || !matches!(answer, Answer::Done { .. }))
}

pub(super) fn tell(answer: &Answer) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(answer)?)
}

/// Reads the one line that says what to do.
pub(crate) fn read_job<J: DeserializeOwned>() -> Result<J, String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST_JOB)
        .read_line(&mut line)
        .map_err(|error| format!("reading the conversion job failed: {error}"))?;
    let line: Line<J> =
        serde_json::from_str(&line).map_err(|error| format!("the conversion job is malformed: {error}"))?;
    if line.version != env!("CARGO_PKG_VERSION") {
        return Err(format!(
            "the gateway's binary was replaced (version {} runs, {} is installed); restart the gateway",
            line.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    Ok(line.job)
}

/// Shuts this process in and ends it when the gateway is gone: nobody wants its work any more then.
pub(crate) fn shut_in(reach: &Reach) -> Result<(), String> {
    confine::confine(reach)?;
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        go();
    });
    Ok(())
}

/// The same, where standard input is a socket on which files come.
pub(super) fn shut_in_with_files(reach: &Reach) -> Result<Files, String> {
    confine::confine(reach)?;
    Ok(Files::listen(go))
}

fn go() {
    // A tool's processes; our own writer has none, and may not even look.
    let _ = crate::offspring::end_all();
    std::process::exit(3);
}
