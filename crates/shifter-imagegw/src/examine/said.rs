//! What a program said last on its standard error, made fit for one line of a status message.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of the end is kept, bytes.
const KEPT: usize = 2048;

/// How much of that is told, characters.
const TOLD: usize = 400;

/// The end of a stream that is being read.
pub(crate) struct LastWords {
    kept: Arc<Mutex<Vec<u8>>>,
    thread: std::thread::JoinHandle<()>,
}

impl LastWords {
    /// Reads the stream in a thread, so that its writer never waits.
    pub(crate) fn listen(stream: Option<impl Read + Send + 'static>) -> LastWords {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let held = kept.clone();
        let thread = std::thread::spawn(move || {
            let Some(mut stream) = stream else { return };
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let mut kept = held.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        });
        LastWords { kept, thread }
    }

    /// The last lines, when the stream has ended, or when `patience` has.
    pub(crate) fn text(&self, patience: Duration) -> String {
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        last_lines(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The last lines as one, without control characters, as many as fit; of a longer last line, its end.
pub(crate) fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean = |line: &str| {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        line.trim().to_owned()
    };
    let mut told = String::new();
    for line in text.lines().rev().map(clean).filter(|line| !line.is_empty()) {
        let more = if told.is_empty() { line } else { format!("{line}; {told}") };
        let length = more.chars().count();
        if length > TOLD {
            if told.is_empty() {
                told = more.chars().skip(length - TOLD).collect();
            }
            break;
        }
        told = more;
    }
    if told.is_empty() { "it gave no reason".to_owned() } else { told }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn users_are_told_the_last_lines_and_terminals_are_spared() {
        let long = "x".repeat(1000);
        for (said, told) in [
            ("", "it gave no reason"),
            (" \n\n", "it gave no reason"),
            ("one\ntwo\n", "one; two"),
            ("a virus: \x1b[31mEICAR\x07 in /etc/x\r\n", "a virus:  [31mEICAR  in /etc/x"),
            (&format!("{long}\nlast"), "last"),
            (&long, &long[..TOLD]),
        ] {
            assert_eq!(last_lines(said.as_bytes()), told, "{said:?}");
        }
        assert_eq!(last_lines(b"\xff bad"), "\u{fffd} bad");
    }

    #[test]
    fn a_flood_is_read_and_only_its_end_is_kept() {
        let mut flood = "noise\n".repeat(1 << 20).into_bytes();
        flood.extend_from_slice(b"the reason\n");
        let words = LastWords::listen(Some(std::io::Cursor::new(flood)));
        let text = words.text(Duration::from_secs(60));
        assert!(text.ends_with("noise; the reason") && text.len() <= TOLD, "{text}");
        assert!(words.kept.lock().unwrap().len() <= KEPT);
    }
}
