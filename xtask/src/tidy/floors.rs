//! Which crate may use which of ours: stairs only go down, and rooms on one floor do not open into each other.
//!
//! The table is that of ARCHITECTURE.md. Development dependencies are not checked: a test may look sideways.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Finding;

/// Crate, and the crates of ours that it may use.
const FLOORS: [(&str, &[&str]); 16] = [
    // Ground.
    ("shifter-sys", &[]),
    ("shifter-core", &[]),
    ("shifter-munge", &[]),
    // Engines.
    ("shifter-runtime", &["shifter-sys", "shifter-core"]),
    ("shifter-api", &["shifter-core", "shifter-munge"]),
    ("shifter-registry", &["shifter-core"]),
    ("shifter-layers", &["shifter-core"]),
    ("shifter-squashfs", &[]),
    ("shifter-fasthash", &["shifter-core"]),
    ("shifter-spank", &["shifter-core"]),
    // Programs.
    ("shifter", &["shifter-runtime", "shifter-core", "shifter-sys"]),
    ("shifter-setup", &["shifter-runtime", "shifter-core", "shifter-sys"]),
    ("shifterimg", &["shifter-api", "shifter-core"]),
    (
        "shifter-imagegw",
        &[
            "shifter-api",
            "shifter-registry",
            "shifter-layers",
            "shifter-squashfs",
            "shifter-fasthash",
            "shifter-core",
            "shifter-munge",
        ],
    ),
    ("shifter-slurm", &["shifter-spank", "shifter-core"]),
    // Workbench.
    ("xtask", &[]),
];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version=1", "--locked"];
    let output =
        Command::new(cargo).args(arguments).current_dir(root).output().context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    Ok(judge(&metadata))
}

fn judge(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest =
            if name == "xtask" { "xtask/Cargo.toml".to_owned() } else { format!("crates/{name}/Cargo.toml") };
        if !package["manifest_path"].as_str().unwrap_or_default().ends_with(&manifest) {
            findings.push(Finding::error(
                &manifest,
                0,
                format!("{name} must lie in the directory of its name"),
            ));
        }
        let Some((_, allowed)) = FLOORS.iter().find(|(known, _)| *known == name) else {
            findings.push(Finding::error(
                &manifest,
                0,
                format!("{name} stands on no floor: add it to tidy's table"),
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if !for_tests && ours.contains(&used) && !allowed.contains(&used) {
                let message =
                    format!("{name} may not use {used}: the stairs of ARCHITECTURE.md do not lead there");
                findings.push(Finding::error(&manifest, 0, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sideways_and_upward_use_is_refused() {
        let package = |name: &str, uses: Value| json!({"name": name, "manifest_path": format!("/x/crates/{name}/Cargo.toml"), "dependencies": uses});
        let uses = |name: &str, kind: Value| json!([{"name": name, "kind": kind}]);
        let cases = [
            ("shifter-runtime", uses("shifter-sys", Value::Null), 0),
            ("shifter-runtime", uses("shifter-api", Value::Null), 1),
            ("shifter-runtime", uses("shifter-api", json!("dev")), 0),
            ("shifter-core", uses("shifter-sys", json!("build")), 1),
            ("shifter-unknown", json!([]), 1),
        ];
        for (name, dependencies, expected) in cases {
            let others = ["shifter-sys", "shifter-api"].map(|other| package(other, json!([])));
            let mut packages = others.to_vec();
            packages.push(package(name, dependencies.clone()));
            let findings = judge(&json!({"packages": packages}));
            assert_eq!(findings.len(), expected, "{name} {dependencies}: {findings:?}");
        }
    }
}
