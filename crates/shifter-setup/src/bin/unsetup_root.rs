//! `unsetupRoot`: run by the batch system as root after a job. Exit status 0, or 1 with a sentence for each thing that
//! could not be taken down.

use shifter_setup::options::{self, Options};
use shifter_setup::{prepare, say, teardown};
use shifter_sys::credentials::Caller;
use shifter_sys::lockdown::lock_down_for;
use std::process::ExitCode;

fn main() -> ExitCode {
    let faults = match options::parse(std::env::args_os().skip(1), "h") {
        Err(fault) => vec![format!("{fault}\n{}", options::UNSETUP_USAGE)],
        Ok(options) if options.help => {
            use std::io::Write as _;
            let _closed = std::io::stdout().write_all(options::UNSETUP_USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(options) => take_down(&options).unwrap_or_else(|failure| vec![failure.to_string()]),
    };
    faults.iter().for_each(|fault| say(&format!("unsetupRoot: {fault}")));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn take_down(options: &Options) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    const NOBODY: u32 = 65_534;
    let locked = lock_down_for(Caller::of_job(NOBODY, NOBODY, &[])?)?;
    let key = options.job.as_deref();
    Ok(teardown::all(key, || prepare::configuration(&locked, options.config.as_deref())))
}
