//! What the program says: errors and explanations on standard error, help on standard output. Writers that do
//! not panic, since standard streams may be closed or broken.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::Write;
use std::time::Instant;

/// Prints to standard output.
pub(crate) fn print(text: &str) {
    let _closed_is_the_callers_choice = std::io::stdout().write_all(text.as_bytes());
}

/// One error, on standard error, or something the user should know though it stops nothing.
pub(crate) fn error(failure: &dyn Display) {
    say(&format!("shifter: {failure}\n"));
}

/// The fault first, then how it is done right.
pub(crate) fn usage_error(fault: &dyn Display, usage: &str) {
    say(&format!("shifter: {fault}\n{usage}"));
}

fn say(text: &str) {
    let _closed_is_the_callers_choice = std::io::stderr().write_all(text.as_bytes());
}

/// The explanations of `--verbose`, with the time since the start and each step's own. They are kept until
/// [`Verbose::flush`]: whoever holds the other end of a stream can make its writer wait for ever, and a writer
/// that is still root is one that its caller cannot kill and that no limit on the caller's processes counts.
pub(crate) struct Verbose {
    /// When it began and when the last line was kept; without `--verbose` no clock is looked at.
    times: Option<(Instant, Cell<Instant>)>,
    text: RefCell<String>,
}

impl Verbose {
    pub(crate) fn new(on: bool) -> Self {
        let times = on.then(Instant::now).map(|now| (now, Cell::new(now)));
        Self { times, text: RefCell::default() }
    }

    /// Prints what was kept.
    pub(crate) fn flush(&self) {
        say(&self.text.take());
    }

    pub(crate) fn say(&self, what: &str, object: &str) {
        if let Some((start, last)) = &self.times {
            last.set(Instant::now());
            let line = format!("{:>8} µs  {what}{object}\n", start.elapsed().as_micros());
            self.text.borrow_mut().push_str(&line);
        }
    }

    /// With the time since the line before.
    pub(crate) fn step(&self, step: &dyn Display) {
        if let Some((_, last)) = &self.times {
            self.say("", &format!("{step}  [{} µs]", last.get().elapsed().as_micros()));
        }
    }

    pub(crate) fn closed_descriptors(&self, numbers: &[i32]) {
        for number in numbers {
            self.say("closed     ", &format!("descriptor {number}: it leads out of the container"));
        }
    }

    pub(crate) fn warnings(&self, warnings: &[(usize, String)]) {
        for (line, text) in warnings {
            self.say("udiRoot.conf ", &format!("line {line}: {text}"));
        }
    }
}
