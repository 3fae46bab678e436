//! `bench/pull`'s driver: pulls the same image by the gateway and by the tools that make an image today, and gives
//! its layers to the floor program, one after the other in every round; prints medians, spreads and ratios.
//!
//! Everything lies in the test suite's sandbox and goes with it. It builds nothing (the script does) and judges
//! nothing: the figures are for a reader, or for a program that reads the last line.

mod compare;
mod corpus;
mod layer;
mod memory;
mod peers;
mod process;
mod report;
mod shape;
mod site;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench/pull: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "it mounts in a mount namespace of its own and runs daemons as their own users, so run it as root"
        );
    }
    match options.memory {
        true => memory::run(),
        false => compare::run(&options.floor, &options.effort),
    }
}

/// How large an image, and how long.
pub(crate) struct Effort {
    /// Files of the image.
    pub(crate) files: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Whether other tools are measured too.
    pub(crate) peers: bool,
    /// Most rounds.
    pub(crate) rounds: usize,
    /// The time after which nothing is begun that would not fit.
    pub(crate) limit: Duration,
    /// When the time began.
    pub(crate) begun: Instant,
}

struct Options {
    floor: Vec<u8>,
    effort: Effort,
    memory: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut floor, mut full, mut memory, mut ours) = (None, false, false, false);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--full" => full = true,
                "--memory" => memory = true,
                "--ours" => ours = true,
                "--floor" => floor = Some(words.next().context("--floor PATH is missing")?),
                _ => bail!("unknown option {word}; the options are --full, --ours and --memory"),
            }
        }
        // Read now: the sandbox hides where it lies.
        let floor = floor.context("--floor PATH is missing")?;
        let floor = std::fs::read(&floor).with_context(|| format!("read {floor}"))?;
        let begun = Instant::now();
        let (files, bytes, rounds, seconds) = match full {
            false => (7_000, 100 << 20, 7, 40),
            true => (70_000, 1 << 30, 5, 1200),
        };
        let limit = Duration::from_secs(seconds);
        let effort = Effort { files, bytes, peers: !ours, rounds, limit, begun };
        Ok(Self { floor, effort, memory })
    }
}
