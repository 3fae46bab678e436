//! `shifter-epilogue`: run by a batch system's epilogue as root after a job. Exit status 0, or 1 with a sentence for
//! each thing that could not be taken down.

use shifter_setup::batch;
use shifter_setup::{say, teardown};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    // Batch systems name the user too, which decides nothing.
    words.push("-".to_owned());
    let faults = match batch::read(words) {
        Err(fault) => vec![format!("{fault}\n{}", batch::EPILOGUE_USAGE)],
        Ok(job) if job.help => {
            use std::io::Write as _;
            let _closed = std::io::stdout().write_all(batch::EPILOGUE_USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(job) => teardown::all(Some(&job.key), job.config.as_deref()),
    };
    faults.iter().for_each(|fault| say(&format!("shifter-epilogue: {fault}")));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
