//! What is left of jobs on a node, for health checks between jobs. It looks, and changes nothing.

use crate::teardown::OWNER;
use shifter_core::mountinfo::mounts;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::prepared;
use shifter_sys::{Error, directory as dir, trusted};

/// `shifter-nhc`'s help.
pub const USAGE: &str = "\
Usage: shifter-nhc [--jobs=NUMBER,...] [--config=FILE]

Tells what jobs have left on this node: prepared containers of jobs other than those named, which run, and mounts
where containers are assembled. Exit status 0 for none; 1 and one line, the findings separated by commas.
";

/// Largest mount table, in bytes.
const LARGEST: u64 = 64 << 20;

/// Every finding, as part of a sentence.
pub fn findings(config: &TrustedConfig, running: &[&str]) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut owner = None;
    match trusted::open(&prepared::directory(), trusted::Kind::Directory) {
        Err(error) if error.errno() == Some(2) => {}
        Err(error) => return Err(error),
        Ok(jobs) => {
            owner = dir::link_target(&jobs, OWNER);
            for entry in dir::entries(&jobs, "the jobs", usize::MAX)? {
                let name = entry.name.to_string_lossy();
                if prepared::is_key(&name) && !running.contains(&&*name) {
                    found.push(format!("a container prepared for job {name} is left"));
                }
            }
        }
    }
    // The first container of a node stands there.
    if owner.is_none_or(|owner| !running.contains(&owner.as_str())) {
        let table = dir::read_host("/proc/self/mountinfo", LARGEST)?;
        for place in [&config.udiroot.udi_mount, &config.udiroot.loop_mount] {
            let mounts = mounts_below(&table, place).len();
            if mounts > 0 {
                found.push(format!("{mounts} mounts are left at {place}"));
            }
        }
    }
    Ok(found)
}

/// The mount points at a place and below it, in the order they were mounted (proc_pid_mountinfo(5)).
pub fn mounts_below(table: &str, place: &str) -> Vec<String> {
    let place = place.trim_end_matches('/');
    let points = mounts(table.as_bytes()).map(|mount| String::from_utf8_lossy(&mount.point).into_owned());
    points
        .filter(|point| {
            point.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_whole_names() {
        let table = "1 0 0:1 / / rw - a a rw\n2 1 0:2 / /var/udiMount rw - a a rw\n3 2 0:3 / /var/udiMount/a\\040b rw - a a rw\n\
                     4 1 0:4 / /var/udiMountBeside rw - a a rw\n";
        assert_eq!(mounts_below(table, "/var/udiMount"), ["/var/udiMount", "/var/udiMount/a b"]);
        assert_eq!(mounts_below(table, "/var/udiMount/"), ["/var/udiMount", "/var/udiMount/a b"]);
        assert!(mounts_below(table, "/var/udi").is_empty());
    }
}
