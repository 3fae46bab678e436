//! The command lines, in the original's letters; options may stand among the other words.

use shifter_runtime::prepared::is_key;
use std::ffi::OsString;
use std::fmt;

/// `setupRoot`'s help.
pub const SETUP_USAGE: &str = "\
Usage: setupRoot -U UID -G GID -u USER [options] TYPE IDENTIFIER

Prepares a container for a job of USER on this node; shifter joins it.

  -U UID          the user's id
  -G GID          the user's primary group id
  -u USER         the user's name
  -v MAP          a volume map of the user's; may be repeated
  -m MODULES      modules, separated by commas; none for none
  -N \"HOST/TASKS ...\"
                  hosts of the job, for /var/hostsfile; may be repeated
  -s KEY          the user's public key: start an sshd in the container that lets nobody else in
  --identity=FILE where the user has the private one, for ssh in the container; may begin with ~/
  -V              print the plan
  --groups=GID,GID
                  the user's groups; default: what getent initgroups says
  --job=NUMBER    the job's number; unsetupRoot takes it again
  --config=FILE   another udiRoot.conf

TYPE is docker, custom, id or local; IDENTIFIER is what shifterimg lookup prints, or a directory.
";

/// `unsetupRoot`'s help.
pub const UNSETUP_USAGE: &str = "\
Usage: unsetupRoot [--job=NUMBER] [--config=FILE]

Takes down what setupRoot prepared for this job, or without a number all of this node. Nothing there is no error.
";

/// What a command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-U`
    pub uid: u32,
    /// `-G`
    pub gid: u32,
    /// `-u`
    pub user: String,
    /// `-v`, joined by `;`
    pub volumes: String,
    /// `-m`
    pub modules: Option<String>,
    /// `-s`
    pub key: Option<String>,
    /// `--identity`
    pub identity: Option<String>,
    /// `-N`, as the text of `/var/hostsfile`
    pub hosts: Option<String>,
    /// `-V`
    pub verbose: bool,
    /// `--groups`
    pub groups: Option<Vec<u32>>,
    /// `--job`
    pub job: Option<String>,
    /// `--config`
    pub config: Option<String>,
    /// `-h`, `--help`
    pub help: bool,
    /// The words that are no options.
    pub words: Vec<String>,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// No such option here.
    Unknown(String),
    /// An option without its value.
    MissingValue(String),
    /// A value that is none: option, value, what it must be.
    Value(String, String, &'static str),
    /// A word whose bytes are no text.
    NotText(String),
    /// An option that names more hosts and tasks than a container is told of.
    Hosts(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unknown(word) => write!(f, "there is no option {}", word.escape_debug()),
            Fault::MissingValue(option) => write!(f, "{option} needs a value"),
            Fault::Value(option, value, expected) => {
                write!(f, "the value \"{}\" of {option} must be {expected}", value.escape_debug())
            }
            Fault::NotText(word) => write!(f, "the word \"{word}\" is not UTF-8"),
            Fault::Hosts(option) => {
                write!(
                    f,
                    "{option} names more hosts and tasks than a list of {} MiB can hold",
                    LARGEST_LIST >> 20
                )
            }
        }
    }
}

impl std::error::Error for Fault {}

/// Reads the words after the program's name; `letters` are the one-letter options allowed.
pub fn parse<W: Into<OsString>>(words: impl IntoIterator<Item = W>, letters: &str) -> Result<Options, Fault> {
    let mut options = Options::default();
    let text = |word: W| {
        word.into().into_string().map_err(|word| Fault::NotText(word.to_string_lossy().into_owned()))
    };
    let mut words = words.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            options.words.extend(words);
            break;
        }
        let (name, glued) = match word.strip_prefix("--") {
            Some(long) => {
                let (name, value) =
                    long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                (format!("--{name}"), value.map(str::to_owned))
            }
            None if word.starts_with('-') && word.len() > 1 => {
                let end = word.char_indices().nth(2).map_or(word.len(), |(at, _)| at);
                (word[..end].to_owned(), Some(word[end..].to_owned()).filter(|value| !value.is_empty()))
            }
            None => {
                options.words.push(word);
                continue;
            }
        };
        if name.len() == 2 && !letters.contains(&name[1..]) {
            return Err(Fault::Unknown(name));
        }
        let mut value = || glued.clone().or_else(|| words.next()).ok_or(Fault::MissingValue(name.clone()));
        let number = |text: String| {
            let bad = Fault::Value(name.clone(), text.clone(), "a number");
            text.parse().map_err(|_| bad)
        };
        match name.as_str() {
            "-h" | "--help" => options.help = true,
            "-V" => options.verbose = true,
            "-U" => options.uid = number(value()?)?,
            "-G" => options.gid = number(value()?)?,
            "-u" => options.user = value()?,
            "-v" => options.volumes = format!("{};{}", options.volumes, value()?),
            "-m" => options.modules = Some(value()?),
            "-N" => add_hosts(&mut options.hosts, "-N", None, &value()?)?,
            "-s" => options.key = Some(value()?),
            "--identity" => {
                let unfit = |letter: char| letter.is_control() || "\"\\".contains(letter);
                let file = value()?;
                if file.is_empty() || file.contains(unfit) {
                    return Err(Fault::Value(name, file, "a path without quotes and backslashes"));
                }
                options.identity = Some(file);
            }
            "--groups" => {
                let groups = value()?;
                let groups = groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned);
                options.groups = Some(groups.map(number).collect::<Result<_, _>>()?);
            }
            "--job" => options.job = Some(value().and_then(|key| checked_key(&name, key))?),
            "--config" => options.config = Some(value()?),
            _ => return Err(Fault::Unknown(name)),
        }
    }
    Ok(options)
}

fn checked_key(option: &str, key: String) -> Result<String, Fault> {
    if is_key(&key) { Ok(key) } else { Err(Fault::Value(option.to_owned(), key, "a number")) }
}

/// Largest list of a job's hosts, in bytes.
const LARGEST_LIST: usize = 16 << 20;

/// Adds `host/count …` as one host a line, each `count` times; `alone` is the count of a host without one. The option may
/// be repeated: the kernel takes no word of over 128 KiB, see execve(2).
pub(crate) fn add_hosts(
    list: &mut Option<String>,
    option: &str,
    alone: Option<usize>,
    text: &str,
) -> Result<(), Fault> {
    const MOST: usize = 1 << 20;
    let expected = if alone.is_some() { "HOST or HOST/TASKS" } else { "HOST/TASKS" };
    let list = list.get_or_insert_default();
    for word in text.split(|letter: char| letter.is_whitespace() || letter == ',') {
        if word.is_empty() {
            continue;
        }
        let bad = || Fault::Value(option.to_owned(), word.to_owned(), expected);
        let (host, count) = match (word.split_once('/'), alone) {
            (Some((host, count)), _) => (host, count.parse().map_err(|_| bad())?),
            (None, Some(count)) => (word, count),
            (None, None) => return Err(bad()),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_name) || !(1..=MOST).contains(&count) {
            return Err(bad());
        }
        if list.len() + (host.len() + 1) * count > LARGEST_LIST {
            return Err(Fault::Hosts(option.to_owned()));
        }
        list.push_str(&format!("{host}\n").repeat(count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LETTERS: &str = "UGuvmNVsh";

    fn parsed(line: &str) -> Result<Options, Fault> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace('_', " ")), LETTERS)
    }

    #[test]
    fn options_may_stand_anywhere_and_values_be_glued() {
        let expected = Options {
            uid: 1000,
            gid: 100,
            user: "alice".to_owned(),
            volumes: ";/a:/b;/c:/d".to_owned(),
            modules: Some("mpich".to_owned()),
            hosts: Some("n1\nn1\nn2\n".to_owned()),
            groups: Some(vec![100, 7]),
            job: Some("42".to_owned()),
            words: vec!["docker".to_owned(), "abc".to_owned()],
            ..Options::default()
        };
        for line in [
            "-U 1000 -G 100 -u alice -v /a:/b -v /c:/d -m mpich -N n1/2__n2/1 --groups=100,7 --job=42 docker abc",
            "docker -U1000 -G100 -ualice -v/a:/b -v/c:/d abc -mmpich -Nn1/2_n2/1 --groups 100,7 --job 42",
        ] {
            assert_eq!(parsed(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn a_job_of_a_quarter_million_tasks_has_its_hosts() {
        let some = |from: u32| (from..from + 1000).map(|node| format!("r{node:07}/128 ")).collect::<String>();
        let words = ["-N".to_owned(), some(0), "-N".to_owned(), some(1000)];
        let hosts = parse(words, LETTERS).unwrap().hosts.unwrap();
        assert_eq!((hosts.lines().count(), hosts.lines().last()), (256_000, Some("r0001999")));
        let words = ["-N".to_owned(), "r0/1048576 ".repeat(6)];
        let said = parse(words, LETTERS).unwrap_err().to_string();
        assert_eq!(said, "-N names more hosts and tasks than a list of 16 MiB can hold");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, expected) in [
            ("-U x", "the value \"x\" of -U must be a number"),
            ("-U", "-U needs a value"),
            ("-x", "there is no option -x"),
            ("--colour=red", "there is no option --colour"),
            ("-N host1_host2", "the value \"host1\" of -N must be HOST/TASKS"),
            ("-N host1/0", "the value \"host1/0\" of -N must be HOST/TASKS"),
            ("--job=../x", "the value \"../x\" of --job must be a number"),
            ("-N host*/1", "the value \"host*/1\" of -N must be HOST/TASKS"),
            (
                "--identity=a\"b",
                "the value \"a\\\"b\" of --identity must be a path without quotes and backslashes",
            ),
        ] {
            assert_eq!(parsed(line).unwrap_err().to_string(), expected, "{line}");
        }
    }
}
