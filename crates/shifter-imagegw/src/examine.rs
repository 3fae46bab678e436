//! A site's examiner: a program that looks at an image's files before the image is published, and may refuse it.
//!
//! The image is made already. A confined child unpacks it with our own reader into a directory that only this account
//! can enter, and a second one runs the site's program as the original does, `EXAMINER DIRECTORY ID`; any other status
//! than 0 refuses. The directory is gone afterwards, however that ended, and what the program did to it changes nothing
//! of the image. Nothing here runs unless the site has configured an examiner; images that are published already
//! are not examined again.

mod said;
mod supervise;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use self::supervise::{ExamineJob, Verdict};
use crate::confine::{Reach, existing};
use crate::convert::{ConvertError, Converter, hand_over};
use crate::unpack::{UnpackError, Unpacked};

pub(crate) use self::said::{LastWords, last_lines};
pub(crate) use self::supervise::child;

/// How much longer than the examiner its supervisor may take: it ends all that the examiner started.
const GRACE: Duration = Duration::from_secs(30);

/// What a supervisor's answer may be, bytes.
const LONGEST_ANSWER: u64 = 64 << 10;

/// What programs read of the system besides what they run and what is in `/etc`.
const SYSTEM: &[&str] = &["/dev/random", "/dev/urandom", "/dev/zero", "/proc", "/sys/devices/system/cpu"];

/// What a site says of examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Examiner {
    pub(crate) program: PathBuf,
    /// How long it may take.
    pub(crate) time: Duration,
    /// Bytes that an image may unpack to, and that a file may have which the examiner writes.
    pub(crate) bytes: u64,
    /// What it reads and runs besides the system's own programs.
    pub(crate) paths: Vec<PathBuf>,
    /// The gateway's configuration file, which it does not read; empty until it is known.
    pub(crate) configuration: PathBuf,
}

/// Why an image is not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExamineError {
    #[error("this site's examiner refused the image ({status}): {said}")]
    Refused { status: String, said: String },
    #[error("this site's examiner took longer than {} s and was ended; the image is not published", .limit.as_secs())]
    TooLong { limit: Duration },
    #[error("the image could not be unpacked for this site's examiner: {0}")]
    Unpack(#[from] UnpackError),
    #[error("this site's examiner could not be run: {0}")]
    Run(String),
}

impl Examiner {
    /// Whether there is such a program; found out when the gateway starts rather than by the first pull.
    pub(crate) fn check(&self) -> Result<(), String> {
        let named = self.program.display();
        let found = self.program.metadata().map_err(|error| format!("examiner: {named}: {error}"))?;
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
            return Err(format!("examiner: {named} is not a program"));
        }
        match self.paths.iter().find(|path| !path.exists()) {
            Some(path) => Err(format!("ExaminerPaths: {} is not there", path.display())),
            None => Ok(()),
        }
    }

    /// Has an image examined that is not published yet. Dropping the future ends what was started. `unpacked` hears
    /// that the program begins.
    pub(crate) async fn examine(
        &self,
        converter: &Converter,
        image: &Path,
        id: &str,
        expand: &Path,
        unpacked: &(dyn Fn() + Sync),
    ) -> Result<(), ExamineError> {
        let place = Unpacked::new(converter, image, (expand, id), self.bytes, false).await?;
        unpacked();
        match self.run(converter, place, id).await? {
            Verdict::Ended { passed: true, said, .. } => {
                tracing::info!(id, said, "image examined");
                Ok(())
            }
            Verdict::Ended { status, said, .. } => Err(ExamineError::Refused { status, said }),
            Verdict::TooLong => Err(ExamineError::TooLong { limit: self.time }),
            Verdict::Failed(why) => Err(ExamineError::Run(why)),
        }
    }

    async fn run(&self, converter: &Converter, place: Unpacked, id: &str) -> Result<Verdict, ExamineError> {
        let job = ExamineJob {
            program: self.program.clone(),
            tree: place.tree.clone(),
            id: id.to_owned(),
            scratch: place.temporary.clone(),
            seconds: self.time.as_secs(),
            bytes: self.bytes,
            reach: self.reach(&place),
        };
        let talk = |error: ConvertError| ExamineError::Run(error.to_string());
        let start = |error: std::io::Error| ExamineError::Run(error.to_string());
        let mut command = converter.command(true, "examine").map_err(talk)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(start)?;
        let lifeline = hand_over(&mut child, &job).await.map_err(talk);
        let limit = self.time + GRACE;
        // A task of its own, so that the directory stays until all is ended even where nobody waits any more: the
        // lifeline closes then, and the supervisor ends the examiner.
        let supervised = tokio::spawn(async move {
            let mut answer = Vec::new();
            let ended = async {
                if let Some(stdout) = child.stdout.take() {
                    stdout.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
                }
                child.wait().await
            };
            let ended = tokio::time::timeout(limit, ended).await;
            if ended.is_err() {
                // Whoever waits for a disk that does not answer cannot be killed either.
                let _ = child.kill().await;
            }
            let _removed = tokio::task::spawn_blocking(move || drop(place)).await;
            serde_json::from_slice(&answer).unwrap_or_else(|_| match ended {
                Ok(Ok(status)) => {
                    Verdict::Failed(format!("its supervisor ended without an answer ({status})"))
                }
                Ok(Err(error)) => Verdict::Failed(error.to_string()),
                Err(_) => Verdict::TooLong,
            })
        });
        let lifeline = lifeline?;
        let verdict = supervised.await.unwrap_or_else(|error| Verdict::Failed(error.to_string()));
        drop(lifeline);
        Ok(verdict)
    }

    fn reach(&self, place: &Unpacked) -> Reach {
        let mut reach = Reach::default();
        reach.add_programs();
        reach.run.push(self.program.clone());
        reach.run.extend(self.paths.iter().cloned());
        let ours = [Path::new(shifter_core::paths::SYSCONFDIR), &self.configuration];
        reach.read.extend(existing(SYSTEM).chain(public_configuration(Path::new("/etc"), &ours)));
        reach.make = vec![place.tree.clone(), place.temporary.clone()];
        reach.links = true;
        reach
    }
}

/// What everybody may read in a directory, save what is ours or holds it, whatever its name there.
fn public_configuration(directory: &Path, ours: &[&Path]) -> Vec<PathBuf> {
    let ours: Vec<PathBuf> = ours.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_public = |path: &PathBuf| {
        let Ok(real) = path.canonicalize() else { return false };
        !ours.iter().any(|ours| ours.starts_with(&real) || real.starts_with(ours))
            && real.metadata().is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
    };
    entries.filter(is_public).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_gateways_configuration_is_not_the_examiners_by_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, elsewhere) = (dir.path().join("etc"), dir.path().join("elsewhere"));
        for path in [etc.join("public"), etc.join("site"), elsewhere.clone()] {
            std::fs::create_dir_all(path).unwrap();
        }
        for path in
            [etc.join("passwd"), etc.join("shadow"), etc.join("site/gateway.json"), elsewhere.join("x")]
        {
            std::fs::write(path, "").unwrap();
        }
        std::fs::set_permissions(etc.join("shadow"), std::fs::Permissions::from_mode(0o600)).unwrap();
        for (name, to) in
            [("same", "site"), ("file", "site/gateway.json"), ("other", "../elsewhere"), ("all", "/")]
        {
            std::os::unix::fs::symlink(to, etc.join(name)).unwrap();
        }
        let names = |ours: &[&Path]| {
            let mut names: Vec<_> = public_configuration(&etc, ours)
                .iter()
                .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&[&etc.join("same/gateway.json")]), ["other", "passwd", "public"]);
        assert_eq!(names(&[&elsewhere]), ["file", "passwd", "public", "same", "site"]);
    }
}
