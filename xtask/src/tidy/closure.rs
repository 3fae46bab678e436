//! What the setuid program consists of must equal `privileged-closure.txt`, name by name, on every processor.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Finding;

const LIST: &str = "privileged-closure.txt";
/// Crates of others, at most.
const THIRD_PARTY: usize = 4;
/// Cargo resolves for a target without having it installed.
const TARGETS: [&str; 4] = [
    "x86_64-unknown-linux-musl",
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "powerpc64le-unknown-linux-gnu",
];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let Ok(text) = std::fs::read_to_string(root.join(LIST)) else {
        // Its absence is reported with the other required files.
        return Ok(Vec::new());
    };
    let mut findings = Vec::new();
    for target in TARGETS {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // Build scripts run on the builder's machine, but they write what is compiled: they count.
        let arguments = ["tree", "--locked", "--package", "shifter", "--edges", "no-dev", "--prefix", "none"];
        let output =
            Command::new(cargo).args(arguments).args(["--target", target]).current_dir(root).output();
        let output = output.context("run cargo tree")?;
        if !output.status.success() {
            bail!("cargo tree for {target} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        for finding in compare(&text, &String::from_utf8_lossy(&output.stdout), target) {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    Ok(findings)
}

/// The first word of each line that is not a comment. A second word `@PROCESSOR` limits a line to that processor.
fn listed_for<'a>(list: &'a str, target: &str) -> BTreeSet<&'a str> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        match words.next().and_then(|word| word.strip_prefix('@')) {
            Some(processor) => target.split('-').next().filter(|seen| *seen == processor).map(|_| name),
            None => Some(name),
        }
    });
    entries.collect()
}

fn compare(list: &str, tree: &str, target: &str) -> Vec<Finding> {
    let (listed, everywhere) = (listed_for(list, target), listed_for(list, ""));
    let built: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut findings = Vec::new();
    for name in built.difference(&listed) {
        let message = format!("the setuid program uses {name} on {target}, which is not on the list");
        findings.push(Finding::error(LIST, 0, message));
    }
    for name in listed.difference(&built) {
        let line = list.lines().position(|line| line.split_whitespace().next() == Some(*name));
        let message = format!("{name} is listed, but the setuid program does not use it on {target}");
        findings.push(Finding::error(LIST, line.map_or(0, |line| line + 1), message));
    }
    // What the list grants to one processor alone does not count against the others' limit.
    let foreign =
        everywhere.iter().filter(|name| **name != "shifter" && !name.starts_with("shifter-")).count();
    if foreign > THIRD_PARTY {
        let message = format!("{foreign} crates of others, and {THIRD_PARTY} are the limit");
        findings.push(Finding::error(LIST, 0, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_and_tree_must_be_equal() {
        let list = "# why\nshifter\nlibc  # C library\nerrno @arm # there only\n";
        let cases = [
            (list, "shifter v0.1.0 (/x)\nlibc v0.2.1\nlibc v0.2.1 (*)\n", "x86-linux", 0),
            (list, "shifter v0.1.0 (/x)\nlibc v0.2.1\n", "arm-linux", 1),
            (list, "shifter v0.1.0 (/x)\nlibc v0.2.1\nerrno v1\n", "arm-linux", 0),
            (list, "shifter v0.1.0 (/x)\nlibc v0.2.1\nerrno v1\n", "x86-linux", 1),
            (list, "shifter v0.1.0 (/x)\n", "x86-linux", 1),
            ("a\nb\nc\nd\ne\n", "a v1\nb v1\nc v1\nd v1\ne v1\n", "x86-linux", 1),
        ];
        for (list, tree, target, expected) in cases {
            let findings = compare(list, tree, target);
            assert_eq!(findings.len(), expected, "{tree} on {target}: {findings:?}");
        }
    }
}
