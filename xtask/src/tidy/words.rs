//! Words that project text must not contain: unfinished work, silently skipped tests, and the paths of one
//! developer's machine. The words are put together from pieces, so that this file may name them.

use super::Finding;
use super::files::TextFile;

/// The word, whether it must stand alone, and what to do instead.
const WORDS: [(&str, bool, &str); 5] = [
    (concat!("TO", "DO"), true, "finish it, or open an issue and say nothing here"),
    (concat!("FIX", "ME"), true, "fix it"),
    (concat!("todo", "!("), true, "finish it"),
    (concat!("unimple", "mented!("), true, "implement it, or return an error that says so"),
    (concat!("#[ign", "ore]"), false, "a test is skipped only with a reason: #[ignore = \"why\"]"),
];

/// Absolute paths of one developer's machine; a test's own `/work` without anything below it is fine.
const PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (word, alone, advice) in WORDS {
            if line.match_indices(word).any(|(at, _)| !alone || starts_a_word(line, at)) {
                findings.push(Finding::error(
                    &file.path,
                    number + 1,
                    format!("\"{word}\" may not stay: {advice}"),
                ));
            }
        }
        for path in PATHS {
            if line.match_indices(path).any(|(at, _)| starts_a_path(line, at)) {
                let message = format!(
                    "the path {path}… belongs to one machine: use a temporary directory or a setting"
                );
                findings.push(Finding::error(&file.path, number + 1, message));
            }
        }
    }
    findings
}

fn starts_a_word(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
}

/// Whether the slash at `at` begins an absolute path, rather than continuing one.
fn starts_a_path(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-/}>)$*".contains(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_where_they_are_words() {
        let (work, root) = (PATHS[0], PATHS[1]);
        let cases = [
            (format!("// {}: later", WORDS[0].0), 1),
            ("mastodon METODOS".to_owned(), 0),
            (format!("{}\"x\")", WORDS[2].0), 1),
            (format!("my{}\"x\")", WORDS[2].0), 0),
            (WORDS[4].0.to_owned(), 1),
            ("#[ignore = \"needs a GPU\"]".to_owned(), 0),
            (format!("read({work}x)"), 1),
            (format!("read \"{work}x\""), 1),
            (format!("cp {root}key"), 1),
            (format!("/var{root}key $HOME{work} root:/root:/bin/sh"), 0),
        ];
        for (text, expected) in cases {
            let file = TextFile { path: "a.md".to_owned(), text };
            assert_eq!(check(&file).len(), expected, "{}", file.text);
        }
    }
}
