//! The command line, as the original's: `shifterimg [options] <mode> [type:tag]`.
//!
//! One flat set of options rather than one per mode, so that scripts may put them before the mode, as they had
//! to, or after it. `-u` and `-g`, which the original documented and refused, work. An option that the mode has no
//! use for is an error, except for `--user` and `--group`, which the original accepted everywhere.

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::ImageType;

/// How the program is called.
const USAGE: &str = "shifterimg [options] <mode> [type:tag]";

/// What is printed after the options.
const MORE: &str = "\
type:tag is docker:NAME[:TAG] or custom:NAME; without a type the site's default is taken. inspect, expire, restore,
pin and unpin also take id:IDENTIFIER.

Exit status:
  0  done; for pull and import: the image is ready
  1  anything else: wrong usage, no gateway answered, no such image, the pull failed
  3  the image is not ready yet (with --no-wait)
  4  access was denied, by the gateway or by the registry

Examples:
  shifterimg pull docker:debian:12
  shifterimg --user alice,bob --group lab pull docker:registry.example.org/lab/app:1.4
  shifterimg lookup docker:debian:12
  shifterimg login registry.example.org
  shifterimg images --mine --name 'lab/*'
  shifterimg import /scratch/alice/app.squashfs custom:app:1";

/// Pull, list, look up and manage images of the site's image gateway.
#[derive(Debug, Parser)]
#[command(name = "shifterimg", version, after_help = MORE)]
#[command(override_usage = USAGE)]
pub(crate) struct Cli {
    /// Show what the gateway answers, and progress line by line
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Users who may use a private image: names or ids, comma-separated; repeatable (pull, import)
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) user: Vec<String>,

    /// Groups who may use a private image: names or ids, comma-separated; repeatable (pull, import)
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) group: Vec<String>,

    /// Print the gateway's answer as one JSON document
    #[arg(long)]
    pub(crate) json: bool,

    /// Wait until the image is ready, which is the rule (pull, import)
    #[arg(long, overrides_with = "no_wait")]
    pub(crate) wait: bool,

    /// Start and return (pull, import)
    #[arg(long, overrides_with = "wait")]
    pub(crate) no_wait: bool,

    /// Only images you pulled or imported yourself (images)
    #[arg(long)]
    pub(crate) mine: bool,

    /// Only tags that match, with * and ? (images)
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,

    /// Only images with this label; repeatable (images)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,

    /// The user name at the registry (login)
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,

    /// Read the password from standard input (login)
    #[arg(long)]
    pub(crate) password_stdin: bool,

    /// Store the password without asking the registry about it (login)
    #[arg(long)]
    pub(crate) no_verify: bool,

    /// What the file is: squashfs if nothing is said (import)
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Send the file, which the gateway need not be able to read itself (import)
    #[arg(long)]
    pub(crate) upload: bool,

    /// Remove the image for everybody, as an administrator (rm)
    #[arg(long)]
    pub(crate) all: bool,

    /// Only tell what would be removed (autoexpire)
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How many lookups to show; 10 if nothing is said (metrics)
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<u64>,

    /// What to do
    #[arg(value_enum)]
    pub(crate) mode: Mode,

    /// The image; for login and logout a registry's name, for import the file and then the image
    #[arg(value_name = "type:tag", num_args = 0..=2)]
    pub(crate) what: Vec<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// List the images you may use
    Images,
    /// Print the identifier of an image
    Lookup,
    /// Have the gateway fetch an image, and wait until it is ready
    Pull,
    /// As pull, without waiting
    #[value(hide = true)]
    Pullnb,
    /// End your pull of an image that is not finished
    Cancel,
    /// Store your password for a registry
    Login,
    /// Forget your password for a registry
    Logout,
    /// Make an image from a file
    Import,
    /// Show all that is known of an image
    Inspect,
    /// Show which images a tag stood for
    History,
    /// Give up your right to an image; it is removed when nobody else has one
    Rm,
    /// Show unfinished pulls
    Queue,
    /// Show which gateways answer
    Status,
    /// Remove the image of a tag (administrators)
    Expire,
    /// Remove all images that are past their time (administrators)
    Autoexpire,
    /// Bring back a removed image, named as id:IDENTIFIER (administrators)
    Restore,
    /// Never remove an image for its age, named as id:IDENTIFIER (administrators)
    Pin,
    /// Take a pin away (administrators)
    Unpin,
    /// Show the latest lookups (administrators)
    Metrics,
}

impl Cli {
    /// Refuses options and arguments that the mode has no use for, and misses those it needs.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        use Mode::{Autoexpire, Images, Import, Login, Metrics, Pull, Pullnb, Rm};
        let options: [(&str, bool, &[Mode]); 13] = [
            ("--wait", self.wait, &[Pull, Import]),
            ("--no-wait", self.no_wait, &[Pull, Pullnb, Import]),
            ("--mine", self.mine, &[Images]),
            ("--name", self.name.is_some(), &[Images]),
            ("--label", !self.label.is_empty(), &[Images]),
            ("--username", self.username.is_some(), &[Login]),
            ("--password-stdin", self.password_stdin, &[Login]),
            ("--no-verify", self.no_verify, &[Login]),
            ("--format", self.format.is_some(), &[Import]),
            ("--upload", self.upload, &[Import]),
            ("--all", self.all, &[Rm]),
            ("--dry-run", self.dry_run, &[Autoexpire]),
            ("--limit", self.limit.is_some(), &[Metrics]),
        ];
        for (name, is_given, modes) in options {
            let owner = modes.first().map_or_else(String::new, Mode::word);
            ensure!(!is_given || modes.contains(&self.mode), "{name} belongs to {owner}");
        }
        let (least, most, what) = self.mode.wants();
        let mode = self.mode.word();
        ensure!(self.what.len() >= least, "{mode} needs {what}");
        ensure!(self.what.len() <= most, "{mode} takes {what}");
        if let (Import, [first, second]) = (self.mode, self.what.as_slice()) {
            // No image's name begins like that.
            let is_path = second.starts_with(['/', '.', '~']);
            ensure!(
                !is_path,
                "import needs the file first and then the image's name: import {second} {first}"
            );
        }
        Ok(())
    }

    /// The `number`th word after the mode.
    ///
    /// # Errors
    /// If it is missing, which `check` has told before.
    pub(crate) fn word(&self, number: usize) -> anyhow::Result<&str> {
        self.what.get(number).map(String::as_str).context("an argument is missing")
    }
}

impl Mode {
    fn word(&self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Refuses an identifier where a name is needed: a right, a history and a pull belong to a tag.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn check_type(self, named: ImageType) -> anyhow::Result<()> {
        let takes_id = [Mode::Inspect, Mode::Expire, Mode::Restore, Mode::Pin, Mode::Unpin].contains(&self);
        ensure!(
            named != ImageType::Id || takes_id,
            "{} needs an image's name and takes no identifier; inspect id:IDENTIFIER shows the names",
            self.word()
        );
        Ok(())
    }

    /// The least and the greatest number of words after the mode, and what they are.
    fn wants(self) -> (usize, usize, &'static str) {
        match self {
            Mode::Images | Mode::Queue | Mode::Status | Mode::Autoexpire | Mode::Metrics => {
                (0, 0, "nothing after it")
            }
            Mode::Login | Mode::Logout => (0, 1, "the name of a registry, or nothing"),
            Mode::Import => (2, 2, "a file and the image's name, e.g. app.squashfs custom:app:1"),
            Mode::Restore | Mode::Pin | Mode::Unpin => (1, 1, "an image as id:IDENTIFIER"),
            _ => (1, 1, "the image's name, e.g. docker:debian:12"),
        }
    }
}

/// Refuses a URL or a path where the name of a registry's image is needed.
///
/// # Errors
/// One sentence, with what was probably meant.
pub(crate) fn check_name(wanted: &Descriptor) -> anyhow::Result<()> {
    let meant = wanted.tag.trim_start_matches('/');
    let is_fine = wanted.image_type != ImageType::Docker || meant.len() == wanted.tag.len();
    let meant = if meant.is_empty() { "debian:12" } else { meant };
    ensure!(is_fine, "an image name does not begin with /; write docker:{meant}");
    Ok(())
}

/// What is printed instead of doing something: the help asked for, or what is wrong together with the usage,
/// which clap leaves out for some errors.
pub(crate) fn explanation(error: &clap::Error) -> String {
    let text = error.to_string();
    if error.use_stderr() && !text.contains("Usage: ") { format!("{text}\nUsage: {USAGE}\n") } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("shifterimg").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_the_mode() {
        for line in [
            "--user a,1 -u b --group g -v pull docker:x",
            "pull docker:x -u a,1 --user=b -g g --verbose",
            "-ua,1 pull -v docker:x --user b -gg",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.mode, cli.verbose, cli.json), (Mode::Pull, true, false), "{line}");
            assert_eq!(cli.what, ["docker:x"], "{line}");
            assert_eq!((cli.user, cli.group), (vec!["a", "1", "b"].into_strings(), vec!["g".to_owned()]));
        }
        assert_eq!(parse("pullnb x").unwrap().mode, Mode::Pullnb);
        assert!(parse("--json images").unwrap().what.is_empty());
        assert!(parse("pull x --no-wait --wait").unwrap().wait);
        assert!(!parse("pull x --wait --no-wait").unwrap().wait);
    }

    #[test]
    fn wrong_usage_is_an_error_with_the_usage() {
        for line in ["", "bogus", "pull a b c", "--bogus images", "-u", "PULL x"] {
            let error = parse(line).unwrap_err();
            assert!(error.use_stderr(), "{line}");
            let text = explanation(&error);
            assert!(text.contains("Usage: shifterimg [options] <mode> [type:tag]"), "{line}: {text}");
        }
        assert!(!parse("-h").unwrap_err().use_stderr());
        let help = explanation(&parse("--help").unwrap_err());
        assert!(help.contains("Exit status:") && !help.contains("pullnb"), "{help}");
    }

    #[test]
    fn what_a_mode_has_no_use_for_is_refused() {
        for (line, expected) in [
            ("pull x --mine", "--mine belongs to images"),
            ("images --all", "--all belongs to rm"),
            ("images --no-wait", "--no-wait belongs to pull"),
            ("pull", "pull needs the image's name, e.g. docker:debian:12"),
            ("pull a b", "pull takes the image's name, e.g. docker:debian:12"),
            ("images x", "images takes nothing after it"),
            ("import f", "import needs a file and the image's name, e.g. app.squashfs custom:app:1"),
            (
                "import custom:app:1 /srv/a.sqfs",
                "import needs the file first and then the image's name: import /srv/a.sqfs custom:app:1",
            ),
            ("login a b", "login takes the name of a registry, or nothing"),
            ("pin", "pin needs an image as id:IDENTIFIER"),
        ] {
            assert_eq!(parse(line).unwrap().check().unwrap_err().to_string(), expected, "{line}");
        }
        for line in ["login", "logout x", "import f t --upload", "images --user a", "pullnb x --no-wait"] {
            parse(line).unwrap().check().unwrap();
        }
    }

    #[test]
    fn an_identifier_is_refused_where_the_gateway_would_say_that_there_is_no_such_image() {
        use Mode::{Cancel, Expire, History, Import, Inspect, Lookup, Pin, Pull, Pullnb, Restore, Rm, Unpin};
        for mode in [Inspect, Expire, Restore, Pin, Unpin] {
            mode.check_type(ImageType::Id).unwrap();
        }
        for mode in [Lookup, Pull, Pullnb, Cancel, Import, History, Rm] {
            mode.check_type(ImageType::Docker).unwrap();
            let error = mode.check_type(ImageType::Id).unwrap_err().to_string();
            assert!(error.starts_with(&mode.word()) && error.contains("takes no identifier"), "{error}");
        }
    }

    #[test]
    fn a_url_or_a_path_is_told_from_an_image_name() {
        for (text, meant) in [
            ("docker://lab/app:1", Some("docker:lab/app:1")),
            ("/srv/a.sqfs", Some("docker:srv/a.sqfs")),
            ("docker:/", Some("docker:debian:12")),
            ("docker:lab/app:1", None),
            ("custom:app:1", None),
        ] {
            let wanted = Descriptor::parse(text, Some(ImageType::Docker)).unwrap();
            let said = check_name(&wanted).map_err(|error| error.to_string());
            let expected = meant.map(|meant| format!("an image name does not begin with /; write {meant}"));
            assert_eq!(said.err(), expected, "{text}");
        }
    }

    trait IntoStrings {
        fn into_strings(self) -> Vec<String>;
    }

    impl IntoStrings for Vec<&str> {
        fn into_strings(self) -> Vec<String> {
            self.into_iter().map(str::to_owned).collect()
        }
    }
}
