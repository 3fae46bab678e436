//! `setupRoot`: run by the batch system as root before a job. Exit status 0, or 1 with a sentence.

use shifter_setup::{options, prepare, say};
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match options::parse(std::env::args_os().skip(1), "UGuvmNVsh") {
        Err(fault) => Err(format!("{fault}\n{}", options::SETUP_USAGE)),
        Ok(options) if options.help => Ok(options::SETUP_USAGE.to_owned()),
        Ok(options) => match prepare::prepare(&options) {
            Ok(shown) => Ok(if options.verbose { shown } else { String::new() }),
            Err(failure) => Err(failure.to_string()),
        },
    };
    match done {
        Ok(text) => {
            use std::io::Write as _;
            let _closed = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("setupRoot: {failure}"));
            ExitCode::FAILURE
        }
    }
}
