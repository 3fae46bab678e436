//! A plugin for another release of Slurm than the one that is there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::SlurmSite;
use std::fs;

#[test]
fn a_plugin_for_another_release_is_refused_by_name_and_runs_nothing() {
    let site = SlurmSite::new(1, "");
    let plugin = site.sandbox.program("shifter_slurm.so").unwrap().display().to_string();
    let names = site.run("alice", &["nm", "-D", &plugin]).success().unwrap();
    let line = names.lines().find(|line| line.ends_with(" R plugin_version")).unwrap();
    let at = usize::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    // Read-only data comes first in the file, at the addresses it has in memory.
    let mut bytes = fs::read(&plugin).unwrap();
    let number = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(number & 0xff, 0, "{number:x}");
    bytes[at..at + 4].copy_from_slice(&(number + 0x1_0000).to_le_bytes());
    let other = "/opt/shifter-test/lib/other.so";
    fs::write(other, bytes).unwrap();
    fs::write("/etc/slurm/plugstack.conf", format!("required {other}\n")).unwrap();
    let out = site.run("alice", &["srun", "hostname"]);
    assert!(
        !out.status.success() && out.err().contains("Incompatible Slurm plugin") && out.err().contains(other),
        "{}",
        out.describe()
    );
    fs::write("/etc/slurm/plugstack.conf", format!("optional {other}\n")).unwrap();
    assert_eq!(site.run("alice", &["srun", "hostname"]).success().unwrap(), "node1\n");
    site.rearrange("");
    site.finish();
}
