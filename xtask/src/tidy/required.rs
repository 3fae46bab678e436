//! Files that must exist from the first day on, and the little that can be checked about them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Finding;
use super::files::TextFile;

/// Path and purpose.
const FILES: [(&str, &str); 17] = [
    (".ci/run", "what continuous integration calls"),
    (".config/nextest.toml", "groups for tests that need root or a daemon"),
    ("ARCHITECTURE.md", "the code map and the invariants"),
    ("CHANGELOG.md", "what changed for users"),
    ("COMPAT.md", "every deliberate difference from the original, with its test"),
    ("CONTRIBUTING.md", "how to work here"),
    ("Cargo.lock", "the versions that were tested"),
    ("LICENSE-APACHE", "the license"),
    ("LICENSE-MIT", "the other license"),
    ("README.md", "what this is, and the two commands"),
    ("SECURITY.md", "how to report, and what is promised"),
    ("privileged-closure.txt", "what the setuid program may consist of"),
    ("quickstart", "the first command"),
    ("rust-toolchain.toml", "the compiler"),
    ("rustfmt.toml", "the layout"),
    ("test", "the second command"),
    ("tests/Cargo.lock", "the versions the tests were tested with"),
];

const PROGRAMS: [&str; 3] = [".ci/run", "quickstart", "test"];
const ARCHITECTURE_LINES: usize = 300;

pub(super) fn check(root: &Path, files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, purpose) in FILES {
        match std::fs::metadata(root.join(path)) {
            Ok(found) if found.is_file() => {
                let executable = found.permissions().mode() & 0o111 == 0o111;
                if PROGRAMS.contains(&path) && !executable {
                    findings.push(Finding::error(path, 0, "must be executable by all: chmod 0755"));
                }
            }
            _ => findings.push(Finding::error(path, 0, format!("is missing: {purpose}"))),
        }
    }
    if let Some(file) = files.iter().find(|file| file.path == "ARCHITECTURE.md") {
        findings.extend(architecture(file));
    }
    findings
}

fn architecture(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    if lines > ARCHITECTURE_LINES {
        let message = format!("{lines} lines; a map of more than {ARCHITECTURE_LINES} is not read");
        findings.push(Finding::error(&file.path, 0, message));
    }
    if !file.text.contains("**Invariant") {
        findings.push(Finding::error(&file.path, 0, "states no **Invariant**"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_document_is_short_and_states_invariants() {
        let cases = [("**Invariants**\n".to_owned(), 0), ("x\n".to_owned(), 1), ("x\n".repeat(301), 2)];
        for (text, expected) in cases {
            let file = TextFile { path: "ARCHITECTURE.md".to_owned(), text };
            assert_eq!(architecture(&file).len(), expected);
        }
    }

    #[test]
    fn an_empty_repository_lacks_everything() {
        let findings = check(Path::new("/nonexistent"), &[]);
        assert_eq!(findings.len(), FILES.len());
    }
}
