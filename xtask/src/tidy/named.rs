//! Tests that documents name must be there: `crate::test`, or `file::test` for a file in `tests/tests`. A document that
//! names a test which was renamed or removed promises what nobody checks. Whether the test proves what the document
//! says is for people to judge.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::files::TextFile;

/// A name of so many underscores is a sentence, and so a test's, whatever stands before it.
const SENTENCE: usize = 3;

/// Names of tests by the crate, or the file of `tests/tests`, that has them.
type Tests = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let tests = tests(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (index, line) in file.text.lines().enumerate() {
            for (owner, name) in named(line) {
                let known = tests.get(owner);
                if known.map_or(name.matches('_').count() < SENTENCE, |names| names.contains(name)) {
                    continue;
                }
                let message = format!("there is no test {owner}::{name}: name the one that proves this now");
                findings.push(Finding::error(&file.path, index + 1, message));
            }
        }
    }
    findings
}

/// The pairs that a line has between backticks.
fn named(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |text: &str| {
        let of_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        !text.is_empty() && text.bytes().all(of_word)
    };
    let quoted = line.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::"));
    quoted.filter(move |(owner, name)| is_word(owner) && is_word(name))
}

fn tests(files: &[TextFile]) -> Tests {
    let mut tests = Tests::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        if let Some(owner) = owner(&file.path) {
            tests.entry(owner.to_owned()).or_default().extend(functions(&file.text));
        }
    }
    tests
}

/// What documents put before the two colons for a test of this file.
fn owner(path: &str) -> Option<&str> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["crates", name, ..] => Some(name),
        ["tests", "tests", file] => file.strip_suffix(".rs"),
        [name @ ("fuzz" | "xtask"), ..] => Some(name),
        _ => None,
    }
}

/// The functions that have an attribute ending in `test`, or one with arguments such as `tokio::test(…)`.
fn functions(text: &str) -> impl Iterator<Item = String> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(attribute) = line.strip_prefix("#[") {
            let path = attribute.split(['(', ']']).next().unwrap_or_default();
            is_test |= path == "test" || path.ends_with("::test");
            return None;
        }
        let (_, rest) = line.split_once("fn ").filter(|_| is_test)?;
        is_test = false;
        rest.split(['(', '<']).next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_test_that_is_not_there_is_found() {
        let file = |path: &str, text: &str| TextFile { path: path.to_owned(), text: text.to_owned() };
        let sources = [
            file("crates/shifter-core/src/a.rs", "#[cfg(test)]\nmod tests {\n    #[test]\n    fn a_b() {}\n"),
            file(
                "crates/shifter-core/tests/b.rs",
                "#[tokio::test(flavor = \"x\")]\n#[allow(x)]\nasync fn of_crate() {}",
            ),
            file("tests/tests/pull.rs", "fn helper() {}\n#[test]\nfn pulls() {}\nfn other() {}\n"),
        ];
        for (text, expected) in [
            ("`shifter-core::a_b`, `shifter-core::of_crate` and `pull::pulls`", 0),
            ("| x | `shifter-core::a_c` |", 1),
            ("`pull::helper` `pull::other`", 2),
            ("`shifter-api::what_is_gone_is_said`, `gone::of_a_file_now_removed`", 2),
            ("`std::fs`, `Layer::new`, pull::none, `pull::`, `a::b::c`", 0),
        ] {
            let mut files = vec![file("docs/x.md", text)];
            files.extend(sources.iter().map(|known| file(&known.path, &known.text)));
            assert_eq!(check(&files).len(), expected, "{text}");
        }
    }
}
