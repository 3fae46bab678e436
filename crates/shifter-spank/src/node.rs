//! What the plugin remembers on a node between a job's prolog, its steps and its epilog: small files of root's below
//! `/run/shifter/slurm`, gone with a reboot and with the job.

use shifter_core::paths::RUN_DIRECTORY;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

/// Most bytes of a note.
const LARGEST: u64 = 8 << 10;

/// What can be noted of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Its container is prepared; the text says how.
    Prepared,
    /// Its container could not be prepared; the text is for its user.
    Failed,
    /// The extern step has done its part.
    Extern,
    /// Something is set up for it, or was begun; the text is the path of the `unsetupRoot` that takes it down.
    Unsetup,
}

impl Note {
    const ALL: [Note; 4] = [Note::Prepared, Note::Failed, Note::Extern, Note::Unsetup];

    fn suffix(self) -> &'static str {
        match self {
            Note::Prepared => "prepared",
            Note::Failed => "failed",
            Note::Extern => "extern",
            Note::Unsetup => "unsetup",
        }
    }
}

/// The node's state.
#[derive(Clone, Debug)]
pub struct Node {
    run: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Self { run: PathBuf::from(RUN_DIRECTORY) }
    }
}

impl Node {
    /// With its state in another place than [`RUN_DIRECTORY`].
    pub fn at(run: impl Into<PathBuf>) -> Self {
        Self { run: run.into() }
    }

    /// Where `setupRoot` keeps a job's container.
    pub fn container(&self, job: u32) -> PathBuf {
        self.run.join(format!("jobs/{job}"))
    }

    /// Whether `setupRoot` has started an sshd for a job.
    pub fn has_sshd(&self, job: u32) -> bool {
        self.container(job).join("sshd").exists()
    }

    /// The job whose container stands at udiMount.
    pub fn at_udi_mount(&self) -> Option<u32> {
        fs::read_link(self.run.join("jobs/owner")).ok()?.to_str()?.parse().ok()
    }

    /// Jobs that have, or had, a container here; without the one of no job.
    pub fn containers(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.run.join("jobs")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut jobs: Vec<u32> = names.chain(self.at_udi_mount()).filter(|job| *job != 0).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }

    /// Notes something about a job.
    pub fn write(&self, job: u32, note: Note, text: &str) -> Result<(), String> {
        let place = self.run.join("slurm");
        let path = self.path(job, note);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&place);
        let written = made.and_then(|()| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        });
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// What was noted about a job.
    pub fn read(&self, job: u32, note: Note) -> Option<String> {
        let mut text = String::new();
        fs::File::open(self.path(job, note)).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Forgets a job; returns what could not be removed, and why.
    pub fn forget(&self, job: u32) -> Vec<String> {
        let removed = Note::ALL.map(|note| (self.path(job, note), fs::remove_file(self.path(job, note))));
        let faults = removed.into_iter().filter_map(|(path, result)| match result {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Some(format!("cannot remove {}: {error}", path.display()))
            }
            _ => None,
        });
        faults.collect()
    }

    /// Whether there is anything of a job here.
    pub fn knows(&self, job: u32) -> bool {
        Note::ALL.iter().any(|note| self.path(job, *note).exists()) || self.container(job).exists()
    }

    fn path(&self, job: u32, note: Note) -> PathBuf {
        self.run.join(format!("slurm/{job}.{}", note.suffix()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn notes_come_and_go_and_the_containers_of_jobs_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::at(directory.path());
        assert!(!node.knows(7) && node.containers().is_empty() && node.forget(7).is_empty());
        node.write(7, Note::Failed, "why").unwrap();
        node.write(7, Note::Failed, "no").unwrap();
        assert_eq!(node.read(7, Note::Failed).as_deref(), Some("no"));
        assert!(node.read(7, Note::Prepared).is_none() && node.knows(7));
        assert!(node.forget(7).is_empty() && !node.knows(7));
        for name in ["7", "12", "0", "x"] {
            fs::create_dir_all(directory.path().join("jobs").join(name)).unwrap();
        }
        std::os::unix::fs::symlink("99", directory.path().join("jobs/owner")).unwrap();
        assert_eq!((node.containers(), node.at_udi_mount()), (vec![7, 12, 99], Some(99)));
        assert!(!node.has_sshd(7));
        fs::write(directory.path().join("jobs/7/sshd"), "").unwrap();
        assert!(node.has_sshd(7));
        assert!(node.knows(7));
    }
}
