//! What is left of jobs on a node, for health checks between jobs. It looks, and changes nothing.

use crate::sshd;
use crate::teardown::OWNER;
use shifter_core::mountinfo::mounts;
use shifter_core::paths::RUN_DIRECTORY;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::prepared;
use shifter_sys::{Error, directory as dir, trusted};
use std::collections::BTreeSet;

/// `shifter-nhc`'s help.
pub const USAGE: &str = "\
Usage: shifter-nhc [--jobs=NUMBER,...] [--config=FILE]

Tells what jobs have left on this node: prepared containers of jobs other than those named, which run, what the Slurm
plugin has noted of them, processes beside their sshd, and mounts where containers are assembled. Exit status 0 for none; 1 and one line, the findings separated by commas.
";

/// Largest mount table, in bytes.
const LARGEST: u64 = 64 << 20;

/// Every finding, as part of a sentence.
pub fn findings(config: &TrustedConfig, running: &[&str]) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let (mut owner, mut kept, mut begins) = (None, BTreeSet::new(), false);
    match trusted::open(&prepared::directory(), trusted::Kind::Directory) {
        Err(error) if error.errno() == Some(2) => {}
        Err(error) => return Err(error),
        Ok(jobs) => {
            owner = dir::link_target(&jobs, OWNER);
            for entry in dir::entries(&jobs, "the jobs", usize::MAX)? {
                let name = entry.name.to_string_lossy();
                if !prepared::is_key(&name) {
                    continue;
                }
                if let Some(job) = dir::find_if_present(&jobs, &name, dir::Links::Refuse)? {
                    // Told by its container, whether or not that one's job runs.
                    kept.extend(sshd::keeper(&job));
                    begins |= !dir::has(&job, prepared::RECORD)?;
                }
                if !running.contains(&&*name) {
                    found.push(format!("a container prepared for job {name} is left"));
                }
            }
        }
    }
    let is_over = |job: &str| prepared::is_key(job) && !running.contains(&job);
    for job in noted()?.into_iter().filter(|job| is_over(job)) {
        found.push(format!("notes on job {job} are left"));
    }
    // One that is just being started is recorded nowhere yet.
    for pid in keepers()?.into_iter().filter(|pid| !begins && !kept.contains(pid)) {
        found.push(format!("process {pid} is left of an sshd"));
    }
    // The first container of a node stands there.
    if owner.is_none_or(|owner| !running.contains(&owner.as_str())) {
        let table = mount_table()?;
        for place in [&config.udiroot.udi_mount, &config.udiroot.loop_mount] {
            let mounts = mounts_below(&table, place).len();
            if mounts > 0 {
                found.push(format!("{mounts} mounts are left at {place}"));
            }
        }
    }
    Ok(found)
}

/// The jobs that the Slurm plugin has notes on.
fn noted() -> Result<BTreeSet<String>, Error> {
    let place = format!("{RUN_DIRECTORY}/slurm");
    let notes = match trusted::open(&place, trusted::Kind::Directory) {
        Err(error) if error.errno() == Some(2) => return Ok(BTreeSet::new()),
        other => dir::entries(&other?, &place, usize::MAX)?,
    };
    let names = notes.iter().filter_map(|entry| entry.name.to_str().ok()?.split_once('.'));
    Ok(names.map(|(job, _)| job.to_owned()).collect())
}

/// All keepers of sshds that see the node as this process does: by the name that they give themselves, and by being root's.
fn keepers() -> Result<BTreeSet<String>, Error> {
    let view = |pid: &str| dir::link_target(&dir::open_to_list(&format!("/proc/{pid}/ns")).ok()?, "mnt");
    let own = view("self");
    let is_keeper = |pid: &String| {
        let text = dir::read_host(&format!("/proc/{pid}/status"), 1 << 16).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some("Name:\tshifter-keeper")
            && lines.any(|line| line.starts_with("Uid:\t0\t0\t"))
            && view(pid) == own
    };
    let pids = dir::entries(&dir::open_to_list("/proc")?, "/proc", usize::MAX)?;
    let pids = pids.into_iter().filter_map(|entry| entry.name.into_string().ok());
    Ok(pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).filter(is_keeper).collect())
}

/// The node's table of mounts (proc_pid_mountinfo(5)). It is no text: users name the places of their own mounts.
pub fn mount_table() -> Result<Vec<u8>, Error> {
    let path = "/proc/self/mountinfo";
    trusted::read_bytes(dir::open_to_read(path)?, path, LARGEST)
}

/// The mount points at a place and below it, in the order they were mounted.
pub fn mounts_below(table: &[u8], place: &str) -> Vec<Vec<u8>> {
    let place = place.trim_end_matches('/').as_bytes();
    let points = mounts(table).map(|mount| mount.point);
    points
        .filter(|point| {
            point.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
        .collect()
}

/// Those of mount points that none of the others is above: detached, they take the others along, see umount(2), and no
/// part of their paths lies on a file system that is.
pub fn outermost(points: &[Vec<u8>]) -> Vec<&[u8]> {
    let is_below =
        |point: &[u8], other: &[u8]| point.strip_prefix(other).is_some_and(|rest| rest.starts_with(b"/"));
    let mut outermost: Vec<&[u8]> = points.iter().map(Vec::as_slice).collect();
    outermost.retain(|point| !points.iter().any(|other| is_below(point, other)));
    outermost.dedup();
    outermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_whole_names() {
        let table = b"1 0 0:1 / / rw - a a rw\n2 1 0:2 / /var/udiMount rw - a a rw\n3 2 0:3 / /var/udiMount/a\\040b rw - a a rw\n\
                      4 1 0:4 / /var/udiMountBeside rw - a a rw\n5 1 0:5 / /home/\xff rw - fuse.x x rw\n\
                      6 3 0:6 / /var/udiMount/a\\040b/\xff\xfe rw - fuse.x x rw\n";
        let below: [&[u8]; 3] = [b"/var/udiMount", b"/var/udiMount/a b", b"/var/udiMount/a b/\xff\xfe"];
        assert_eq!(mounts_below(table, "/var/udiMount"), below);
        assert_eq!(mounts_below(table, "/var/udiMount/"), below);
        assert!(mounts_below(table, "/var/udi").is_empty());
        assert_eq!(outermost(&mounts_below(table, "/var/udiMount")), [b"/var/udiMount"]);
        let apart = ["/a/b", "/a/b", "/a/bc", "/a/b/c", "/d/e"].map(|point| point.as_bytes().to_vec());
        assert_eq!(outermost(&apart), [&b"/a/b"[..], b"/a/bc", b"/d/e"]);
    }
}
