//! Taking prepared containers down. It never stops at the first failure, signals nobody but a job's sshd and what was
//! started through it, and finds nothing wrong where nothing is left.

use crate::sshd;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::prepared;
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

/// Takes the container of one job down; returns what went wrong.
pub fn job(key: &str, config: &TrustedConfig) -> Vec<Error> {
    let mut faults = Vec::new();
    let Some(jobs) = kept(&mut faults, jobs()) else { return faults };
    let Some(jobs) = jobs else { return faults };
    // First: what runs in the container, and even if this program is killed from here on.
    let directory = kept(&mut faults, dir::find_if_present(&jobs, key, dir::Links::Refuse)).flatten();
    if let Some(job) = &directory {
        kept(&mut faults, sshd::end(job));
    }
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
        for entry in kept(&mut faults, dir::entries(&jobs, "jobs", usize::MAX)).unwrap_or_default() {
            if let Some(key) = entry.name.to_str().ok().filter(|key| prepared::is_key(key)) {
                faults.extend(job(key, config));
            }
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
