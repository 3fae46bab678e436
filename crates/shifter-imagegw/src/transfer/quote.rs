//! Words for a remote account's shell. sshd gives every command line to the account's shell, so this is the only way to
//! run a program with exact arguments; files are transferred without any shell.

/// The words as one command line that shells take for just these words: those of the Bourne family (POSIX Shell Command
/// Language, section 2.2), csh (which knows `!` within quotes) and fish (which knows `\` within quotes).
///
/// None where a word has a control character: csh cannot quote a line feed, and no other has any business here.
pub(crate) fn command_line(words: &[&str]) -> Option<String> {
    let mut line = String::new();
    for (number, word) in words.iter().enumerate() {
        if word.chars().any(char::is_control) {
            return None;
        }
        if number > 0 {
            line.push(' ');
        }
        line.push('\'');
        for character in word.chars() {
            match character {
                '\'' | '!' | '\\' => line.extend(['\'', '\\', character, '\'']),
                other => line.push(other),
            }
        }
        line.push('\'');
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::process::Command;

    use rand::Rng as _;

    use super::*;

    /// What a shell makes of the words, each ended by a line feed.
    fn seen(shell: &str, words: &[String]) -> String {
        let all: Vec<&str> =
            ["printf", "%s\\n"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let out = Command::new(shell).args(["-c", &command_line(&all).unwrap()]).output().unwrap();
        assert!(out.status.success(), "{words:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn no_word_is_anything_but_itself_to_a_shell() {
        const ODD: &[char] = &[
            ' ', '\'', '"', '\\', '!', '$', '`', '*', '?', '[', ']', '{', '}', '(', ')', '<', '>', '|', '&',
            ';', '#', '~', '=', '%', '^', '-', 'a', 'Z', '0', '/', '.', 'é', '雪',
        ];
        let shells = ["/bin/sh", "/bin/bash", "/bin/dash", "/bin/tcsh", "/bin/zsh", "/usr/bin/fish"];
        let shells: Vec<_> = shells.iter().filter(|path| std::path::Path::new(path).exists()).collect();
        assert!(!shells.is_empty());
        let mut random = rand::rng();
        for _ in 0..200 {
            let words: Vec<String> = (0..random.random_range(0..6))
                .map(|_| {
                    (0..random.random_range(0..12)).map(|_| ODD[random.random_range(0..ODD.len())]).collect()
                })
                .collect();
            // printf prints its format once, too, where there are no words.
            let expected = match words.is_empty() {
                true => "\n".to_owned(),
                false => words.iter().map(|word| format!("{word}\n")).collect(),
            };
            for shell in &shells {
                assert_eq!(seen(shell, &words), expected, "{shell} {words:?}");
            }
        }
    }

    #[test]
    fn control_characters_are_refused() {
        for word in ["a\nb", "\0", "\u{1b}[m", "\r", "\u{7f}"] {
            assert_eq!(command_line(&["echo", word]), None, "{word:?}");
        }
    }
}
