//! Taking prepared containers down. It never stops at the first failure, signals nobody but a job's sshd and what was
//! started through it, and finds nothing wrong where nothing is left.

use crate::{prepare, sshd};
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::prepared;
use shifter_sys::credentials::Caller;
use shifter_sys::lockdown::lock_down_for;
use shifter_sys::{Error, directory as dir, namespace, trusted};
use std::ffi::CString;
use std::os::fd::OwnedFd;

/// A link beside the jobs' directories that says whose container stands at udiMount: it points to that job's key.
pub const OWNER: &str = "owner";
/// Where a job's image is mounted while the container at udiMount is assembled, in the job's directory.
pub const IMAGE: &str = "image";
/// Deepest tree in a job's directory.
const DEPTH: usize = 2;

/// See [`IMAGE`].
pub fn image_place(key: &str) -> String {
    format!("{}/{key}/{IMAGE}", prepared::directory())
}

/// Takes down what there is of one job, or of all of this node, by the configuration at `place` or in its usual one;
/// returns what went wrong, as sentences.
pub fn all(key: Option<&str>, place: Option<&str>) -> Vec<String> {
    const NOBODY: u32 = 65_534;
    let locked = match Caller::of_job(NOBODY, NOBODY, &[]).and_then(lock_down_for) {
        Ok(locked) => locked,
        Err(error) => return vec![error.to_string()],
    };
    let mut faults: Vec<String> = end_sshd(key).iter().map(ToString::to_string).collect();
    match prepare::configuration(&locked, place) {
        Err(failure) => faults.push(failure.to_string()),
        Ok(config) => {
            let others = key.map_or_else(|| everything(&config), |key| job(key, &config));
            faults.extend(others.iter().map(ToString::to_string));
        }
    }
    faults
}

/// Ends the sshd of one job, or of all, with what was started through it. It comes first and asks for no configuration:
/// who began to take a job down and is killed, or finds the configuration damaged, leaves nothing running.
pub fn end_sshd(key: Option<&str>) -> Vec<Error> {
    let mut faults = Vec::new();
    let Some(Some(jobs)) = kept(&mut faults, jobs()) else { return faults };
    let keys = match key {
        Some(key) => vec![key.to_owned()],
        None => keys(&mut faults, &jobs),
    };
    for key in keys {
        let found = dir::find_if_present(&jobs, &key, dir::Links::Refuse);
        if let Some(Some(job)) = kept(&mut faults, found) {
            kept(&mut faults, sshd::end(&job));
        }
    }
    faults
}

fn keys(faults: &mut Vec<Error>, jobs: &OwnedFd) -> Vec<String> {
    let entries = kept(faults, dir::entries(jobs, "jobs", usize::MAX)).unwrap_or_default();
    let names = entries.into_iter().filter_map(|entry| entry.name.into_string().ok());
    names.filter(|name| prepared::is_key(name)).collect()
}

/// Takes the container of one job down; returns what went wrong.
pub fn job(key: &str, config: &TrustedConfig) -> Vec<Error> {
    let mut faults = Vec::new();
    let Some(jobs) = kept(&mut faults, jobs()) else { return faults };
    let Some(jobs) = jobs else { return faults };
    let owns = dir::link_target(&jobs, OWNER).as_deref() == Some(key);
    kept(&mut faults, namespace::unmount_all(&format!("{}/{key}/{}", prepared::directory(), prepared::PIN)));
    kept(&mut faults, namespace::unmount_all(&image_place(key)));
    if owns {
        at_udi_mount(&mut faults, config);
    }
    remove(&mut faults, &jobs, key);
    if owns && faults.is_empty() {
        kept(&mut faults, dir::remove(&jobs, OWNER));
    }
    faults
}

/// Takes down all containers of the node, and whatever else is mounted where they stand.
pub fn everything(config: &TrustedConfig) -> Vec<Error> {
    let mut faults = Vec::new();
    if let Some(Some(jobs)) = kept(&mut faults, jobs()) {
        for key in keys(&mut faults, &jobs) {
            faults.extend(job(&key, config));
        }
    }
    at_udi_mount(&mut faults, config);
    kept(&mut faults, namespace::unmount_all(&prepared::directory()));
    faults
}

fn at_udi_mount(faults: &mut Vec<Error>, config: &TrustedConfig) {
    for place in [&config.udiroot.udi_mount, &config.udiroot.loop_mount] {
        kept(faults, namespace::take_down(place));
    }
}

/// The directory of the jobs; none if nothing was ever prepared.
fn jobs() -> Result<Option<OwnedFd>, Error> {
    const ENOENT: i32 = 2;
    match trusted::open(&prepared::directory(), trusted::Kind::Directory) {
        Err(error) if error.errno() == Some(ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

fn remove(faults: &mut Vec<Error>, jobs: &OwnedFd, name: &str) {
    if let Ok(name) = CString::new(name) {
        kept(faults, dir::remove_tree(jobs, &name, DEPTH));
    }
}

fn kept<T>(faults: &mut Vec<Error>, result: Result<T, Error>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}
