//! Prepared containers: built once per job by `setupRoot`, kept as a pinned mount namespace, joined by every start
//! of the job's user that would build the very same.
//!
//! Beside each pin lies a record of everything the container depends on. It is compared as text with what holds for
//! this start, in the caller's own namespace: a job with a `/tmp` of its own is never given the node's. Only root can
//! write records; the key that selects one, the job's number, may come from anybody.

use crate::apply::Container;
use crate::config::TrustedConfig;
use crate::error::Result;
use crate::image::Image;
use shifter_core::paths::RUN_DIRECTORY;
use shifter_core::udiroot::Module;
use shifter_core::volume::{self, VolumeMap};
use shifter_sys::credentials::Caller;
use shifter_sys::directory::{self as dir, place, read_host};
use shifter_sys::lockdown::LockedDown;
use shifter_sys::{namespace, trusted};
use std::os::fd::OwnedFd;

/// Names in a job's directory.
pub const PIN: &str = "ns";
/// See [`describe`].
pub const RECORD: &str = "record";
/// The key of a container that belongs to no job.
pub const NO_JOB: &str = "0";
/// Largest record, in bytes.
const LARGEST: u64 = 1 << 20;
/// Most jobs of a node that are looked at.
const MOST_JOBS: usize = 256;
/// What tells this job from others, set by Slurm.
const SELECTORS: [&[u8]; 2] = [b"SLURM_JOB_ID=", b"SLURM_JOBID="];

/// Where prepared containers are kept.
pub fn directory() -> String {
    format!("{RUN_DIRECTORY}/jobs")
}

/// Whether `text` can be a job's key: a number.
pub fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// All that a container for this user, image and choice depends on, one line each. A prepared one is joined only if
/// its record is this, byte for byte.
pub fn describe(
    config: &TrustedConfig,
    user: &Caller,
    image: &Image,
    modules: &[Module],
    volumes: &[VolumeMap],
) -> Result<String> {
    // Some list the primary group among the others, some do not.
    let mut groups: Vec<u32> = user.groups().iter().copied().filter(|group| *group != user.gid()).collect();
    groups.sort_unstable();
    groups.dedup();
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let boot = read_host("/proc/sys/kernel/random/boot_id", 64)?;
    let mut text = format!(
        "uid {}\ngid {}\ngroups {groups:?}\nimage {}\nmeta {}\nconfig {}\nmodules {}\nvolumes {}\nboot {}\n",
        user.uid(),
        user.gid(),
        image.id,
        image.identity,
        config.identity,
        names.join(","),
        volume::signature(volumes),
        boot.trim(),
    );
    let site = config.udiroot.site_fs.iter().chain(modules.iter().flat_map(|module| &module.site_fs));
    for path in ["/tmp", "/var/tmp", "/dev/shm"].into_iter().chain(site.map(|map| map.from.as_str())) {
        text.push_str(&format!("place {path} {}\n", place(path)));
    }
    Ok(text)
}

/// Joins the caller's prepared container of this image and choice, if this node has one.
pub fn join(
    config: &TrustedConfig,
    locked: &LockedDown,
    image: &Image,
    modules: &[Module],
    volumes: &[VolumeMap],
) -> Result<Option<Container>> {
    let mut wanted = None;
    for job in jobs(locked) {
        let wanted = match &wanted {
            Some(text) => text,
            None => wanted.insert(describe(config, locked.caller(), image, modules, volumes)?),
        };
        let pin = |job: &OwnedFd| trusted::open_file_in(job, PIN, &[]).map(|(pin, _)| pin);
        if record_of(&job).as_ref() == Some(wanted)
            && pin(&job).is_ok_and(|pin| namespace::join(&pin).is_ok())
        {
            return Ok(Some(Container::joined()));
        }
    }
    Ok(None)
}

/// What a prepared container was made of, as its user would write it.
#[derive(Debug, Default)]
pub struct Choice {
    /// Its image's identifier, or the path of a local one.
    pub image: String,
    /// Names with commas between them, or `none`.
    pub modules: Option<String>,
    /// The users' volume maps.
    pub volumes: Option<String>,
}

/// What the caller's prepared container was made of, for starts that name no image.
pub fn choice_of_caller(locked: &LockedDown) -> Option<Choice> {
    let mine = format!("uid {}\n", locked.caller().uid());
    let mut records = jobs(locked).into_iter().filter_map(|job| record_of(&job));
    let record = records.find(|record| record.starts_with(&mine))?;
    let line = |start| record.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    let modules = line("modules ").map(|names| if names.is_empty() { "none".to_owned() } else { names });
    Some(Choice { image: line("image ")?, modules, volumes: line("volumes ") })
}

fn record_of(job: &OwnedFd) -> Option<String> {
    let (record, _) = trusted::open_file_in(job, RECORD, &[]).ok()?;
    trusted::read_all(record, RECORD, LARGEST).ok()
}

/// Those that the caller may join one of: if they say what job they are in, only its own or the one of no job.
fn jobs(locked: &LockedDown) -> Vec<OwnedFd> {
    let path = directory();
    if place(&path) == dir::NOTHING {
        return Vec::new(); // before any walk: most nodes never have one
    }
    let Ok(all) = trusted::open(&path, trusted::Kind::Directory) else { return Vec::new() };
    let find = |key: &str| dir::find(&all, key, dir::Links::Refuse).ok();
    let selected = locked.environment().iter().find_map(|entry| {
        let value = SELECTORS.iter().find_map(|name| entry.strip_prefix(*name))?;
        std::str::from_utf8(value).ok().filter(|key| is_key(key))
    });
    if let Some(key) = selected {
        // Another job's container may show other hosts and caches.
        return find(key).or_else(|| find(NO_JOB)).into_iter().collect();
    }
    let entries = dir::entries(&all, RECORD, MOST_JOBS).unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| entry.name.to_str().ok().filter(|key| is_key(key)).and_then(find))
        .collect()
}
