//! Which of ssh's and scp's options a site may give, and what they mean for the one connection that there is.
//!
//! What would take the connection away from us (another destination, another mode of ssh) is refused by name. scp itself
//! is not run: what its options say of the connection holds for ours, and what they say of copying is done without.

/// ssh(1)'s options without and with an argument that are left to sites.
const SSH: (&str, &str) = ("46AaCKkqTvXxYyn", "BbceFIiJmopP");

/// scp(1)'s: those that mean the same to ssh, and those that have no meaning where SFTP copies single files.
const SCP: (&str, &str) = ("46ACqvT3BOpRrs", "cFiJoPX");
const SCP_ONLY: &str = "T3BOpRrsX";

/// Checks `sshCmdOptions`.
pub(crate) fn of_ssh(words: &[String]) -> Result<Vec<String>, String> {
    let options = split(words, SSH)?;
    Ok(options.into_iter().flat_map(|(option, argument)| joined(option, argument)).collect())
}

/// What `scpCmdOptions` add to the options of ssh, of which each counts where it stands first.
pub(crate) fn of_scp(words: &[String], of_ssh: &[String]) -> Result<Vec<String>, String> {
    let known = split(of_ssh, SSH)?;
    let options = split(words, SCP)?.into_iter().filter(|(option, _)| !SCP_ONLY.contains(*option));
    let options = options.map(|(option, argument)| (if option == 'P' { 'p' } else { option }, argument));
    let more = options.filter(|option| !known.contains(option));
    Ok(more.flat_map(|(option, argument)| joined(option, argument)).collect())
}

fn joined(option: char, argument: Option<String>) -> Vec<String> {
    [Some(format!("-{option}")), argument].into_iter().flatten().collect()
}

/// Words into options, by getopt(3)'s rules.
fn split(
    words: &[String],
    (plain, with_argument): (&str, &str),
) -> Result<Vec<(char, Option<String>)>, String> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
        let mut letters =
            letters.ok_or_else(|| format!("\"{}\" is not an option", word.escape_default()))?.chars();
        while let Some(letter) = letters.next() {
            if plain.contains(letter) {
                found.push((letter, None));
            } else if with_argument.contains(letter) {
                let argument = match letters.as_str() {
                    // Some sites write an option and its argument as one word: "-p 2222".
                    "" => words.next().cloned(),
                    attached => Some(attached.trim_start().to_owned()),
                };
                let argument = argument.ok_or_else(|| format!("option -{letter} has no argument"))?;
                found.push((letter, Some(argument)));
                break;
            } else {
                return Err(format!("option -{} cannot be used here", letter.escape_default()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split('|').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn options_that_would_take_the_connection_elsewhere_are_refused_by_name() {
        for (given, expected) in [
            ("", Ok("")),
            ("-q|-o|StrictHostKeyChecking=yes|-p|22", Ok("-q|-o|StrictHostKeyChecking=yes|-p|22")),
            ("-p 2222|-oUser=x", Ok("-p|2222|-o|User=x")),
            ("-4C", Ok("-4|-C")),
            ("otherhost", Err("\"otherhost\" is not an option")),
            ("-o", Err("option -o has no argument")),
            ("-N", Err("option -N cannot be used here")),
            ("-qW|host:22", Err("option -W cannot be used here")),
            ("--", Err("option -- cannot be used here")),
            ("-", Err("\"-\" is not an option")),
        ] {
            let expected = expected.map(words).map_err(str::to_owned);
            assert_eq!(of_ssh(&words(given)), expected, "{given}");
        }
    }

    #[test]
    fn options_of_scp_hold_for_the_connection_or_mean_nothing_or_are_refused() {
        for (given, expected) in [
            ("-P|2222|-c|aes128-ctr", Ok("-p|2222|-c|aes128-ctr")),
            ("-p|-B|-r|-O|-X|buffer=1", Ok("")),
            // ssh has it already.
            ("-o|A=b|-P|22", Ok("-p|22")),
            ("-l|1000", Err("option -l cannot be used here")),
            ("-S|/bin/x", Err("option -S cannot be used here")),
        ] {
            let expected = expected.map(words).map_err(str::to_owned);
            assert_eq!(of_scp(&words(given), &words("-q|-o|A=b")), expected, "{given}");
        }
    }
}
