//! What every Rust file owes its reader: a module doc at the top, and an end within reach.

use super::Finding;
use super::files::TextFile;

/// Longer than this is a smell …
const SMELL: usize = 400;
/// … and longer than this is refused.
const LIMIT: usize = 600;
/// A file whose module doc says this is data, and may be as long as the data is.
const DATA_MARK: &str = "tidy: data table";

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let first = file.text.lines().next().unwrap_or_default();
    if !first.starts_with("//!") || first.trim_start_matches("//!").trim().is_empty() {
        let message = "the file does not open with a module doc: say in `//!` what it is for, why, and what it does not do";
        findings.push(Finding::error(&file.path, 1, message));
    }
    let is_data =
        file.text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains(DATA_MARK));
    let lines = file.text.lines().count();
    if lines > LIMIT && !is_data {
        let message = format!("{lines} lines where {LIMIT} is the limit: split it by what changes together");
        findings.push(Finding::error(&file.path, 0, message));
    } else if lines > SMELL && !is_data {
        findings.push(Finding::warning(
            &file.path,
            0,
            format!("{lines} lines; {SMELL} is where reading gets hard"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_open_with_a_doc_and_end_in_time() {
        let doc = "//! What and why.\n";
        let data = "//! Numbers.\n//! tidy: data table\n";
        let cases = [
            (doc.to_owned(), 0, 0),
            ("fn f() {}\n".to_owned(), 1, 0),
            ("//!\n".to_owned(), 1, 0),
            (String::new(), 1, 0),
            (format!("{doc}{}", "\n".repeat(399)), 0, 0),
            (format!("{doc}{}", "\n".repeat(400)), 0, 1),
            (format!("{doc}{}", "\n".repeat(600)), 1, 0),
            (format!("{data}{}", "\n".repeat(900)), 0, 0),
        ];
        for (text, errors, warnings) in cases {
            let lines = text.lines().count();
            let found = check(&TextFile { path: "a.rs".to_owned(), text });
            let seen = found.iter().filter(|finding| !finding.warning).count();
            assert_eq!((seen, found.len() - seen), (errors, warnings), "{lines} lines");
        }
    }
}
