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
