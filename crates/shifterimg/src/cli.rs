//! The command line, as the original's: `shifterimg [options] <mode> [type:tag]`.
//!
//! One flat set of options rather than one per mode, so that scripts may put them before the mode, as they had
//! to, or after it. `-u` and `-g`, which the original documented and refused, work.

use clap::{Parser, ValueEnum};

/// How the program is called.
const USAGE: &str = "shifterimg [options] <mode> [type:tag]";

/// What is printed after the options.
const MORE: &str = "\
type:tag is docker:NAME[:TAG], custom:NAME or id:IDENTIFIER; without a type the site's default is taken.

Exit status:
  0  done; for pull: the image is ready
  1  anything else: wrong usage, no gateway answered, no such image, the pull failed

Examples:
  shifterimg pull docker:debian:12
  shifterimg --user alice,bob --group lab pull docker:registry.example.org/lab/app:1.4
  shifterimg lookup docker:debian:12";

/// Pull, list and look up images of the site's image gateway.
#[derive(Debug, Parser)]
#[command(name = "shifterimg", version, after_help = MORE)]
#[command(override_usage = USAGE)]
pub(crate) struct Cli {
    /// Show what the gateway answers, and progress line by line
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Users who may use a private image: names or ids, comma-separated; repeatable (pull)
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) user: Vec<String>,

    /// Groups who may use a private image: names or ids, comma-separated; repeatable (pull)
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) group: Vec<String>,

    /// Print the gateway's answer as one JSON document
    #[arg(long)]
    pub(crate) json: bool,

    /// What to do
    #[arg(value_enum)]
    pub(crate) mode: Mode,

    /// The image, for pull and lookup
    #[arg(value_name = "type:tag")]
    pub(crate) image: Option<String>,
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
            assert_eq!(cli.image.as_deref(), Some("docker:x"), "{line}");
            assert_eq!((cli.user, cli.group), (vec!["a", "1", "b"].into_strings(), vec!["g".to_owned()]));
        }
        assert_eq!(parse("pullnb x").unwrap().mode, Mode::Pullnb);
        assert_eq!(parse("--json images").unwrap().image, None);
    }

    #[test]
    fn wrong_usage_is_an_error_with_the_usage() {
        for line in ["", "bogus", "pull a b", "--bogus images", "-u", "PULL x"] {
            let error = parse(line).unwrap_err();
            assert!(error.use_stderr(), "{line}");
            let text = explanation(&error);
            assert!(text.contains("Usage: shifterimg [options] <mode> [type:tag]"), "{line}: {text}");
        }
        assert!(!parse("-h").unwrap_err().use_stderr());
        let help = explanation(&parse("--help").unwrap_err());
        assert!(help.contains("Exit status:") && !help.contains("pullnb"), "{help}");
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
