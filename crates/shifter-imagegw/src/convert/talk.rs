//! The gateway's side of the talk with a child that works on hostile bytes: the job, what it asks for, what it answers,
//! and the time it has. Knows nothing of what the jobs are.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines, Take};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdout, Command};

use super::ConvertError;
use super::asked::{Supply, send};
use super::line::{Answer, write_job};

/// How long a child may take to end once nobody wants its work.
const ENDING: Duration = Duration::from_secs(3);

/// Most answers, bytes.
const MOST_ANSWERS: u64 = 64 << 20;

/// A child at work; dropping it ends the child.
pub(super) struct Talk {
    child: Child,
    /// Its standard input, and its lifeline.
    stream: UnixStream,
    lines: Lines<BufReader<Take<ChildStdout>>>,
    /// How long it may work.
    limit: Duration,
}

/// What a child wants to be heard.
enum Said {
    /// A layer, by number.
    Asks(usize),
    /// Entries and bytes that it worked on.
    Ended(u64, u64),
}

impl Talk {
    pub(super) fn start(mut command: Command, limit: Duration) -> io::Result<Self> {
        let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let lines = BufReader::new(stdout.take(MOST_ANSWERS)).lines();
        Ok(Self { child, stream: UnixStream::from_std(ours)?, lines, limit })
    }

    /// Hands over the job and listens until the end: entries and bytes. While the child waits for a layer, its time
    /// stands still.
    pub(super) async fn work(
        mut self,
        job: &(impl Serialize + Sync),
        mut supply: Option<&mut Supply<'_, '_>>,
        progress: &(dyn Fn(usize, u64) + Sync),
    ) -> Result<(u64, u64), ConvertError> {
        let mut left = self.limit;
        let Some(written) = within(&mut left, write_job(&mut self.stream, job)).await else {
            return Err(self.too_long().await);
        };
        unless_gone(written)?;
        loop {
            let Some(said) = within(&mut left, self.listen(progress)).await else {
                return Err(self.too_long().await);
            };
            let number = match said? {
                Said::Ended(entries, bytes) => return Ok((entries, bytes)),
                Said::Asks(number) => number,
            };
            let file = match &mut supply {
                Some(supply) => supply.layer(number).await?,
                None => return Err(ConvertError::Asks(number)),
            };
            unless_gone(send(&self.stream, &file).await)?;
        }
    }

    async fn listen(&mut self, progress: &(dyn Fn(usize, u64) + Sync)) -> Result<Said, ConvertError> {
        let mut answer = None;
        while let Some(line) = self.lines.next_line().await.map_err(ConvertError::Talk)? {
            match serde_json::from_str(&line) {
                Ok(Answer::Progress(layers, bytes)) => progress(layers, bytes),
                Ok(Answer::Asks(layer)) => return Ok(Said::Asks(layer)),
                other => answer = other.ok(),
            }
        }
        let status = self.child.wait().await.map_err(ConvertError::Talk)?;
        match answer {
            Some(Answer::Done { entries, bytes }) if status.success() => Ok(Said::Ended(entries, bytes)),
            Some(Answer::Failed(why)) => Err(ConvertError::Image(why)),
            Some(Answer::Needs(layer)) => Err(ConvertError::Needs(layer)),
            _ => Err(ConvertError::Silent(status)),
        }
    }

    /// Its lifeline goes, and what it started ends with it. If it does not end itself, being dropped does it.
    async fn too_long(&mut self) -> ConvertError {
        let _ = self.stream.shutdown().await;
        let _ = tokio::time::timeout(ENDING, self.child.wait()).await;
        ConvertError::TooLong(self.limit)
    }
}

/// What came of telling a child something. If it is gone, how it ended says more. A socket whose other end went before
/// it read everything says so by a reset, see unix(7).
pub(super) fn unless_gone(told: io::Result<()>) -> Result<(), ConvertError> {
    match told {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(())
        }
        told => told.map_err(ConvertError::Talk),
    }
}

/// Does this in the time that is left, and counts it; `None` if it took longer.
async fn within<T>(left: &mut Duration, work: impl Future<Output = T>) -> Option<T> {
    let begun = Instant::now();
    let done = tokio::time::timeout(*left, work).await;
    *left = left.saturating_sub(begun.elapsed());
    done.ok()
}
