//! `shifter`: runs a program in a container, as the user who asked. Installed setuid root.
//!
//! This file is the program's story, phase by phase, and its exit codes; each phase lives in
//! `shifter-runtime`. The phases cannot be reordered: each takes what only the one before it can make.

mod messages;
mod options;

use options::{Options, Outcome};
use shifter_core::environment::DEFAULT_PATH;
use shifter_core::meta::Meta;
use shifter_core::udiroot::SiteEnv;
use shifter_runtime::apply::Container;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::image::Image;
use shifter_runtime::plan::MountPlan;
use shifter_runtime::{account, apply, command, environment, etc, lookup};
use shifter_sys::credentials::irrevocably_drop_privileges;
use shifter_sys::exec::{enter_directory, exec};
use shifter_sys::lockdown::{LockedDown, lock_down};
use std::process::ExitCode;
use std::time::Instant;

/// A handled error.
const FAILED: u8 = 1;
/// The program could not be started, as shells report it.
const NOT_STARTED: u8 = 127;

fn main() -> ExitCode {
    let words: Vec<Vec<u8>> = std::env::args_os().map(std::os::unix::ffi::OsStringExt::into_vec).collect();
    match run(words) {
        Ok(code) => code,
        Err(failure) => {
            messages::error(&failure);
            ExitCode::from(FAILED)
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(words: Vec<Vec<u8>>) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let options = match options::parse(words) {
        Ok(Outcome::Run(options)) => options,
        Ok(Outcome::Help) => {
            messages::print(options::HELP);
            return Ok(ExitCode::SUCCESS);
        }
        Err(fault) => {
            messages::usage_error(&fault, options::USAGE);
            return Ok(ExitCode::from(FAILED));
        }
    };
    let verbose = messages::Verbose::new(options.verbose, start);

    let locked = lock_down()?;
    let Ready { container, request, id, meta, site, argv, directory } =
        match assemble(&options, &locked, &verbose) {
            Ok(ready) => ready,
            Err(stop) => {
                let user = irrevocably_drop_privileges(locked.caller())?;
                locked.give_back(&user)?;
                verbose.flush();
                return stop.said();
            }
        };
    let user = container.drop_privileges_forever(locked.caller())?;
    locked.give_back(&user)?;
    verbose.flush();
    // Work that grows with what caller and image bring is the user's to do, under the user's limits.
    let environment = environment::build(&environment::Sources {
        inherited: if options.clear_environment { &[] } else { locked.environment() },
        request: &request,
        id: &id,
        image: &meta.env,
        command_line: &options.environment,
        site: &site,
    });
    if let Err(error) = enter_directory(&user, &directory) {
        messages::warning(&format!("Failed to switch to working dir, staying in /: {error}"));
        enter_directory(&user, b"/")?;
    }
    verbose.say("run        ", &String::from_utf8_lossy(&argv[0]));
    verbose.flush();
    let search = environment.get(b"PATH").unwrap_or(DEFAULT_PATH.as_bytes());
    let error = exec(&user, &argv, environment.entries(), search);
    messages::error(&format!("{}: {}", String::from_utf8_lossy(&argv[0]).escape_debug(), error));
    Ok(ExitCode::from(NOT_STARTED))
}

/// A container and what will run in it.
struct Ready {
    container: Container,
    request: String,
    id: String,
    meta: Meta,
    site: SiteEnv,
    argv: Vec<Vec<u8>>,
    directory: Vec<u8>,
}

/// Why there is no container.
enum Stop {
    /// `--dry-run`: the plan.
    Planned(String),
    Failed(Failure),
}

impl<E: std::error::Error + 'static> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Failed(Box::new(error))
    }
}

impl Stop {
    fn said(self) -> Result<ExitCode, Failure> {
        match self {
            Stop::Failed(failure) => Err(failure),
            Stop::Planned(plan) => {
                messages::print(&plan);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// All that root does. Nothing is written to the caller's streams meanwhile (see [`messages::Verbose`]).
fn assemble(options: &Options, locked: &LockedDown, verbose: &messages::Verbose) -> Result<Ready, Stop> {
    verbose.closed_descriptors(locked.closed_descriptors());
    let config = TrustedConfig::open(locked)?;
    verbose.warnings(&config.udiroot.warnings);
    let request = options.image_request(locked.environment(), config.udiroot.default_image_type)?;
    let id = lookup::identifier(&config, locked, &request.descriptor)?;
    verbose.say("looked up  ", &id);
    let image = Image::open(&config, locked.caller(), &id)?;
    let account = account::of_caller(&config, locked)?;
    let argv = options.command(&image.meta)?;
    let directory = options.directory(&image.meta, locked.working_directory())?;
    let layer = etc::site_layer(&config, locked, &account)?;
    let plan = MountPlan::build(&config.udiroot, &image.id, &account.name, layer);
    if options.dry_run {
        return Err(Stop::Planned(plan.to_string()));
    }
    let container = apply::apply(plan, &image, locked, &mut |step, took| verbose.step(step, took))?;
    let Image { id, meta, .. } = image;
    let site = config.udiroot.site_env;
    Ok(Ready { container, request: request.text, id, meta, site, argv, directory })
}

impl Options {
    fn command(&self, meta: &Meta) -> Result<Vec<Vec<u8>>, options::Fault> {
        command::select(&self.entrypoint, &self.words, meta.entry.as_deref(), meta.cmd.as_deref())
            .map_err(|command::NoEntrypoint| options::Fault::NoEntrypoint)
    }

    /// `--workdir=DIR`, the image's for a bare `--workdir`, else where the caller stands.
    fn directory(&self, meta: &Meta, caller_stands_in: Option<&[u8]>) -> Result<Vec<u8>, options::Fault> {
        match &self.workdir {
            options::Workdir::Given(path) => Ok(path.clone()),
            options::Workdir::OfImage => {
                meta.workdir.as_ref().map(|path| path.as_bytes().to_vec()).ok_or(options::Fault::NoWorkdir)
            }
            options::Workdir::OfCaller => Ok(caller_stands_in.unwrap_or(b"/").to_vec()),
        }
    }
}
