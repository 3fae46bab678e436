//! Conversion in a process of its own: the parent's side, and the hidden subcommand that is the child. `own` is what the
//! child does with our own writer.
//!
//! The child reads untrusted archives, so it gets nothing else: no environment, no credentials, an empty network
//! namespace where the kernel lets us have one, and then it shuts itself in (`confine`). Its job is one line of JSON on
//! standard input; the pipe then stays open as a lifeline, so that a child never outlives a killed gateway. It answers
//! with lines of JSON: how far it is, and last how it ended. Other children that read hostile bytes are run likewise.

mod asked;
mod index;
mod line;
mod own;
mod reuse;
mod talk;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shifter_core::digest::Digest;
use shifter_layers::{Compression, Layer, Limits, Origin, Policy};
use shifter_squashfs::Options;
use shifter_squashfs::writer::{Codec, Encoder};
use tokio::process::Command;

pub(crate) use self::asked::Supply;
pub(crate) use self::index::About;
use self::line::{Answer, end, tell};
pub(crate) use self::line::{answer, hand_over, read_job, shut_in};
use self::talk::Talk;
use crate::confine::{self, Holds, Reach};
use crate::offspring;

pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a child may work, unless the site says otherwise.
pub(crate) const TIME: Duration = Duration::from_secs(14_400);

/// Ways to run a program without network, best first; the first that works here is used.
const ISOLATIONS: &[(&str, &[&str])] = &[
    ("its own network namespace", &["unshare", "--net", "--"]),
    ("its own user and network namespace", &["unshare", "--user", "--map-current-user", "--net", "--"]),
    ("no namespace of its own; the kernel or unshare(1) does not allow one", &[]),
];

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConvertJob {
    pub(crate) layers: Vec<ConvertLayer>,
    /// The image; an empty file.
    pub(crate) output: PathBuf,
    /// Where temporary files may be.
    pub(crate) scratch: PathBuf,
    pub(crate) converter: Converters,
    /// All that the child may touch.
    pub(crate) reach: Reach,
    /// Where what is made of the layers is to be remembered, each in a file named by its number.
    pub(crate) records: Option<PathBuf>,
    /// What the image will be called.
    pub(crate) image: PathBuf,
}

/// What kind of file an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    #[default]
    Squashfs,
    Erofs,
}

impl Format {
    /// As `.meta`, catalog and file names have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Squashfs => "squashfs",
            Format::Erofs => "erofs",
        }
    }
}

/// What a site says of conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Converters {
    /// The program, if it is to be none of ours.
    pub(crate) program: Option<Program>,
    /// `mksquashfs` options; empty for our own choice.
    pub(crate) options: Vec<String>,
    #[serde(default)]
    pub(crate) format: Format,
    /// `mkfs.erofs` options; empty for our own choice.
    #[serde(default)]
    pub(crate) erofs: Vec<String>,
    /// What is kept of layers, by the names of `Policy::NAMES`.
    #[serde(default)]
    pub(crate) keep: Vec<String>,
}

impl Converters {
    /// For images that only this gateway reads, once, as what EROFS images are made of: compressing them is not worth
    /// the time.
    pub(crate) fn for_nobody() -> Converters {
        Converters { format: Format::Erofs, ..Converters::default() }
    }

    pub(crate) fn policy(&self) -> Result<Policy, String> {
        Policy::keeping(&self.keep).map_err(|name| format!("LayerPolicy: \"{name}\" is not known"))
    }
}

/// Programs that can make images beside our own writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Program {
    Mksquashfs,
    Tar2sqfs,
}

/// How an image is made.
enum Way {
    Own(Encoder),
    Tool(Options),
}

/// One layer, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConvertLayer {
    /// Its verified file, or what is remembered of it; what is neither is asked for when its turn comes.
    pub(crate) path: Option<PathBuf>,
    /// The image that has the data of a remembered layer.
    pub(crate) kept: Option<PathBuf>,
    pub(crate) digest: String,
    pub(crate) diff_id: Option<String>,
    pub(crate) compression: String,
}

/// Why the child makes no image.
enum Failure {
    Needs(usize),
    Told(String),
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    /// The child's own sentence.
    #[error("{0}")]
    Image(String),
    #[error("layer number {0} cannot be taken from the image that had it")]
    Needs(usize),
    #[error("the converter process asked for layer number {0}, which is none of those that are fetched")]
    Asks(usize),
    #[error("starting the converter process failed: {0}")]
    Start(std::io::Error),
    #[error("talking to the converter process failed: {0}")]
    Talk(std::io::Error),
    #[error(
        "the converter process took longer than {} s and was ended; for larger images, the gateway's administrator raises \
         ConversionTimeLimit", .0.as_secs()
    )]
    TooLong(Duration),
    #[error("the converter process ended without an answer ({0}); if it was killed, memory may have run out")]
    Silent(std::process::ExitStatus),
}

/// How children are started on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Converter {
    /// What takes the network away from the program behind it.
    isolation: Vec<String>,
    /// This program, or what stands in for it.
    program: Vec<String>,
    /// How long a child may work.
    limit: Duration,
}

impl Converter {
    /// Tries out, with this very binary, what the machine allows, and says it in the log.
    pub(crate) async fn find() -> Result<Converter, ConvertError> {
        let path = std::env::current_exe().map_err(ConvertError::Start)?;
        let mut isolation = Vec::new();
        for (name, words) in ISOLATIONS {
            if words.is_empty() || works(words, &path).await {
                tracing::info!(isolation = name, "conversions run in a child process");
                isolation = words.iter().map(|word| (*word).to_owned()).collect();
                break;
            }
        }
        let program = path.into_os_string().into_string().map_err(|path| {
            let why = format!("the path of this program, {}, is not text", path.display());
            ConvertError::Start(std::io::Error::other(why))
        })?;
        Ok(Converter { isolation, program: vec![program], limit: TIME })
    }

    /// The same with another limit of time.
    pub(crate) fn within(self, limit: Duration) -> Converter {
        Converter { limit, ..self }
    }

    /// A stand-in for the child process.
    #[cfg(test)]
    pub(crate) fn from_command(command: &[&str]) -> Converter {
        let program = command.iter().map(|word| (*word).to_owned()).collect();
        Converter { isolation: Vec::new(), program, limit: TIME }
    }

    /// What this machine does not refuse to a child, found out by a child that tries; each is a whole sentence.
    pub(crate) async fn gaps(&self) -> Result<Vec<&'static str>, ConvertError> {
        let output = self.command(false, "probe")?.stdin(Stdio::null()).output().await;
        let output = output.map_err(ConvertError::Start)?;
        match serde_json::from_slice::<Holds>(&output.stdout) {
            Ok(holds) => Ok(holds.gaps()),
            Err(_) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(ConvertError::Start(std::io::Error::other(format!("{}: {why}", output.status))))
            }
        }
    }

    /// This program with one word, without environment; with the network only where it is asked for.
    pub(crate) fn command(&self, network: bool, verb: &str) -> Result<Command, ConvertError> {
        let isolation: &[String] = if network { &[] } else { self.isolation.as_slice() };
        let mut words = isolation.iter().chain(&self.program);
        let first = words.next().ok_or_else(|| {
            ConvertError::Start(std::io::Error::other("no command is known for the converter"))
        })?;
        let mut command = Command::new(first);
        command.args(words).arg(verb).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
        Ok(command)
    }

    /// Runs one conversion; dropping the future ends the child, which gets the layers without a path from `supply`.
    /// `progress` hears of layers begun and bytes read.
    pub(crate) async fn run(
        &self,
        job: &ConvertJob,
        supply: &mut Supply<'_, '_>,
        progress: &(dyn Fn(usize, u64) + Sync),
    ) -> Result<(), ConvertError> {
        let (entries, bytes) = self.work("convert", job, Some(supply), progress).await?;
        tracing::info!(entries, bytes, output = %job.output.display(), "image converted");
        Ok(())
    }

    /// Runs a child that works on hostile bytes to its end, or to that of its time: entries and bytes that it worked on.
    /// While it waits for a layer, its time stands still.
    pub(crate) async fn work(
        &self,
        verb: &str,
        job: &(impl Serialize + Sync),
        supply: Option<&mut Supply<'_, '_>>,
        progress: &(dyn Fn(usize, u64) + Sync),
    ) -> Result<(u64, u64), ConvertError> {
        let talk = Talk::start(self.command(false, verb)?, self.limit).map_err(ConvertError::Start)?;
        talk.work(job, supply, progress).await
    }
}

/// Whether this program can be run with these words before it.
async fn works(words: &[&str], program: &Path) -> bool {
    let Some((first, arguments)) = words.split_first() else { return true };
    let mut command = Command::new(first);
    command.args(arguments).arg(program).arg("--version").env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// The child: reads the job, converts, answers. Returns the exit status.
pub(crate) fn child() -> u8 {
    match read_job().map_err(Failure::Told).and_then(|job| convert(&job)) {
        Ok(summary) => answer(Ok((summary.entries_read, summary.uncompressed_bytes))),
        Err(Failure::Needs(layer)) => end(&Answer::Needs(layer)),
        Err(Failure::Told(why)) => answer(Err(why)),
    }
}

/// A child that tries what it must not be able to do, and says what it was refused.
pub(crate) fn probe() -> anyhow::Result<()> {
    let holds = confine::probe().map_err(anyhow::Error::msg)?;
    println!("{}", serde_json::to_string(&holds)?);
    Ok(())
}

fn convert(job: &ConvertJob) -> Result<shifter_layers::Summary, Failure> {
    let layers = job.layers.iter().map(layer).collect::<Result<Vec<_>, String>>().map_err(Failure::Told)?;
    let way = way(&job.converter).map_err(Failure::Told)?;
    let policy = job.converter.policy().map_err(Failure::Told)?;
    let mut reach = job.reach.clone();
    if let Way::Tool(options) = &way {
        reach.add_programs();
        // Where its descendants are looked for.
        reach.read.push(PathBuf::from("/proc"));
        offspring::adopt().map_err(Failure::Told)?;
        reach.read.extend(options.extra.iter().map(PathBuf::from).filter(|p| p.is_absolute() && p.exists()));
    }
    let shut_in = match reach.files {
        true => line::shut_in_with_files(&reach).map(Some),
        false => line::shut_in(&reach).map(|()| None),
    };
    let files = shut_in.map_err(Failure::Told)?;
    let origin = |(number, layer): (usize, &ConvertLayer)| match (&layer.path, &files) {
        (None, Some(files)) => Origin::Later(Box::new(move || files.ask(number))),
        _ => Origin::Archive,
    };
    let origins = job.layers.iter().enumerate().map(origin).collect();
    match way {
        Way::Own(encoder) => {
            let kept = job.layers.iter().map(reuse::Kept::of).collect();
            let records = job.records.as_deref().map(|folder| reuse::Records {
                folder,
                job: &job.layers,
                image: &job.image,
            });
            own::convert(
                (&layers, origins, kept),
                (encoder, policy),
                &job.output,
                (&job.scratch, records),
                &mut |begun| {
                    let read = layers.iter().map(|layer| layer.read.load(Ordering::Relaxed)).sum();
                    // The last answer is the one that counts.
                    let _nobody_listens = tell(&Answer::Progress(begun, read));
                },
            )
        }
        Way::Tool(options) => {
            let made = shifter_squashfs::convert(&options, &job.output, |out| {
                shifter_layers::merge_to_tar(&layers, origins, &Limits::default(), &policy, &job.scratch, out)
            });
            // Nobody may write to the image once it is looked at.
            offspring::end_all().map_err(Failure::Told)?;
            made.map_err(|error| Failure::Told(sentence(&error)))
        }
    }
}

/// How our own writer writes images of a site; as it does by itself where the site prefers other programs.
pub(crate) fn encoder(converters: &Converters) -> Result<Encoder, String> {
    Ok(match way(converters)? {
        Way::Own(encoder) => encoder,
        Way::Tool(_) => Encoder::default(),
    })
}

/// A child's report of the bytes that it has read.
pub(crate) fn tell_bytes(bytes: u64) {
    // The last answer is the one that counts.
    let _nobody_listens = tell(&Answer::Progress(0, bytes));
}

/// Under what the layers of images made as the site says are remembered; nothing where only whole images are made.
pub(crate) fn key(converters: &Converters) -> Option<String> {
    match (way(converters), converters.policy()) {
        // Of an EROFS image, no squashfs is kept that layers could be taken from.
        (Ok(Way::Own(encoder)), Ok(policy)) if converters.format == Format::Squashfs => {
            Some(index::key(&encoder, &policy))
        }
        _ => None,
    }
}

/// Whether images can be made as the site says, on this machine.
pub(crate) fn check(converters: &Converters) -> Result<(), String> {
    let policy = converters.policy()?;
    let drops_all = policy == Policy::default();
    match (way(converters)?, converters.format) {
        (_, Format::Erofs) if !drops_all => {
            Err("LayerPolicy: what layers hold besides names, data, permissions and \
             times gets lost on the way to EROFS; remove the key, or set DefaultImageFormat to \"squashfs\""
                .to_owned())
        }
        (_, Format::Erofs) => crate::erofs::check(&converters.erofs),
        (Way::Tool(options), _) if !drops_all => Err(format!(
            "LayerPolicy: only our own writer keeps more than permissions and times, and these options have {} write \
             images; remove the key, or Converter and the options that need it",
            options.converter
        )),
        (Way::Tool(options), _) => try_out(&options),
        (Way::Own(_), _) => Ok(()),
    }
}

/// Has a tool make an image of no layers: only it knows which options it takes.
fn try_out(options: &Options) -> Result<(), String> {
    let place = std::env::temp_dir().join(format!("shifter-imagegw.{:016x}", rand::random::<u64>()));
    std::fs::DirBuilder::new().mode(0o700).create(&place).map_err(|error| {
        let (tool, place) = (options.converter, place.display());
        format!("{tool} cannot be tried out, because the directory {place} cannot be made: {error}")
    })?;
    let policy = Policy::default();
    let made = shifter_squashfs::convert(options, &place.join("image"), |out| {
        shifter_layers::merge_to_tar(&[], Vec::new(), &Limits::default(), &policy, &place, out)
    });
    let _leftovers_are_seen = std::fs::remove_dir_all(&place);
    made.map(drop).map_err(|error| {
        format!("these options were tried out, and no image came of them: {}", sentence(&error))
    })
}

/// Our own writer, unless another program is asked for, or options that only mksquashfs understands.
fn way(converters: &Converters) -> Result<Way, String> {
    if converters.format == Format::Erofs {
        // Read once, and gone: compressing it is not worth the time.
        return Ok(Way::Own(Encoder::new(Codec::None)));
    }
    let tool = match converters.program {
        Some(Program::Tar2sqfs) => shifter_squashfs::Converter::Tar2sqfs,
        Some(Program::Mksquashfs) | None => shifter_squashfs::Converter::Mksquashfs,
    };
    let options =
        Options::from_mksquashfs_arguments(tool, &converters.options).map_err(|error| sentence(&error))?;
    match options.encoder().filter(|_| converters.program.is_none()) {
        Some(encoder) => Ok(Way::Own(encoder)),
        None => {
            options.check().map_err(|error| sentence(&error))?;
            Ok(Way::Tool(options))
        }
    }
}

fn layer(layer: &ConvertLayer) -> Result<Layer, String> {
    let digest =
        |text: &str| Digest::parse(text).map_err(|error| format!("the conversion job is malformed: {error}"));
    Ok(Layer {
        path: layer.path.clone().unwrap_or_default(),
        digest: digest(&layer.digest)?,
        diff_id: layer.diff_id.as_deref().map(digest).transpose()?,
        compression: match layer.compression.as_str() {
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            "none" => Compression::None,
            other => return Err(format!("the conversion job names an unknown compression, \"{other}\"")),
        },
        read: Default::default(),
    })
}

/// An error and its causes on one line.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    chain(error).chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect()
}

/// An error and its causes; causes that the error already tells are not repeated.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::from_raw_os_error(13);
        let error = crate::catalog::CatalogError::Io { operation: "opening", path: "/c".into(), source };
        let error = anyhow::Error::new(error).context("the first\nthe second");
        let expected =
            "the first\nthe second: opening the catalog failed: opening /c: Permission denied (os error 13)";
        assert_eq!(chain(&*error), expected);
        assert_eq!(sentence(&*error), expected.replace('\n', " "));
    }

    fn job() -> ConvertJob {
        ConvertJob {
            layers: Vec::new(),
            output: "/nonexistent/x".into(),
            scratch: "/nonexistent".into(),
            converter: Converters::default(),
            reach: Reach::default(),
            records: None,
            image: "/nonexistent/y".into(),
        }
    }

    async fn run(command: &[&str]) -> Result<(u64, u64), ConvertError> {
        Converter::from_command(command).work("convert", &job(), None, &|_, _| {}).await
    }

    #[tokio::test]
    async fn answers_of_the_child_become_results() {
        run(&["sh", "-c", r#"read job; echo '{"Done":{"entries":1,"bytes":2}}'"#]).await.unwrap();
        for (script, expected) in [
            (r#"read job; echo '{"Failed":"layer x: bad"}'; exit 1"#, "layer x: bad"),
            ("read job; exit 0", "ended without an answer"),
            ("kill -9 $$", "ended without an answer (signal: 9"),
            // What was sent to it lies there unread.
            ("sleep 0.1; kill -9 $$", "ended without an answer (signal: 9"),
            (r#"echo '{"Failed":"not yet"}'; exit 1"#, "not yet"),
            ("read job; kill -9 $$", "signal: 9"),
            (r#"read job; echo '{"Done":{"entries":1,"bytes":2}}'; exit 1"#, "ended without an answer"),
            (r#"read job; echo garbage"#, "ended without an answer"),
            (r#"read job; echo '{"Needs":3}'; exit 1"#, "layer number 3 cannot be taken"),
            (r#"read job; echo '{"Asks":3}'; exec sleep 4325"#, "asked for layer number 3, which is none of"),
        ] {
            let error = run(&["sh", "-c", script]).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{script}: {error}");
        }
        let error = run(&["/nonexistent/program"]).await.unwrap_err().to_string();
        assert!(error.starts_with("starting the converter process failed"), "{error}");
    }

    #[tokio::test]
    async fn a_child_that_never_answers_is_ended_when_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 4323", pid.display());
        let converter = Converter::from_command(&["sh", "-c", &script]).within(Duration::from_secs(1));
        let error = converter.work("convert", &job(), None, &|_, _| {}).await.unwrap_err().to_string();
        assert!(error.contains("took longer than 1 s and was ended"), "{error}");
        let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        for _ in 0..500 {
            if rustix::process::test_kill_process(pid).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it is still there");
    }

    #[tokio::test]
    async fn the_child_gets_no_environment_of_ours() {
        let script = r#"read job; [ "$(env | cut -d= -f1 | grep -vE '^(PATH|PWD|LC_ALL|SHLVL|_|OLDPWD)$' | wc -l)" = 0 ] \
            && echo '{"Done":{"entries":0,"bytes":0}}'"#;
        run(&["sh", "-c", script]).await.unwrap();
    }

    #[test]
    fn a_job_that_makes_no_sense_is_refused() {
        let bad = |digest: &str, compression: &str| {
            layer(&ConvertLayer {
                path: Some("/x".into()),
                kept: None,
                digest: digest.into(),
                diff_id: None,
                compression: compression.into(),
            })
        };
        assert!(bad("sha256:../x", "gzip").is_err());
        assert!(bad(&format!("sha256:{}", "a".repeat(64)), "lzma").is_err());
        assert!(bad(&format!("sha256:{}", "a".repeat(64)), "zstd").is_ok());
    }
}
