//! Following a pull or an import: ask, show, wait, ask again, until the gateway is done with it.
//!
//! The request that starts a pull is also the one that polls it; our gateway keeps it until there is something to
//! tell, an original's answers at once and is asked every half second. There is no overall limit: large images take
//! their time, and the status tells whether anything happens. A gateway that cannot be reached for a while is
//! forgiven, because a restarted one goes on with its pulls.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use shifter_api::client::ClientError;
use shifter_api::wire::{DENIED, Image, MISSING, Pulled, status};

use crate::show;

/// Asks how the pull stands; the text is the state that was seen last.
pub(crate) type Ask<'a> = dyn Fn(&str) -> Result<Pulled, ClientError> + 'a;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two requests; `None` asks only once.
    interval: Option<Duration>,
    /// Seconds that the gateway may keep one request, if it can.
    hold: u64,
    /// How long gateways may stay silent once one has answered.
    patience: Duration,
}

impl Pace {
    /// `pullnb`: one request.
    pub(crate) const ONCE: Pace = Pace { interval: None, hold: 0, patience: Duration::ZERO };

    /// The original's interval, and a minute for a gateway to come back. A gateway of ours is asked to answer when the
    /// next step begins, well within the time limit of one request; for somebody who watches, every second, and for one who
    /// wants to know of the layers, every five.
    pub(crate) fn waiting(style: Style, limit: Option<Duration>) -> Pace {
        let longest = match style {
            Style::OneLine { .. } => 1,
            Style::EveryAnswer => 5,
            Style::Changes | Style::Silent => 30,
        };
        let hold = limit.map_or(longest, |limit| (limit.as_secs() / 2).clamp(1, longest));
        Pace { interval: Some(Duration::from_millis(500)), hold, patience: Duration::from_secs(60) }
    }

    /// What is to be sent for a held request; also where none is to be held, since it tells who begins from who follows.
    pub(crate) fn wait<'s>(&self, seen: &'s str) -> Option<(u64, &'s str)> {
        Some((self.hold, seen))
    }
}

/// Longest pause between requests to gateways that do not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Shortest time between two answers of a gateway that says when something changed: enough to see the bytes run.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// On a terminal: one line, rewritten, cut to the width (0: not cut).
    OneLine { columns: usize },
    /// Into a file or pipe: a line whenever the status changes.
    Changes,
    /// Verbose: a line per answer, and one for each layer that is worked on.
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
    /// The registry gives it to others only, with this reason.
    Denied(String),
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
        status::FAILURE => match image.status_message.as_deref() {
            // The original's gateway has no more to say than this.
            None | Some("" | "FAILED" | "FAILURE" | "Operation Failed") => {
                Outcome::Failed("the gateway gives no reason".to_owned())
            }
            Some(reason) => match reason.strip_prefix(DENIED) {
                Some(reason) => Outcome::Denied(show::printable(reason)),
                None => Outcome::Failed(show::printable(reason)),
            },
        },
        other => Outcome::Failed(format!("the gateway reports status {}", show::printable(other))),
    }
}

/// What the gateway adds to READY, such as that a private image is the caller's alone.
pub(crate) fn hint(image: &Image) -> Option<String> {
    let said = image.status_message.as_deref()?;
    // Of ours and of an original: no more than the status.
    let is_news = !matches!(said, "" | status::READY | "SUCCESS" | "Image is ready" | "Transferring image");
    (outcome(image) == Outcome::Ready && is_news).then(|| show::printable(said))
}

/// Asks until the pull is over (or once), showing each answer.
///
/// # Errors
/// If the first request fails, a later one is refused, or no gateway can be reached for the pace's patience.
pub(crate) fn follow(pace: &Pace, ask: &Ask<'_>, progress: &mut Progress<'_>) -> anyhow::Result<Image> {
    let mut answered = false;
    let mut silent_since: Option<Instant> = None;
    let mut seen = String::new();
    let mut pause = pace.interval.unwrap_or_default();
    loop {
        let asked = Instant::now();
        match ask(&seen) {
            Ok(pulled) => {
                (answered, silent_since) = (true, None);
                progress.show(&pulled)?;
                if pace.interval.is_none() || outcome(&pulled.image) != Outcome::Going {
                    progress.end()?;
                    return Ok(pulled.image);
                }
                pause = match pulled.state {
                    // It answers when there is something to tell; an answer with nothing new was a time-out.
                    Some(state) if state != seen || asked.elapsed() > SHORTEST_PAUSE => {
                        seen = state;
                        SHORTEST_PAUSE.saturating_sub(asked.elapsed())
                    }
                    _ => pace.interval.unwrap_or_default(),
                };
            }
            Err(error) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if !answered || !error.is_transient() || since.elapsed() >= pace.patience {
                    progress.end()?;
                    return Err(error.into());
                }
                // A thousand clients of a gateway that comes back should not come all at once.
                pause = jittered((pause * 2).max(pace.interval.unwrap_or_default()).min(LONGEST_PAUSE));
            }
        }
        std::thread::sleep(pause);
    }
}

/// Three to five quarters of the pause.
fn jittered(pause: Duration) -> Duration {
    // std's hasher keys are random for every instance.
    let quarter = u32::try_from(RandomState::new().hash_one(0) % 512).unwrap_or(256);
    pause * 3 / 4 + pause * quarter / 1024
}

/// The progress display.
pub(crate) struct Progress<'a> {
    out: &'a mut dyn Write,
    style: Style,
    /// What is being done to which image.
    doing: String,
    /// What was shown last, without its time.
    last: Option<String>,
    /// The clock; tests have their own.
    now: fn() -> String,
}

impl<'a> Progress<'a> {
    /// Will show on `out` how it goes with `doing`, `Pulling Image: type:tag`.
    pub(crate) fn new(out: &'a mut dyn Write, style: Style, doing: String) -> Progress<'a> {
        Progress { out, style, doing, last: None, now: show::now }
    }

    fn show(&mut self, pulled: &Pulled) -> io::Result<()> {
        let image = &pulled.image;
        let status = show::printable(image.status.as_deref().unwrap_or(MISSING));
        let mut text = format!("{}, status: {status}", self.doing);
        // The last line stays as scripts know it; only work in progress says more.
        let message = image.status_message.as_deref().filter(|m| !m.is_empty() && *m != status);
        let progress = pulled.progress.as_ref().filter(|progress| !progress.stage.is_empty());
        let message = progress.map(show::progress).or(message.map(show::printable));
        if let (Outcome::Going, Some(message)) = (outcome(image), message) {
            text.push_str(&format!(" ({message})"));
        }
        // A pipe gets a line per status; how far the download has come would fill log files.
        let seen = if self.style == Style::Changes { status } else { text.clone() };
        let is_new = self.last.as_ref() != Some(&seen);
        self.last = Some(seen);
        let line = format!("{} {text}", (self.now)());
        match self.style {
            Style::Silent => return Ok(()),
            Style::Changes if !is_new => return Ok(()),
            Style::Changes => writeln!(self.out, "{line}")?,
            Style::EveryAnswer => {
                writeln!(self.out, "{line}")?;
                for layer in progress.map(show::layers).unwrap_or_default() {
                    writeln!(self.out, "    {layer}")?;
                }
            }
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
