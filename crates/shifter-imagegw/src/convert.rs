//! Conversion in a process of its own: the parent's side, and the hidden subcommand that is the child. `own` is what the
//! child does with our own writer.
//!
//! The child reads untrusted archives, so it gets nothing else: no environment, no credentials, no
//! core dumps, lower priority, and an empty network namespace where the kernel lets us have one. Its
//! job is one line of JSON on standard input; the pipe then stays open as a lifeline, so that a child
//! never outlives a killed gateway. It answers with lines of JSON: how far it is, and last how it ended.

mod index;
mod own;
mod reuse;

use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use shifter_core::digest::Digest;
use shifter_layers::{Compression, Layer, Limits, Policy};
use shifter_squashfs::Options;
use shifter_squashfs::writer::Encoder;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

pub(crate) use index::About;

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest job and most answers, bytes.
const LONGEST_JOB: u64 = 4 << 20;
const MOST_ANSWERS: u64 = 64 << 20;

/// Ways to run a program without network, best first; the first that works here is used.
const ISOLATIONS: &[(&str, &[&str])] = &[
    ("its own network namespace", &["unshare", "--net", "--"]),
    ("its own user and network namespace", &["unshare", "--user", "--map-current-user", "--net", "--"]),
    ("no namespace of its own; the kernel or unshare(1) does not allow one", &[]),
];

/// Limits and priority for every child, by programs of coreutils and util-linux.
const MANNERS: &[&[&str]] = &[&["prlimit", "--core=0", "--"], &["nice", "-n", "10"]];

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConvertJob {
    /// The gateway's version: an upgrade may have replaced the binary under a running gateway.
    pub(crate) version: String,
    pub(crate) layers: Vec<ConvertLayer>,
    /// The image; an empty file.
    pub(crate) output: PathBuf,
    /// Where temporary files may be.
    pub(crate) scratch: PathBuf,
    pub(crate) converter: Converters,
    /// Where what is made of the layers is to be remembered, each in a file named by its number.
    pub(crate) records: Option<PathBuf>,
    /// What the image will be called.
    pub(crate) image: PathBuf,
}

/// What a site says of conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Converters {
    /// The program, if it is to be none of ours.
    pub(crate) program: Option<Program>,
    /// `mksquashfs` options; empty for our own choice.
    pub(crate) options: Vec<String>,
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
    /// Its verified file, or what is remembered of it.
    pub(crate) path: PathBuf,
    /// The image that has the data of a remembered layer.
    pub(crate) kept: Option<PathBuf>,
    pub(crate) digest: String,
    pub(crate) diff_id: Option<String>,
    pub(crate) compression: String,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Layers begun, bytes of files.
    Progress(usize, u64),
    Done {
        entries: u64,
        bytes: u64,
    },
    /// This layer, by number, cannot be taken from where it was remembered to be.
    Needs(usize),
    Failed(String),
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
    #[error("starting the converter process failed: {0}")]
    Start(std::io::Error),
    #[error("talking to the converter process failed: {0}")]
    Talk(std::io::Error),
    #[error("the converter process ended without an answer ({0}); if it was killed, memory may have run out")]
    Silent(std::process::ExitStatus),
}

/// How children are started on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Converter {
    command: Vec<String>,
}

impl Converter {
    /// Tries out, with this very binary, what the machine allows, and says it in the log.
    pub(crate) async fn find() -> Result<Converter, ConvertError> {
        let program = std::env::current_exe().map_err(ConvertError::Start)?;
        let mut command = Vec::new();
        for words in MANNERS {
            if works(words, &program).await {
                command.extend(words.iter().map(|word| (*word).to_owned()));
            }
        }
        for (name, words) in ISOLATIONS {
            if words.is_empty() || works(words, &program).await {
                tracing::info!(isolation = name, "conversions run in a child process");
                command.extend(words.iter().map(|word| (*word).to_owned()));
                break;
            }
        }
        let program = program.into_os_string().into_string().map_err(|path| {
            let why = format!("the path of this program, {}, is not text", path.display());
            ConvertError::Start(std::io::Error::other(why))
        })?;
        command.extend([program, "convert".to_owned()]);
        Ok(Converter { command })
    }

    /// A stand-in for the child process.
    #[cfg(test)]
    pub(crate) fn from_command(command: &[&str]) -> Converter {
        Converter { command: command.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// Runs one conversion; dropping the future ends the child. `progress` hears of layers begun and bytes of files.
    pub(crate) async fn run(
        &self,
        job: &ConvertJob,
        progress: &(dyn Fn(usize, u64) + Sync),
    ) -> Result<(), ConvertError> {
        let (program, arguments) = self.command.split_first().ok_or_else(|| {
            ConvertError::Start(std::io::Error::other("no command is known for the converter"))
        })?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(ConvertError::Start)?;
        let mut line = serde_json::to_vec(job).map_err(|e| ConvertError::Talk(e.into()))?;
        line.push(b'\n');
        let mut lifeline = child.stdin.take();
        if let Some(stdin) = &mut lifeline {
            stdin.write_all(&line).await.map_err(ConvertError::Talk)?;
            stdin.flush().await.map_err(ConvertError::Talk)?;
        }
        let mut answer = None;
        if let Some(stdout) = child.stdout.take() {
            let mut lines = tokio::io::BufReader::new(stdout.take(MOST_ANSWERS)).lines();
            while let Some(line) = lines.next_line().await.map_err(ConvertError::Talk)? {
                match serde_json::from_str(&line) {
                    Ok(Answer::Progress(layers, bytes)) => progress(layers, bytes),
                    other => answer = other.ok(),
                }
            }
        }
        let status = child.wait().await.map_err(ConvertError::Talk)?;
        drop(lifeline);
        match answer {
            Some(Answer::Done { entries, bytes }) if status.success() => {
                tracing::info!(entries, bytes, output = %job.output.display(), "image converted");
                Ok(())
            }
            Some(Answer::Failed(why)) => Err(ConvertError::Image(why)),
            Some(Answer::Needs(layer)) => Err(ConvertError::Needs(layer)),
            _ => Err(ConvertError::Silent(status)),
        }
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
    let answer = match read_job().map_err(Failure::Told).and_then(|job| convert(&job)) {
        Ok(summary) => Answer::Done { entries: summary.entries_read, bytes: summary.uncompressed_bytes },
        Err(Failure::Needs(layer)) => Answer::Needs(layer),
        Err(Failure::Told(why)) => Answer::Failed(why),
    };
    let is_done = matches!(answer, Answer::Done { .. });
    u8::from(tell(&answer).is_err() || !is_done)
}

fn tell(answer: &Answer) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(answer)?)
}

fn read_job() -> Result<ConvertJob, String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST_JOB)
        .read_line(&mut line)
        .map_err(|error| format!("reading the conversion job failed: {error}"))?;
    let job: ConvertJob =
        serde_json::from_str(&line).map_err(|error| format!("the conversion job is malformed: {error}"))?;
    if job.version != env!("CARGO_PKG_VERSION") {
        return Err(format!(
            "the gateway's binary was replaced (version {} runs, {} is installed); restart the gateway",
            job.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    std::thread::spawn(|| {
        // End of file: the gateway is gone, and nobody wants the image any more.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(3);
    });
    Ok(job)
}

fn convert(job: &ConvertJob) -> Result<shifter_layers::Summary, Failure> {
    let layers = job.layers.iter().map(layer).collect::<Result<Vec<_>, String>>().map_err(Failure::Told)?;
    match way(&job.converter).map_err(Failure::Told)? {
        Way::Own(encoder) => {
            let kept = job.layers.iter().map(reuse::Kept::of).collect();
            let records = job.records.as_deref().map(|folder| reuse::Records {
                folder,
                job: &job.layers,
                image: &job.image,
            });
            own::convert(
                (&layers, kept),
                encoder,
                &job.output,
                (&job.scratch, records),
                &mut |layers, bytes| {
                    // The last answer is the one that counts.
                    let _nobody_listens = tell(&Answer::Progress(layers, bytes));
                },
            )
        }
        Way::Tool(options) => shifter_squashfs::convert(&options, &job.output, |out| {
            let (limits, policy) = (Limits::default(), Policy::default());
            shifter_layers::merge_to_tar(&layers, &limits, &policy, &job.scratch, out)
        })
        .map_err(|error| Failure::Told(sentence(&error))),
    }
}

/// Under what the layers of images made as the site says are remembered; nothing where only whole images are made.
pub(crate) fn key(converters: &Converters) -> Option<String> {
    match way(converters) {
        Ok(Way::Own(encoder)) => Some(index::key(&encoder, &Policy::default())),
        Ok(Way::Tool(_)) | Err(_) => None,
    }
}

/// Whether images can be made as the site says, on this machine.
pub(crate) fn check(converters: &Converters) -> Result<(), String> {
    way(converters).map(drop)
}

/// Our own writer, unless another program is asked for, or options that only mksquashfs understands.
fn way(converters: &Converters) -> Result<Way, String> {
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
        path: layer.path.clone(),
        digest: digest(&layer.digest)?,
        diff_id: layer.diff_id.as_deref().map(digest).transpose()?,
        compression: match layer.compression.as_str() {
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            "none" => Compression::None,
            other => return Err(format!("the conversion job names an unknown compression, \"{other}\"")),
        },
    })
}

/// An error and its causes on one line; causes that the error already tells are not repeated.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
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
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn job() -> ConvertJob {
        ConvertJob {
            version: "0".into(),
            layers: Vec::new(),
            output: "/nonexistent/x".into(),
            scratch: "/nonexistent".into(),
            converter: Converters::default(),
            records: None,
            image: "/nonexistent/y".into(),
        }
    }

    async fn run(command: &[&str]) -> Result<(), ConvertError> {
        Converter::from_command(command).run(&job(), &|_, _| {}).await
    }

    #[tokio::test]
    async fn answers_of_the_child_become_results() {
        run(&["sh", "-c", r#"read job; echo '{"Done":{"entries":1,"bytes":2}}'"#]).await.unwrap();
        for (script, expected) in [
            (r#"read job; echo '{"Failed":"layer x: bad"}'; exit 1"#, "layer x: bad"),
            ("read job; exit 0", "ended without an answer"),
            ("read job; kill -9 $$", "signal: 9"),
            (r#"read job; echo '{"Done":{"entries":1,"bytes":2}}'; exit 1"#, "ended without an answer"),
            (r#"read job; echo garbage"#, "ended without an answer"),
            (r#"read job; echo '{"Needs":3}'; exit 1"#, "layer number 3 cannot be taken"),
        ] {
            let error = run(&["sh", "-c", script]).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{script}: {error}");
        }
        let error = run(&["/nonexistent/program"]).await.unwrap_err().to_string();
        assert!(error.starts_with("starting the converter process failed"), "{error}");
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
                path: "/x".into(),
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
