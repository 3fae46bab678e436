//! `unsetupRoot`: run by the batch system as root after a job. Exit status 0, or 1 with a sentence for each thing that
//! could not be taken down.

use shifter_setup::options;
use shifter_setup::{say, teardown};
use std::process::ExitCode;

fn main() -> ExitCode {
    let faults = match options::parse(std::env::args_os().skip(1), "h") {
        Err(fault) => vec![format!("{fault}\n{}", options::UNSETUP_USAGE)],
        Ok(options) if options.help => {
            use std::io::Write as _;
            let _closed = std::io::stdout().write_all(options::UNSETUP_USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(options) => teardown::all(options.job.as_deref(), options.config.as_deref()),
    };
    faults.iter().for_each(|fault| say(&format!("unsetupRoot: {fault}")));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
