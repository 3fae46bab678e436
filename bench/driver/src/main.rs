//! `bench/start`'s driver: starts the same program plainly, by the floor program, by `shifter` and by its peers, as
//! an ordinary user, one after the other in every round, and prints medians, spreads and ratios.
//!
//! Everything lies in a mount namespace of this process's own and goes with it. It builds nothing (the script
//! does) and judges nothing: the figures are for a reader, or for a program that reads the last line.

mod image;
mod measure;
mod metadata;
mod mountinfo;
mod report;
mod root_shell;
mod sandbox;
mod stress;
mod variants;

use anyhow::{Context as _, Result, bail};
use std::process::ExitCode;
use std::time::Duration;

/// Rounds, and the time after which no further one begins.
const USUAL: (usize, Duration) = (700, Duration::from_secs(30));
const FULL: (usize, Duration) = (6000, Duration::from_secs(300));

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench/start: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if !rustix::process::geteuid().is_root() {
        bail!("it mounts and installs setuid programs in a mount namespace of its own, so run it as root");
    }
    let programs = options.programs.read()?;
    sandbox::enter()?;
    sandbox::furnish(&programs)?;
    image::build(&programs.payload, &programs.reader)?;
    if options.metadata {
        image::mount_by_hand()?;
    }
    if options.stress {
        return stress::run();
    }
    let root = root_shell::RootShell::start()?;
    sandbox::become_the_user()?;

    if options.metadata {
        return metadata::run();
    }
    let keeper = variants::Keeper::start()?;
    variants::compare_containers(&keeper)?;
    println!("floor and shifter give the program the same mounts, files in /etc and rights");
    if options.check_only {
        return keeper.stop();
    }
    let (variants, absent) = variants::usable(&keeper, programs.shifter_glibc.is_some(), &root)?;
    let (rounds, limit) = options.effort;
    let samples = measure::interleaved(&variants, rounds, limit)?;
    keeper.stop()?;
    report::print(&variants, &samples, &absent)
}

/// Where the built programs are.
#[derive(Default)]
struct Paths {
    shifter: Option<String>,
    shifter_glibc: Option<String>,
    setup_root: Option<String>,
    unsetup_root: Option<String>,
    floor: Option<String>,
    payload: Option<String>,
    reader: Option<String>,
}

impl Paths {
    fn read(&self) -> Result<sandbox::Programs> {
        let read = |path: &Option<String>, option: &str| {
            let path = path.as_ref().with_context(|| format!("{option} PATH is missing"))?;
            std::fs::read(path).with_context(|| format!("read {path}"))
        };
        Ok(sandbox::Programs {
            shifter: read(&self.shifter, "--shifter")?,
            shifter_glibc: match &self.shifter_glibc {
                Some(_) => Some(read(&self.shifter_glibc, "--shifter-glibc")?),
                None => None,
            },
            setup_root: read(&self.setup_root, "--setup-root")?,
            unsetup_root: read(&self.unsetup_root, "--unsetup-root")?,
            floor: read(&self.floor, "--floor")?,
            payload: read(&self.payload, "--payload")?,
            reader: read(&self.reader, "--reader")?,
        })
    }
}

struct Options {
    programs: Paths,
    effort: (usize, Duration),
    check_only: bool,
    metadata: bool,
    stress: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            programs: Paths::default(),
            effort: USUAL,
            check_only: false,
            metadata: false,
            stress: false,
        };
        while let Some(word) = words.next() {
            let slot = match word.as_str() {
                "--full" => {
                    options.effort = FULL;
                    continue;
                }
                "--check" => {
                    options.check_only = true;
                    continue;
                }
                "--metadata" => {
                    options.metadata = true;
                    continue;
                }
                "--stress" => {
                    options.stress = true;
                    continue;
                }
                "--shifter" => &mut options.programs.shifter,
                "--shifter-glibc" => &mut options.programs.shifter_glibc,
                "--setup-root" => &mut options.programs.setup_root,
                "--unsetup-root" => &mut options.programs.unsetup_root,
                "--floor" => &mut options.programs.floor,
                "--payload" => &mut options.programs.payload,
                "--reader" => &mut options.programs.reader,
                _ => bail!("unknown option {word}; the options are --check, --full, --metadata and --stress"),
            };
            *slot = Some(words.next().with_context(|| format!("{word} PATH is missing"))?);
        }
        Ok(options)
    }
}
