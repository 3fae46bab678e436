//! `shifter`: runs a program in a container, as the user who asked. Installed setuid root.
//!
//! This file is the program's story, phase by phase, and its exit codes; each phase lives in
//! `shifter-runtime`. The phases cannot be reordered: each takes what only the one before it can make.

mod messages;
mod options;

use options::{Options, Outcome};
use shifter_core::environment::{DEFAULT_PATH, Environment};
use shifter_core::image_type::ImageType;
use shifter_core::meta::Meta;
use shifter_core::udiroot::{Module, SiteEnv};
use shifter_core::volume;
use shifter_runtime::apply::Container;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::image::Image;
use shifter_runtime::plan::{MountPlan, Wanted};
use shifter_runtime::{account, apply, command, environment, etc, lookup, prepared};
use shifter_sys::child;
use shifter_sys::credentials::{Unprivileged, irrevocably_drop_privileges, step_down};
use shifter_sys::directory::read_as_user;
use shifter_sys::exec::{enter_directory, exec, started_as};
use shifter_sys::lockdown::{LockedDown, lock_down};
use std::process::ExitCode;

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

/// Largest `--env-file`, in bytes.
const LARGEST_ENVIRONMENT_FILE: u64 = 1 << 20;

type Failure = Box<dyn std::error::Error>;

fn run(mut words: Vec<Vec<u8>>) -> Result<ExitCode, Failure> {
    let script = command::split_first_line(&mut words, started_as());
    let mut options = match options::parse(words) {
        Ok(Outcome::Run(options)) => options,
        Ok(Outcome::Help) => {
            step_down();
            messages::print(options::HELP);
            return Ok(ExitCode::SUCCESS);
        }
        Err(fault) => {
            step_down();
            messages::usage_error(&fault, options::USAGE);
            return Ok(ExitCode::from(FAILED));
        }
    };
    let verbose = messages::Verbose::new(options.verbose);

    let locked = lock_down().inspect_err(|_| step_down())?;
    if script.is_some() && options.words.first() == script.as_ref() {
        options.words.insert(0, b"/bin/sh".to_vec());
    }
    let script = script.and_then(|path| command::Script::open(&locked, &path));
    if options.dry_run {
        // What is only shown is shown with the user's own rights.
        irrevocably_drop_privileges(locked.caller())?;
    }
    let (built, mut ready) = match assemble(&options, &locked, &verbose) {
        Ok(both) => both,
        Err(failure) => {
            let user = irrevocably_drop_privileges(locked.caller())?;
            locked.give_back(&user)?;
            verbose.flush();
            return Err(failure);
        }
    };
    let container = match built {
        Built::Container(container) => container,
        Built::Plan(plan) => {
            let environment = ready.environment(&options, &locked, &[]);
            let lines = environment.entries().iter().map(|entry| format!("{}\n", entry.escape_ascii()));
            messages::print(&format!("{plan}\n{}", lines.collect::<String>()));
            verbose.flush();
            return Ok(ExitCode::SUCCESS);
        }
    };
    let user = container.drop_privileges_forever(locked.caller())?;
    locked.give_back(&user)?;
    verbose.flush();
    // Work that grows with what caller and image bring is the user's to do, under the user's limits.
    if let Err(error) = enter_directory(&user, &ready.directory) {
        messages::error(&format!("Failed to switch to working dir, staying in /: {error}"));
        enter_directory(&user, b"/")?;
    }
    let file = options.environment_file(&user)?;
    let environment = ready.environment(&options, &locked, &file);
    for module in &ready.modules {
        let Some(script) = &module.userhook else { continue };
        if child::run_as_user(&user, script, environment.entries())? != Some(0) {
            let (module, script) = (module.name.clone(), script.clone());
            return Err(options::Fault::UserHook { module, script }.into());
        }
    }
    if let Some(script) = script {
        script.name_in(&mut ready.argv, &user, &locked);
    }
    let argv = &ready.argv;
    verbose.say("run        ", &String::from_utf8_lossy(&argv[0]));
    verbose.flush();
    let search = environment.get(b"PATH").unwrap_or(DEFAULT_PATH.as_bytes());
    let error = exec(&user, argv, environment.entries(), search);
    messages::error(&format!("{}: {}", String::from_utf8_lossy(&argv[0]).escape_debug(), error));
    Ok(ExitCode::from(NOT_STARTED))
}

/// What will run in a container.
struct Ready {
    request: String,
    id: String,
    meta: Meta,
    modules: Vec<Module>,
    site: SiteEnv,
    argv: Vec<Vec<u8>>,
    directory: Vec<u8>,
}

/// What was made for it.
enum Built {
    Container(Container),
    /// `--dry-run`
    Plan(MountPlan),
}

impl Ready {
    fn environment(&self, options: &Options, locked: &LockedDown, file: &[Vec<u8>]) -> Environment {
        environment::build(&environment::Sources {
            inherited: if options.clear_environment { &[] } else { locked.environment() },
            request: &self.request,
            id: &self.id,
            image: &self.meta.env,
            file,
            command_line: &options.environment,
            modules: &self.modules,
            site: &self.site,
        })
    }
}

/// All that root does. Nothing is written to the caller's streams meanwhile (see [`messages::Verbose`]).
fn assemble(
    options: &Options,
    locked: &LockedDown,
    verbose: &messages::Verbose,
) -> Result<(Built, Ready), Failure> {
    verbose.closed_descriptors(locked.closed_descriptors());
    let config = TrustedConfig::open(locked)?;
    verbose.warnings(&config.udiroot.warnings);
    let mut of_job = prepared::Choice::default();
    let request = match options.image_request(locked.environment(), config.udiroot.default_image_type) {
        Err(options::Fault::NoImage) => {
            of_job = prepared::choice_of_caller(locked).ok_or(options::Fault::NoImage)?;
            options::ImageRequest::identifier(std::mem::take(&mut of_job.image))?
        }
        other => other?,
    };
    let volumes = options.volume_map(locked.environment())?.or(of_job.volumes).unwrap_or_default();
    let volumes = volume::parse_user(&volumes, &config.shifter.volumes).map_err(options::Fault::Volume)?;
    let choice = options.module_choice(locked.environment())?.or(of_job.modules);
    let modules = config.udiroot.select_modules(choice.as_deref()).map_err(options::Fault::Module)?;
    let modules: Vec<Module> = modules.into_iter().cloned().collect();
    let id = lookup::identifier(&config, locked, &request.descriptor)?;
    verbose.say("looked up  ", &id);
    let opened = match request.descriptor.image_type {
        ImageType::Local => Image::local(&config, &id),
        _ => Image::open(&config, locked.caller(), &id),
    };
    let image = match opened {
        Err(error) if options.dry_run && error.is_permission() => {
            verbose.say("not shown  ", "what the image itself sets: its record is root's alone to read");
            None
        }
        other => Some(other?),
    };
    let unknown = Meta::default();
    let meta = image.as_ref().map_or(&unknown, |image| &image.meta);
    let (argv, directory) = match image {
        None => (Vec::new(), Vec::new()),
        Some(_) => (options.command(meta)?, options.directory(meta, locked.working_directory())?),
    };
    let joined = match &image {
        Some(image) if !options.dry_run => prepared::join(&config, locked, image, &modules, &volumes)?,
        _ => None,
    };
    let built = match joined {
        Some(container) => {
            verbose.say("joined     ", "the container prepared for this job");
            Built::Container(container)
        }
        None => {
            let account = account::of_caller(&config, locked)?;
            let etc = etc::site_layer(&config, locked, &account)?;
            let (user, modules, volumes) = (account.name.as_str(), &modules[..], &volumes[..]);
            let plan =
                MountPlan::build(&config, Wanted { id: &id, user, modules, volumes, etc, hosts: None });
            match &image {
                Some(image) if !options.dry_run => {
                    let mut told = |step: &dyn std::fmt::Display| verbose.step(step);
                    Built::Container(apply::apply(&plan, &config, image, locked, &mut told)?)
                }
                _ => Built::Plan(plan),
            }
        }
    };
    let (meta, site) = (image.map_or(unknown, |image| image.meta), config.udiroot.site_env);
    Ok((built, Ready { request: request.text, id, meta, modules, site, argv, directory }))
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
            options::Workdir::OfCaller if self.run_image => {
                Ok(meta.workdir.as_deref().unwrap_or("/").as_bytes().to_vec())
            }
            options::Workdir::OfCaller => Ok(caller_stands_in.unwrap_or(b"/").to_vec()),
        }
    }

    /// The variables of `--env-file`, a path in the container.
    fn environment_file(&self, user: &Unprivileged) -> Result<Vec<Vec<u8>>, Failure> {
        let Some(path) = &self.environment_file else { return Ok(Vec::new()) };
        let path = options::text(path, "--env-file")?;
        let text = read_as_user(user, &path, LARGEST_ENVIRONMENT_FILE)?;
        Environment::read_file(&text).map_err(|line| options::Fault::EnvironmentFile { path, line }.into())
    }
}
