//! `shifter-nhc`: run as root by node health checks. Exit status 0, or 1 with one line that tells what is left of jobs.

use shifter_setup::leftovers::{self, USAGE};
use shifter_setup::{prepare, say};
use shifter_sys::credentials::Caller;
use shifter_sys::lockdown::lock_down_for;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut running, mut config) = (String::new(), None);
    for word in std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()) {
        match word.split_once('=') {
            Some(("--jobs", jobs)) => running = jobs.to_owned(),
            Some(("--config", path)) => config = Some(path.to_owned()),
            _ => {
                say(USAGE);
                return if word == "-h" || word == "--help" { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
        }
    }
    let running: Vec<&str> = running.split(',').filter(|job| !job.is_empty()).collect();
    let found = look(config.as_deref(), &running).unwrap_or_else(|failure| vec![failure.to_string()]);
    if found.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("shifter-nhc: {}", found.join(", ")));
    ExitCode::FAILURE
}

fn look(config: Option<&str>, running: &[&str]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    const NOBODY: u32 = 65_534;
    let locked = lock_down_for(Caller::of_job(NOBODY, NOBODY, &[])?)?;
    Ok(leftovers::findings(&prepare::configuration(&locked, config)?, running)?)
}
