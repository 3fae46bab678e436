//! The command line: the original's options by getopt_long's rules (options end at the first other word or
//! `--`; long names may be abbreviated while unambiguous; optional values only after `=` or glued to the
//! letter). Parsing yields data; nothing is looked at or done.

use shifter_core::descriptor::{Descriptor, DescriptorError};
use shifter_core::image_type::ImageType;
use shifter_core::udiroot::ModuleError;
use shifter_core::volume::VolumeError;
use shifter_runtime::command::Entrypoint;
use std::fmt;

pub(crate) const USAGE: &str = "\
Usage: shifter [options] [--] [command [arguments]]
       shifter --help explains the options
";

pub(crate) const HELP: &str = "\
Usage: shifter [options] [--] [command [arguments]]

Runs a command (a shell if none is given) in a container made of an image.

  -i, --image=[TYPE:]NAME   the image: docker:debian:12, id:<identifier>, custom:NAME
  -V, --volume=FROM:TO[:FLAG...]
                            show FROM, a path in the container, at TO; flags are ro and perNodeCache=size=N;
                            may be repeated, or list several separated by ;
  -m, --module=NAME[,NAME]  use these modules of the site instead of the default ones; none for none
  -w, --workdir[=DIR]       start in DIR, or in the image's own directory; default: where you are
      --entrypoint[=CMD]    run the image's entry point (or CMD) with the words given as arguments
      --run                 run what the image is made to run, in its own directory: its entry point, with
                            the words given in place of its command
  -e, --env=NAME=VALUE      set a variable; may be repeated
      --env-file=FILE       set variables from a file in the container, one NAME=VALUE a line
  -E, --clearenv            start from an empty environment instead of yours
  -v, --verbose             explain each step with its time
      --dry-run             print what would be mounted and the environment, and stop
  -h, --help                this text

Without --image, the image is taken from SHIFTER_IMAGETYPE and SHIFTER_IMAGE, or SHIFTER_IMAGEREQUEST,
each also with SLURM_SPANK_ in front, or from SHIFTER=TYPE:NAME; without --volume and --module, these are
taken from SHIFTER_VOLUME and SHIFTER_MODULE.

Exit status: the command's own; 127 if it could not be started; 1 for every other error.
";

/// What the command line asks for.
pub(crate) enum Outcome {
    Help,
    Run(Options),
}

/// `--workdir`
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Workdir {
    #[default]
    OfCaller,
    OfImage,
    Given(Vec<u8>),
}

/// A parsed command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) image: Option<Vec<u8>>,
    pub(crate) workdir: Workdir,
    pub(crate) entrypoint: Entrypoint,
    pub(crate) run_image: bool,
    pub(crate) volumes: Option<Vec<u8>>,
    pub(crate) modules: Option<Vec<u8>>,
    pub(crate) environment: Vec<Vec<u8>>,
    pub(crate) environment_file: Option<Vec<u8>>,
    pub(crate) clear_environment: bool,
    pub(crate) verbose: bool,
    pub(crate) dry_run: bool,
    pub(crate) words: Vec<Vec<u8>>,
}

/// The image asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ImageRequest {
    pub(crate) descriptor: Descriptor,
    /// As typed, for `SHIFTER_IMAGEREQUEST`.
    pub(crate) text: String,
}

impl ImageRequest {
    /// For an image known by its identifier alone, or by its path.
    pub(crate) fn identifier(id: String) -> Result<Self, Fault> {
        let kind = if id.starts_with('/') { ImageType::Local } else { ImageType::Id };
        let descriptor = Descriptor::new(kind, &id);
        let descriptor = descriptor.map_err(|fault| Fault::Image { text: id, fault })?;
        Ok(Self { text: descriptor.to_string(), descriptor })
    }
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Unknown(String),
    Ambiguous { typed: String, among: Vec<&'static str> },
    MissingValue(&'static str),
    UnexpectedValue(&'static str),
    Variable(String),
    NoImage,
    Image { text: String, fault: DescriptorError },
    NoEntrypoint,
    NoWorkdir,
    Volume(VolumeError),
    Module(ModuleError),
    EnvironmentFile { path: String, line: usize },
    NotText { what: String, value: String },
    UserHook { module: String, script: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unknown(typed) => write!(f, "there is no option {}", typed.escape_debug()),
            Fault::Ambiguous { typed, among } => {
                write!(f, "--{} could be --{}", typed.escape_debug(), among.join(" or --"))
            }
            Fault::MissingValue(name) => write!(f, "--{name} needs a value"),
            Fault::UnexpectedValue(name) => write!(f, "--{name} takes no value"),
            Fault::Variable(text) => write!(
                f,
                "Improperly formatted environment variable: \"{}\" is not NAME=VALUE",
                text.escape_debug()
            ),
            Fault::NoImage => f.write_str(
                "No image specified, or specified incorrectly! Name one, e.g. --image=docker:debian:12",
            ),
            Fault::Image { text, fault } => {
                write!(f, "Incorrect format for image identifier \"{}\": {fault}", text.escape_debug())
            }
            Fault::NoEntrypoint => f.write_str("Image does not have a defined entrypoint."),
            Fault::Volume(error) => write!(f, "Failed to parse volume map options: {error}"),
            Fault::Module(error) => write!(f, "Invalid shifter module selection: {error}"),
            Fault::EnvironmentFile { path, line } => write!(
                f,
                "ERROR: Invalid env-file entry: line {line} of {} is not NAME=VALUE",
                path.escape_debug()
            ),
            Fault::NotText { what, value } => write!(
                f,
                "cannot use {what}: \"{value}\" is not UTF-8, which names and paths must be for shifter"
            ),
            Fault::UserHook { module, script } => {
                write!(f, "Failed to setup module {module}: {script} must end with status 0")
            }
            Fault::NoWorkdir => f.write_str("No workdir specified on command line or in image definition."),
        }
    }
}

impl std::error::Error for Fault {}

/// Whether an option has a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    Required,
    Optional,
}

/// Letter (0 for none), long name, value. `-n` was always accepted and meant nothing.
const OPTIONS: &[(u8, &str, Value)] = &[
    (b'h', "help", Value::None),
    (b'v', "verbose", Value::None),
    (b'i', "image", Value::Required),
    (b'V', "volume", Value::Required),
    (b'm', "module", Value::Required),
    (b'w', "workdir", Value::Optional),
    (0, "entrypoint", Value::Optional),
    (0, "run", Value::None),
    (b'e', "env", Value::Required),
    (0, "env-file", Value::Required),
    (b'E', "clearenv", Value::None),
    (0, "dry-run", Value::None),
    (b'n', "", Value::None),
];

/// Reads the words of a command line, the program's name first.
pub(crate) fn parse(words: Vec<Vec<u8>>) -> Result<Outcome, Fault> {
    let mut options = Options::default();
    let mut words = words.into_iter().skip(1).peekable();
    while let Some(word) = words.next_if(|word| word.len() > 1 && word[0] == b'-') {
        if word == b"--" {
            break;
        }
        if let Some(long) = word.strip_prefix(b"--") {
            let (name, glued) = split_at_equals(long);
            let (_, name, value) = find_long(&String::from_utf8_lossy(name))?;
            let value = match (value, glued) {
                (Value::None, Some(_)) => return Err(Fault::UnexpectedValue(name)),
                (Value::Required, None) => Some(words.next().ok_or(Fault::MissingValue(name))?),
                (_, glued) => glued.map(<[u8]>::to_vec),
            };
            if options.apply(name, value)? == Applied::Help {
                return Ok(Outcome::Help);
            }
            continue;
        }
        let mut letters = &word[1..];
        while let Some((letter, rest)) = letters.split_first() {
            let found = OPTIONS.iter().find(|option| option.0 == *letter);
            let Some((_, name, value)) = found else {
                return Err(Fault::Unknown(format!("-{}", char::from(*letter))));
            };
            letters = if *value == Value::None { rest } else { &[] };
            let glued = Some(rest.to_vec()).filter(|rest| !rest.is_empty());
            let value = match value {
                Value::None => None,
                Value::Optional => glued,
                Value::Required => Some(glued.or_else(|| words.next()).ok_or(Fault::MissingValue(name))?),
            };
            if options.apply(name, value)? == Applied::Help {
                return Ok(Outcome::Help);
            }
        }
    }
    options.words = words.collect();
    Ok(Outcome::Run(options))
}

#[derive(PartialEq, Eq)]
enum Applied {
    Done,
    Help,
}

fn split_at_equals(word: &[u8]) -> (&[u8], Option<&[u8]>) {
    match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

/// The option of that name, or the only one that begins with it.
fn find_long(typed: &str) -> Result<&'static (u8, &'static str, Value), Fault> {
    if let Some(exact) = OPTIONS.iter().find(|option| option.1 == typed && !typed.is_empty()) {
        return Ok(exact);
    }
    let near: Vec<_> =
        OPTIONS.iter().filter(|option| !typed.is_empty() && option.1.starts_with(typed)).collect();
    match near.as_slice() {
        [only] => Ok(only),
        [] => Err(Fault::Unknown(format!("--{typed}"))),
        _ => Err(Fault::Ambiguous {
            typed: typed.to_owned(),
            among: near.iter().map(|option| option.1).collect(),
        }),
    }
}

impl Options {
    fn apply(&mut self, name: &str, value: Option<Vec<u8>>) -> Result<Applied, Fault> {
        match name {
            "help" => return Ok(Applied::Help),
            "verbose" => self.verbose = true,
            "image" => self.image = value,
            "workdir" => self.workdir = value.map_or(Workdir::OfImage, Workdir::Given),
            "entrypoint" => self.entrypoint = value.map_or(Entrypoint::OfImage, Entrypoint::Given),
            "run" => {
                self.run_image = true;
                if self.entrypoint == Entrypoint::Unused {
                    self.entrypoint = Entrypoint::AsImageSays;
                }
            }
            "volume" => {
                let before = self.volumes.take().map(|text| [&text[..], b";"].concat());
                self.volumes = Some([before.unwrap_or_default(), value.unwrap_or_default()].concat());
            }
            "module" => self.modules = value,
            "env-file" => self.environment_file = value,
            "env" => self.environment.extend(value.map(checked_variable).transpose()?),
            "clearenv" => self.clear_environment = true,
            "dry-run" => self.dry_run = true,
            _ => {} // -n
        }
        Ok(Applied::Done)
    }

    /// The image: `--image`; else type and name from the environment, each `SHIFTER_…` before
    /// `SLURM_SPANK_SHIFTER_…`; else a whole request from there; else `SHIFTER=type:name`.
    pub(crate) fn image_request(
        &self,
        environment: &[Vec<u8>],
        default: Option<ImageType>,
    ) -> Result<ImageRequest, Fault> {
        let variable = |name: &str| variable(environment, name);
        let request = variable("SHIFTER_IMAGEREQUEST")?;
        if let Some(text) = self.image.as_ref().map(|value| text(value, "--image")).transpose()? {
            return match Descriptor::parse(&text, default) {
                Ok(descriptor) => Ok(ImageRequest { descriptor, text }),
                Err(fault) => Err(Fault::Image { text, fault }),
            };
        }
        let (image_type, image) = (variable("SHIFTER_IMAGETYPE")?, variable("SHIFTER_IMAGE")?);
        let pair = || {
            let descriptor = Descriptor::new(ImageType::parse(&image_type?)?, &image?).ok()?;
            Some(ImageRequest { text: request.clone().unwrap_or_else(|| descriptor.to_string()), descriptor })
        };
        let whole = |text: Option<String>, default| {
            let text = text?;
            Some(ImageRequest { descriptor: Descriptor::parse(&text, default).ok()?, text })
        };
        pair()
            .or_else(|| whole(request.clone(), default))
            .or_else(|| whole(variable("SHIFTER").ok().flatten(), None))
            .ok_or(Fault::NoImage)
    }

    /// `--volume` in the order given, or else `SHIFTER_VOLUME`, or else `SLURM_SPANK_SHIFTER_VOLUME`.
    pub(crate) fn volume_map(&self, environment: &[Vec<u8>]) -> Found {
        given_or(&self.volumes, ["--volume", "SHIFTER_VOLUME"], environment)
    }

    /// `--module`, or else `SHIFTER_MODULE`, or else `SLURM_SPANK_SHIFTER_MODULE`.
    pub(crate) fn module_choice(&self, environment: &[Vec<u8>]) -> Found {
        given_or(&self.modules, ["--module", "SHIFTER_MODULE"], environment)
    }
}

/// A value, if there is one.
type Found = Result<Option<String>, Fault>;

/// A variable that is not empty, or the same one as Slurm passes it on.
fn variable(environment: &[Vec<u8>], name: &str) -> Found {
    let found = ["", "SLURM_SPANK_"].iter().find_map(|prefix| {
        let name = format!("{prefix}{name}");
        let value =
            environment.iter().find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        (!value.is_empty()).then(|| text(value, &name))
    });
    found.transpose()
}

fn given_or(value: &Option<Vec<u8>>, of: [&str; 2], environment: &[Vec<u8>]) -> Found {
    value.as_ref().map_or_else(|| variable(environment, of[1]), |value| text(value, of[0]).map(Some))
}

/// A value that names something: read as anything else than was written, it could name something else.
pub(crate) fn text(value: &[u8], what: &str) -> Result<String, Fault> {
    let refused = |_| Fault::NotText { what: what.to_owned(), value: value.escape_ascii().to_string() };
    std::str::from_utf8(value).map(str::to_owned).map_err(refused)
}

fn checked_variable(entry: Vec<u8>) -> Result<Vec<u8>, Fault> {
    match split_at_equals(&entry) {
        (name, Some(_)) if !name.is_empty() => Ok(entry),
        _ => Err(Fault::Variable(String::from_utf8_lossy(&entry).into_owned())),
    }
}

#[cfg(test)]
mod tests;
