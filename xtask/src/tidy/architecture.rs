//! No code for one processor only: the supported machines are x86_64, aarch64 and powerpc64le alike.
//!
//! A file that asks for the processor must be in [`WITH_FALLBACK`], with what the other processors get.

use super::Finding;
use super::files::TextFile;
use super::lexer;

/// Signs of processor-specific code in masked source.
const SIGNS: [&str; 4] = ["target_arch", "arch::x86_64", "arch::x86", "asm!"];

/// Path, and what a processor without the special code does instead.
const WITH_FALLBACK: [(&str, &str); 1] = [(
    "crates/shifter-imagegw/src/confine/filter.rs",
    "system calls that only x86_64 still has are on no list; without a filter of ours, a processor goes without",
)];

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    // This file names the signs.
    if file.path == "xtask/src/tidy/architecture.rs"
        || WITH_FALLBACK.iter().any(|(path, _)| *path == file.path)
    {
        return Vec::new();
    }
    let masked = lexer::mask(&file.text);
    let found = |line: &str| SIGNS.iter().find(|sign| line.contains(*sign));
    let lines = masked.lines().enumerate();
    let hits = lines.filter_map(|(number, line)| Some((number + 1, found(line)?)));
    let message = |sign| {
        format!(
            "`{sign}`: code for one processor needs a fallback for the others, and a line in tidy's list that names it"
        )
    };
    hits.map(|(number, sign)| Finding::error(&file.path, number, message(sign))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_specific_code_is_found_outside_comments_and_strings() {
        let text = "#[cfg(target_arch = \"x86_64\")]\nuse std::arch::x86_64::*;\n// target_arch\nlet s = \"asm!\";\n";
        let file = TextFile { path: "crates/a/src/lib.rs".to_owned(), text: text.to_owned() };
        let lines: Vec<_> = check(&file).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 2]);
    }
}
