//! `shifter_slurm_dws_support`: run as root once a job's burst buffer is mounted, as the plugin's `extern_setup`. Shows
//! what the node has below `/var/opt/cray/dws` in the container at udiMount, in place of what was there before.
//!
//! As in the original it fails only where there is no configuration: a node without a container, or without a burst
//! buffer, is none of its business. What else goes wrong is said.

use shifter_setup::leftovers::{mount_table, mounts_below, outermost};
use shifter_setup::{prepare, say};
use shifter_sys::credentials::Caller;
use shifter_sys::lockdown::lock_down_for;
use shifter_sys::mount::{self, Depth, Propagation};
use shifter_sys::{Error, directory as dir, namespace, trusted};
use std::process::ExitCode;

/// Where DataWarp mounts its file systems, on nodes and in containers.
const PLACE: &str = "/var/opt/cray/dws";
const ENOENT: i32 = 2;

fn main() -> ExitCode {
    let given = std::env::args_os().nth(1).map(|word| word.to_string_lossy().into_owned());
    let config = given.as_deref().and_then(|word| word.strip_prefix("--config="));
    if given.is_some() && config.is_none() {
        say("Usage: shifter_slurm_dws_support [--config=FILE]");
        return ExitCode::FAILURE;
    }
    match udi_mount(config) {
        Err(failure) => {
            say(&format!("shifter_slurm_dws_support: {failure}"));
            ExitCode::FAILURE
        }
        Ok(root) => {
            match show_in(&root) {
                Err(fault) if fault.errno() != Some(ENOENT) => {
                    say(&format!("shifter_slurm_dws_support: {fault}"));
                }
                _ => {}
            }
            ExitCode::SUCCESS
        }
    }
}

fn udi_mount(config: Option<&str>) -> Result<String, Box<dyn std::error::Error>> {
    const NOBODY: u32 = 65_534;
    let locked = lock_down_for(Caller::of_job(NOBODY, NOBODY, &[])?)?;
    Ok(prepare::configuration(&locked, config)?.udiroot.udi_mount)
}

fn show_in(root: &str) -> Result<(), Error> {
    let at = format!("{}{PLACE}", root.trim_end_matches('/'));
    // Not those below others: there a user's file system could lead elsewhere.
    for point in outermost(&mounts_below(&mount_table()?, &at)) {
        namespace::unmount_all(point)?;
    }
    let container = trusted::open(root, trusted::Kind::Directory)?;
    let place = dir::find(&container, PLACE, dir::Links::Refuse)?;
    let source = trusted::open(PLACE, trusted::Kind::Directory)?;
    let copy = mount::copy_of(&source, PLACE, Depth::Recursive, mount::SAFE, Propagation::Slave)?;
    mount::attach(&copy, &place, &at)
}
