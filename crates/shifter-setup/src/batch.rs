//! Jobs of batch systems that have no plugin of ours: what a prologue script knows, as a container. The contract is in
//! docs/administrator.md.
//!
//! What a user asked for is data here: it is split, checked, and looked up with that user's rights, and never passes
//! through a shell.

use crate::options::{Options, add_hosts};
use crate::prepare::{configuration, groups_of, prepare_as};
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::ImageType;
use shifter_runtime::prepared::is_key;
use shifter_runtime::{account, lookup};
use shifter_sys::credentials::{Access, Caller, with_access};
use shifter_sys::lockdown::lock_down_for;
use shifter_sys::{directory as dir, trusted};
use std::fmt;

type Failure = Box<dyn std::error::Error>;

/// `shifter-prologue`'s help.
pub const PROLOGUE_USAGE: &str = "\
Usage: shifter-prologue [options] JOB USER [TYPE:IMAGE]

Prepares a container for a job on this node, for batch systems without a plugin; shifter joins it.

  --request=TEXT          what the user asked for: words SHIFTER_IMAGE=[TYPE:]NAME, SHIFTER_VOLUME=MAP and
                          SHIFTER_MODULE=LIST; others are passed over
  -v MAP                  a volume map; may be repeated
  -m MODULES              modules, separated by commas
  --nodes=TEXT            the job's hosts, separated by blanks or commas, each as often as it has tasks, or once as
                          HOST/TASKS; may be repeated
  --nodes-file=FILE       the same from a file, one a line
  --tasks-per-node=COUNT  each host once in that list, with so many tasks
  --key-file=FILE         the user's public key, read as the user; may begin with ~/. If it is there, an sshd is
                          started in the container
  --config=FILE           another udiRoot.conf
  -V                      print the plan

JOB is the batch system's number; a server's name behind it and an index in brackets are understood. Where no image
is asked for there is nothing to do.
";

/// `shifter-epilogue`'s help.
pub const EPILOGUE_USAGE: &str = "\
Usage: shifter-epilogue [--config=FILE] JOB [USER]

Takes down what shifter-prologue prepared for this job, and ends its sshd. Nothing there is no error.
";

/// What a prologue was called with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The job's number, as a prepared container's key.
    pub key: String,
    /// Whose job it is.
    pub user: String,
    /// The image, with or without its type.
    pub image: Option<String>,
    /// Volume maps, each behind a `;`.
    pub volumes: String,
    /// Modules.
    pub modules: Option<String>,
    /// `--nodes`, as given.
    pub nodes: Option<String>,
    /// `--nodes-file`
    pub nodes_file: Option<String>,
    /// `--tasks-per-node`
    pub tasks_per_node: Option<usize>,
    /// `--key-file`
    pub key_file: Option<String>,
    /// `--config`
    pub config: Option<String>,
    /// `-V`
    pub verbose: bool,
    /// `-h`, `--help`
    pub help: bool,
}

/// What is wrong with the words of a prologue.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// No such option.
    Unknown(String),
    /// An option without its value.
    MissingValue(String),
    /// A value that is none: option, value, what it must be.
    Value(&'static str, String, &'static str),
    /// Too few words, or too many.
    Words,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unknown(word) => write!(f, "there is no option {}", word.escape_debug()),
            Fault::MissingValue(option) => write!(f, "{option} needs a value"),
            Fault::Value(what, value, expected) => {
                write!(f, "the {what} \"{}\" must be {expected}", value.escape_debug())
            }
            Fault::Words => {
                f.write_str("the job's number and its user are needed, and an image at most besides")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// Reads the words after a program's name.
pub fn read(words: impl IntoIterator<Item = String>) -> Result<Job, Fault> {
    let (mut job, mut others) = (Job::default(), Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let (name, glued) = match word.split_once('=').filter(|_| word.starts_with("--")) {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || glued.clone().or_else(|| words.next()).ok_or(Fault::MissingValue(name.clone()));
        match name.as_str() {
            "-h" | "--help" => job.help = true,
            "-V" => job.verbose = true,
            "-v" => job.volumes = format!("{};{}", job.volumes, value()?),
            "-m" => job.modules = Some(value()?),
            "--request" => job.ask(&value()?),
            "--nodes" => job.nodes = Some(format!("{} {}", job.nodes.unwrap_or_default(), value()?)),
            "--nodes-file" => job.nodes_file = Some(value()?),
            "--tasks-per-node" => {
                let text = value()?;
                let count = text.parse().ok().filter(|count| (1..=1 << 16).contains(count));
                job.tasks_per_node = Some(count.ok_or(Fault::Value("tasks per node", text, "a number"))?);
            }
            "--key-file" => job.key_file = Some(value()?),
            "--config" => job.config = Some(value()?),
            option if option.starts_with('-') && option.len() > 1 => return Err(Fault::Unknown(name)),
            _ => others.push(name),
        }
    }
    if job.help {
        return Ok(job);
    }
    let mut others = others.into_iter();
    let (number, user) = others.next().zip(others.next()).ok_or(Fault::Words)?;
    job.key = key_of(&number).ok_or(Fault::Value("job", number, "a number"))?;
    job.user = user;
    job.image = others.next().or(job.image);
    if others.next().is_some() { Err(Fault::Words) } else { Ok(job) }
}

impl Job {
    /// Takes what a user asked for out of a text of theirs.
    fn ask(&mut self, text: &str) {
        for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "SHIFTER_IMAGE" => self.image = Some(value.to_owned()).filter(|image| !image.is_empty()),
                "SHIFTER_VOLUME" => self.volumes = format!("{};{value}", self.volumes),
                "SHIFTER_MODULE" => self.modules = Some(value.to_owned()),
                _ => {}
            }
        }
    }

    /// The hosts, one a line and task; `None` where nobody named any.
    fn hosts(&self) -> Result<Option<String>, Failure> {
        let text = match (&self.nodes, &self.nodes_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => dir::read_host(file, LARGEST_LIST)?,
            (None, None) => return Ok(None),
        };
        let mut hosts = None;
        add_hosts(&mut hosts, "--nodes", Some(1), &text)?;
        if let (Some(hosts), Some(tasks)) = (&mut hosts, self.tasks_per_node) {
            let mut seen = std::collections::BTreeSet::new();
            let once: Vec<&str> = hosts.lines().filter(|host| seen.insert(*host)).collect();
            let (once, mut all) = (once.join(" "), None);
            add_hosts(&mut all, "--nodes", Some(tasks), &once)?;
            *hosts = all.unwrap_or_default();
        }
        Ok(hosts.filter(|hosts| !hosts.is_empty()))
    }
}

/// Largest list of hosts, in bytes.
const LARGEST_LIST: u64 = 16 << 20;
/// Largest public key, in bytes.
const LARGEST_KEY: u64 = 16 << 10;

/// `1234`, `1234.server`, `1234[5].server`: the number, and an index as seven more digits.
fn key_of(job: &str) -> Option<String> {
    let (number, _) = job.split_once('.').unwrap_or((job, ""));
    let key = match number.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
        Some((array, "")) => array.to_owned(),
        Some((array, index)) if is_key(index) && index.len() <= 7 => format!("{array}{index:0>7}"),
        Some(_) => return None,
        None => number.to_owned(),
    };
    is_key(&key).then_some(key)
}

/// Prepares the container that a job asked for; returns what `-V` shows, and nothing where no image was asked for.
pub fn prologue(job: &Job) -> Result<String, Failure> {
    const NOBODY: u32 = 65_534;
    let Some(image) = &job.image else { return Ok(String::new()) };
    let mut locked = lock_down_for(Caller::of_job(NOBODY, NOBODY, &[])?)?;
    let config = configuration(&locked, job.config.as_deref())?;
    let account = account::by_name(&config, &locked, &job.user)
        .map_err(|_| format!("there is no user \"{}\" on this node", job.user.escape_debug()))?;
    let groups = groups_of(&locked, &account.name)?;
    locked.act_for(Caller::of_job(account.uid, account.gid, &groups)?);
    let wanted = Descriptor::parse(image, config.udiroot.default_image_type)?;
    let id = locked.with_helpers_of_the_user(|locked| lookup::identifier(&config, locked, &wanted))?;
    let found = match wanted.image_type {
        ImageType::Local => wanted,
        _ => Descriptor::new(ImageType::Id, &id)?,
    };
    let key = match &job.key_file {
        Some(file) => key_in(file, &account.home, locked.caller())?,
        None => None,
    };
    let options = Options {
        uid: account.uid,
        gid: account.gid,
        user: account.name,
        volumes: job.volumes.clone(),
        modules: job.modules.clone(),
        hosts: job.hosts()?,
        // The private one lies beside it.
        identity: job.key_file.as_ref().and_then(|file| file.strip_suffix(".pub")).map(str::to_owned),
        key,
        job: Some(job.key.clone()),
        ..Options::default()
    };
    prepare_as(&options, &found, &locked, &config)
}

/// A public key of the user's, read with the user's rights; `None` if there is no such file.
fn key_in(file: &str, home: &str, user: &Caller) -> Result<Option<String>, Failure> {
    let path = file.strip_prefix("~/").map_or_else(|| file.to_owned(), |rest| format!("{home}/{rest}"));
    match with_access(Access::AsCaller(user), || {
        trusted::read_all(dir::open_to_read(&path)?, &path, LARGEST_KEY)
    }) {
        Err(error) if error.errno() == Some(2) => Ok(None),
        other => Ok(Some(other?)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(words: &[&str]) -> Result<Job, String> {
        read(words.iter().map(|word| (*word).to_owned())).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_a_user_asked_for_is_data() {
        let text = "nightly run SHIFTER_IMAGE=docker:debian:12;rm -rf SHIFTER_VOLUME=/a:/b;/c:/d\tSHIFTER_MODULE=mpich,gpu PATH=/x";
        let job = of(&["--request", text, "12.server", "alice"]).unwrap();
        assert_eq!(job.image.as_deref(), Some("docker:debian:12;rm"), "and refused as a name later");
        assert_eq!((job.volumes.as_str(), job.modules.as_deref()), (";/a:/b;/c:/d", Some("mpich,gpu")));
        assert_eq!((job.key.as_str(), job.user.as_str()), ("12", "alice"));
        assert_eq!(of(&["12", "alice", "--request=SHIFTER_IMAGE="]).unwrap().image, None);
        assert_eq!(
            of(&["--request=SHIFTER_IMAGE=a", "12", "alice", "b"]).unwrap().image.as_deref(),
            Some("b")
        );
    }

    #[test]
    fn job_numbers_of_batch_systems_become_keys() {
        for (job, expected) in [
            ("123", Some("123")),
            ("123.pbs.example.org", Some("123")),
            ("123[4].pbs", Some("1230000004")),
            ("123[].pbs", Some("123")),
            ("123[4", None),
            ("123[a]", None),
            ("../1", None),
            ("", None),
            ("123[12345678]", None),
        ] {
            assert_eq!(key_of(job).as_deref(), expected, "{job}");
        }
    }

    #[test]
    fn hosts_are_listed_as_often_as_they_have_tasks() {
        for (words, expected) in [
            (&["--nodes=n1,n1 n2\nn3"][..], Some("n1\nn1\nn2\nn3\n")),
            (&["--nodes=n1 n1 n2", "--tasks-per-node=2"], Some("n1\nn1\nn2\nn2\n")),
            (&["--nodes=n1/2 n2", "--nodes=n3/1"], Some("n1\nn1\nn2\nn3\n")),
            (&["--nodes=n1/5 n2/3 n1", "--tasks-per-node=2"], Some("n1\nn1\nn2\nn2\n")),
            (&["--nodes= "], None),
            (&[], None),
        ] {
            let job = of(&[words, &["1", "alice"]].concat()).unwrap();
            assert_eq!(job.hosts().unwrap().as_deref(), expected, "{words:?}");
        }
        for (words, expected) in [
            ("--nodes=n1/x", "the value \"n1/x\" of --nodes must be HOST or HOST/TASKS"),
            ("--nodes=n1;/2", "the value \"n1;/2\" of --nodes must be HOST or HOST/TASKS"),
            (
                "--nodes=abcdefghijklmnopq/1048576",
                "--nodes names more hosts and tasks than a list of 16 MiB can hold",
            ),
        ] {
            let job = of(&[words, "1", "alice"]).unwrap();
            assert_eq!(job.hosts().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (words, expected) in [
            (&["1"][..], "the job's number and its user are needed, and an image at most besides"),
            (
                &["1", "alice", "a", "b"],
                "the job's number and its user are needed, and an image at most besides",
            ),
            (&["x", "alice"], "the job \"x\" must be a number"),
            (&["--colour=red", "1", "alice"], "there is no option --colour"),
            (&["1", "alice", "-m"], "-m needs a value"),
            (&["1", "alice", "--tasks-per-node=0"], "the tasks per node \"0\" must be a number"),
        ] {
            assert_eq!(of(words).unwrap_err(), expected, "{words:?}");
        }
    }
}
