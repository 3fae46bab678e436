//! `cargo xtask soak openssh`: builds the OpenSSH of containers twice, in directories whose names have nothing in common,
//! and compares everything that was made, byte for byte. Two builds take some minutes; where the source package cannot
//! be fetched, there is nothing to compare and it fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

/// Path below the result, then mode and content.
type Made = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Builds twice below `place`, which must not be there and goes again; whether both are the same.
pub(super) fn run(root: &Path, place: &Path) -> Result<bool> {
    fs::create_dir_all(place).with_context(|| format!("make {}", place.display()))?;
    // Not of one length either: names in the programs would move everything behind them.
    let [first, second] = ["one", "another/and-a-longer-one"].map(|name| build(root, &place.join(name)));
    let (first, second) = (first?, second?);
    fs::remove_dir_all(place).with_context(|| format!("remove {}", place.display()))?;
    let programs = first.values().filter(|(mode, _)| mode & 0o111 != 0).count();
    ensure!(programs >= 6, "only {programs} programs were built");
    let different: Vec<_> =
        first.keys().chain(second.keys()).filter(|name| first.get(*name) != second.get(*name)).collect();
    for name in &different {
        println!("soak: {} differs", name.display());
    }
    let result = if different.is_empty() { "all equal" } else { "NOT equal" };
    println!("soak: two builds of OpenSSH, {programs} programs, {} files: {result}", first.len());
    Ok(different.is_empty())
}

fn build(root: &Path, place: &Path) -> Result<Made> {
    let (work, out) = (place.join("work"), place.join("out"));
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let started = Instant::now();
    let status = Command::new(root.join("dist/openssh/build")).arg(&out).env("TMPDIR", &work).status();
    ensure!(status.context("run dist/openssh/build")?.success(), "dist/openssh/build failed");
    println!("soak: built in {} ({} s)", place.display(), started.elapsed().as_secs());
    let mut made = Made::new();
    collect(&out, Path::new(""), &mut made)?;
    Ok(made)
}

/// All files below a directory.
fn collect(top: &Path, below: &Path, made: &mut Made) -> Result<()> {
    let directory = top.join(below);
    for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        let name = below.join(entry.file_name());
        if entry.file_type().with_context(|| format!("look at {}", name.display()))?.is_dir() {
            collect(top, &name, made)?;
            continue;
        }
        let mode =
            entry.metadata().with_context(|| format!("look at {}", name.display()))?.permissions().mode();
        let content = fs::read(entry.path()).with_context(|| format!("read {}", name.display()))?;
        made.insert(name, (mode, content));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_byte_a_mode_or_a_file_more_makes_two_builds_different() {
        let place = std::env::temp_dir().join(format!("xtask-openssh-{}", std::process::id()));
        fs::create_dir_all(place.join("bin")).unwrap();
        let file = place.join("bin/ssh");
        let seen = || {
            let mut made = Made::new();
            collect(&place, Path::new(""), &mut made).unwrap();
            made
        };
        fs::write(&file, "one").unwrap();
        let first = seen();
        assert_eq!(first.keys().collect::<Vec<_>>(), [Path::new("bin/ssh")]);
        fs::write(&file, "two").unwrap();
        assert_ne!(first, seen());
        fs::write(&file, "one").unwrap();
        assert_eq!(first, seen());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        assert_ne!(first, seen());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(place.join("more"), "").unwrap();
        assert_ne!(first, seen());
        fs::remove_dir_all(place).unwrap();
    }
}
