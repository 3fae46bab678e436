//! `shifter-prologue`: run by a batch system's prologue as root before a job. Exit status 0 also where nothing was asked
//! for, or 1 with a sentence; then nothing is prepared, and containers of the job are built by each start.

use shifter_setup::{batch, say};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let done = match batch::read(words) {
        Err(fault) => Err(format!("{fault}\n{}", batch::PROLOGUE_USAGE)),
        Ok(job) if job.help => Ok(batch::PROLOGUE_USAGE.to_owned()),
        Ok(job) => match batch::prologue(&job) {
            Ok(shown) => Ok(if job.verbose { shown } else { String::new() }),
            Err(failure) => Err(format!("job {}: {failure}", job.key)),
        },
    };
    match done {
        Ok(text) => {
            use std::io::Write as _;
            let _closed = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("shifter-prologue: {failure}"));
            ExitCode::FAILURE
        }
    }
}
