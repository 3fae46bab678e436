//! `shifter_slurm.so`: what Slurm's hooks find when they call. The work is `shifter-spank`'s; here is what it lacks: the
//! process's memory of what was chosen so far, because Slurm's option callbacks are given nothing to keep it in.
//!
//! `ffi.rs` alone speaks with C. It catches panics, so that none ever runs into Slurm.

mod ffi;
mod layout;

use shifter_spank::arguments::Arguments;
use shifter_spank::node::Node;
use shifter_spank::options::{Choice, Uses};
use shifter_spank::site::Site;
use shifter_spank::{Context, Level, Spank, epilog, extern_step, prolog, submit, task};
use std::sync::Mutex;

/// What this process knows; Slurm loads the plugin once.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

struct Known {
    arguments: Arguments,
    site: Result<Site, String>,
    uses: Uses,
}

fn known<T>(act: impl FnOnce(&mut Known) -> T) -> Option<T> {
    KNOWN.lock().ok()?.as_mut().map(act)
}

/// `slurm_spank_init`: options are offered wherever Slurm may be told of them, with or without a configuration; a host
/// that has none refuses them when they are used.
fn init(spank: &mut dyn Spank, arguments: Arguments) {
    let is_client = matches!(spank.context(), Context::Local | Context::Allocator);
    for complaint in &arguments.complaints {
        // Users cannot change it, and see what they cannot change only where they look for it.
        spank.say(if is_client { Level::Debug } else { Level::Error }, &format!("shifter: {complaint}"));
    }
    if !is_client && spank.context() != Context::Remote {
        return;
    }
    for choice in Choice::ALL.into_iter().filter(|choice| choice.offered(&arguments)) {
        let name = choice.name(&arguments);
        if let Err(reason) = spank.register(choice, &name) {
            spank.say(Level::Error, &format!("shifter: --{name} cannot be offered: {reason}"));
        }
    }
    let site = if is_client { Site::read(arguments.config.as_deref()) } else { Err(String::new()) };
    if let Ok(mut place) = KNOWN.lock() {
        *place = Some(Known { arguments, site, uses: Uses::default() });
    }
}

/// An option was used. On nodes nothing is done: the submission has said it all in the job's environment.
fn option(choice: Choice, value: &str, remote: bool) -> Result<(), String> {
    if remote {
        return Ok(());
    }
    known(|known| {
        // What the job that this process runs in was submitted with.
        let memory = std::env::var(format!("SLURM_SPANK_{}", choice.memory(&known.arguments))).ok();
        let name = choice.name(&known.arguments);
        known.uses.add(choice, &name, value, memory.as_deref(), &known.site)
    })
    .unwrap_or(Ok(()))
}

/// `slurm_spank_init_post_opt`
fn init_post_opt(spank: &mut dyn Spank) -> Result<(), String> {
    if !matches!(spank.context(), Context::Local | Context::Allocator) {
        return Ok(());
    }
    known(|known| {
        let chosen = known.uses.all(submit::is_step(spank))?;
        submit::submit(spank, &known.arguments, &chosen, known.uses.own(), &known.site)
    })
    .unwrap_or(Ok(()))
}

/// `slurm_spank_job_prolog`
fn job_prolog(spank: &mut dyn Spank, arguments: &Arguments, asked: Option<&str>) {
    prolog::prolog(spank, arguments, &Node::default(), asked);
}

/// `slurm_spank_job_epilog`
fn job_epilog(spank: &mut dyn Spank, arguments: &Arguments) {
    epilog::epilog(spank, arguments, &Node::default());
}

/// `slurm_spank_task_post_fork`
fn task_post_fork(spank: &mut dyn Spank, arguments: &Arguments) {
    extern_step::extern_step(spank, arguments, &Node::default());
}

/// `slurm_spank_task_init_privileged`
fn task_init_privileged(spank: &mut dyn Spank, arguments: &Arguments) -> Result<(), String> {
    task::task(spank, arguments, &Node::default())
}
