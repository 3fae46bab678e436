//! Following a pull: ask, show, wait half a second, ask again, until the gateway is done with it.
//!
//! The request that starts a pull is also the one that polls it. There is no overall limit: large images take
//! their time, and the status tells whether anything happens. A gateway that cannot be reached for a while is
//! forgiven, because a restarted one goes on with its pulls.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use shifter_api::client::ClientError;
use shifter_api::wire::{Image, MISSING, status};

use crate::show;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two requests; `None` asks only once.
    interval: Option<Duration>,
    /// How long gateways may stay silent once one has answered.
    patience: Duration,
}

impl Pace {
    /// The original's interval, and a minute for a gateway to come back.
    pub(crate) const DEFAULT: Pace =
        Pace { interval: Some(Duration::from_millis(500)), patience: Duration::from_secs(60) };
    /// `pullnb`: one request.
    pub(crate) const ONCE: Pace = Pace { interval: None, patience: Duration::ZERO };
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// On a terminal: one line, rewritten, cut to the width (0: not cut).
    OneLine { columns: usize },
    /// Into a file or pipe: a line whenever the status changes.
    Changes,
    /// Verbose: a line per answer.
    EveryAnswer,
    /// Nothing.
    Silent,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The image can be used.
    Ready,
    /// The gateway is working on it.
    Going,
    /// It gave up, with this reason.
    Failed(String),
}

/// Reads the outcome from the gateway's record.
pub(crate) fn outcome(image: &Image) -> Outcome {
    let status = image.status.as_deref().unwrap_or(MISSING);
    match status {
        // SUCCESS is how very old records say READY.
        status::READY | "SUCCESS" => Outcome::Ready,
        status if status::is_in_progress(status) => Outcome::Going,
        status::FAILURE => Outcome::Failed(match image.status_message.as_deref() {
            // The original's gateway has no more to say than this.
            None | Some("" | "FAILED" | "FAILURE" | "Operation Failed") => {
                "the gateway gives no reason".to_owned()
            }
            Some(reason) => show::printable(reason),
        }),
        other => Outcome::Failed(format!("the gateway reports status {}", show::printable(other))),
    }
}

/// Asks until the pull is over (or once), showing each answer.
///
/// # Errors
/// If the first request fails, a later one is refused, or no gateway can be reached for the pace's patience.
pub(crate) fn follow(
    pace: &Pace,
    ask: &dyn Fn() -> Result<Image, ClientError>,
    progress: &mut Progress<'_>,
) -> anyhow::Result<Image> {
    let mut answered = false;
    let mut silent_since: Option<Instant> = None;
    loop {
        match ask() {
            Ok(image) => {
                (answered, silent_since) = (true, None);
                progress.show(&image)?;
                if pace.interval.is_none() || outcome(&image) != Outcome::Going {
                    progress.end()?;
                    return Ok(image);
                }
            }
            Err(error) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if !answered || !error.is_transient() || since.elapsed() >= pace.patience {
                    progress.end()?;
                    return Err(error.into());
                }
            }
        }
        std::thread::sleep(pace.interval.unwrap_or_default());
    }
}

/// The progress display.
pub(crate) struct Progress<'a> {
    out: &'a mut dyn Write,
    style: Style,
    image: String,
    /// What was shown last, without its time.
    last: Option<String>,
    /// The clock; tests have their own.
    now: fn() -> String,
}

impl<'a> Progress<'a> {
    /// Will show the pull of `image` (as `type:tag`) on `out`.
    pub(crate) fn new(out: &'a mut dyn Write, style: Style, image: String) -> Progress<'a> {
        Progress { out, style, image, last: None, now: show::now }
    }

    fn show(&mut self, image: &Image) -> io::Result<()> {
        let status = show::printable(image.status.as_deref().unwrap_or(MISSING));
        let mut text = format!("Pulling Image: {}, status: {status}", self.image);
        // The last line stays as scripts know it; only work in progress says more.
        let message = image.status_message.as_deref().filter(|m| !m.is_empty() && *m != status);
        if let (Outcome::Going, Some(message)) = (outcome(image), message) {
            text.push_str(&format!(" ({})", show::printable(message)));
        }
        // A pipe gets a line per status; how far the download has come would fill log files.
        let seen = if self.style == Style::Changes { status } else { text.clone() };
        let is_new = self.last.as_ref() != Some(&seen);
        self.last = Some(seen);
        let line = format!("{} {text}", (self.now)());
        match self.style {
            Style::Silent => return Ok(()),
            Style::Changes if !is_new => return Ok(()),
            Style::Changes | Style::EveryAnswer => writeln!(self.out, "{line}")?,
            Style::OneLine { columns } => {
                // A line that wraps could not be taken back.
                let width = if columns == 0 { usize::MAX } else { columns };
                let line: String = line.chars().take(width).collect();
                write!(self.out, "\r\x1b[2K{line}")?;
            }
        }
        self.out.flush()
    }

    /// Ends the rewritten line, if there is one.
    fn end(&mut self) -> io::Result<()> {
        if self.last.is_some() && matches!(self.style, Style::OneLine { .. }) {
            self.last = None;
            writeln!(self.out)?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
