//! The driver of `bench/start`: starts the same program plainly, by the floor program, by `shifter` and by its peers,
//! as an ordinary user, one after the other in every round, and prints medians, spreads and ratios. `bench/metadata`
//! and `bench/stress` are it too.
//!
//! Everything lies in a mount namespace of this process's own and goes with it. It builds nothing (the scripts do)
//! and judges no time: the figures are for a reader, or for a program that reads the last line.

mod image;
mod measure;
mod metadata;
mod mountinfo;
mod nss;
mod page_cache;
mod peers;
mod report;
mod root_shell;
mod same_container;
mod sandbox;
mod services;
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
    let services = services::Services::choose()?;
    sandbox::enter()?;
    sandbox::furnish(&programs, &services.settings())?;
    nss::furnish()?;
    peers::furnish()?;
    image::build(&programs.payload, &programs.reader)?;
    if options.stress {
        return stress::run();
    }
    image::mount_by_hand()?;
    let root = root_shell::RootShell::start()?;
    let no_gateway = match &programs.services {
        Some(programs) => services.start(programs, &root)?,
        None => Some("the gateway was not built".to_owned()),
    };
    sandbox::become_the_user()?;

    if options.metadata {
        let figures = metadata::measure()? + &page_cache::measure()?;
        println!("{{\"bench\":\"metadata\",\"figures\":{{{figures}}}}}");
        return Ok(());
    }
    let keeper = variants::Keeper::start(image::SHARED, &[variants::PAYLOAD, "-"])?;
    same_container::compare(&keeper)?;
    println!("floor and shifter give the program the same mounts, files in /etc and rights");
    if options.check_only {
        return keeper.stop();
    }
    let (rows, other_keeper) = variants::rows(&keeper, programs.shifter_glibc.is_some(), &root, no_gateway)?;
    let (mut variants, mut absent) = (Vec::new(), Vec::new());
    for row in rows {
        match row {
            variants::Row::Measured(variant) => variants.push(variant),
            variants::Row::Absent(title, reason) => absent.push((title, reason)),
        }
    }
    let (rounds, limit) = options.effort;
    let samples = measure::interleaved(&variants, rounds, limit)?;
    other_keeper.into_iter().chain([keeper]).try_for_each(variants::Keeper::stop)?;
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
    /// All three of a gateway, or none.
    services: [Option<String>; 3],
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
            services: match &self.services {
                [None, None, None] => None,
                [shifterimg, imagegw, registry] => Some(sandbox::ServicePrograms {
                    shifterimg: read(shifterimg, "--shifterimg")?,
                    imagegw: read(imagegw, "--imagegw")?,
                    registry: read(registry, "--registry")?,
                }),
            },
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
                "--shifterimg" => &mut options.programs.services[0],
                "--imagegw" => &mut options.programs.services[1],
                "--registry" => &mut options.programs.services[2],
                _ => bail!("unknown option {word}; the options are --check, --full, --metadata and --stress"),
            };
            *slot = Some(words.next().with_context(|| format!("{word} PATH is missing"))?);
        }
        Ok(options)
    }
}
