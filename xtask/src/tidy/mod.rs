//! All checks, one report: every finding is a sentence with file and line, and none stops the others.

mod architecture;
mod closure;
mod files;
mod floors;
mod lexer;
mod measure;
mod named;
mod required;
mod source;
mod words;

use std::fmt;
use std::path::Path;

use anyhow::Result;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// Path from the repository's root.
    path: String,
    /// The line, counted from 1; 0 where the finding concerns the whole file.
    line: usize,
    /// What is wrong, and what to do about it.
    message: String,
    /// Whether it only warns.
    warning: bool,
}

impl Finding {
    fn error(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into(), warning: false }
    }

    fn warning(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::error(path, line, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning" } else { "error" };
        match self.line {
            0 => write!(f, "{}: {kind}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {kind}: {}", self.path, self.message),
        }
    }
}

/// Runs every check below `root` and prints the findings; true where none is an error.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let files = files::project_text(root)?;
    let mut findings = Vec::new();
    findings.extend(floors::check(root)?);
    findings.extend(closure::check(root)?);
    let sizes = measure::check(&files);
    findings.extend(sizes.findings);
    for file in &files {
        findings.extend(words::check(file));
        if file.is_rust() {
            findings.extend(source::check(file));
            findings.extend(architecture::check(file));
        }
    }
    findings.extend(named::check(&files));
    findings.extend(required::check(root, &files));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.warning).count();
    println!(
        "tidy: {} files, {errors} errors, {} warnings; setuid closure {} lines (shifter-sys {}), {} unsafe blocks",
        files.len(),
        findings.len() - errors,
        sizes.closure_lines,
        sizes.sys_lines,
        sizes.unsafe_blocks
    );
    Ok(errors == 0)
}
