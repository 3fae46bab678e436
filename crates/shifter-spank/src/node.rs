//! What the plugin remembers on a node between a job's prolog, its steps and its epilog: small files of root's below
//! `/run/shifter/slurm`, gone with a reboot and with the job.

use rustix::fs::statfs;
use shifter_core::paths::RUN_DIRECTORY;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Most bytes of a note.
const LARGEST: u64 = 1 << 20;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Fields of proc_pid_stat(5), counted from the one behind the name: the parent, and when the process began.
const PARENT: usize = 1;
const BEGUN: usize = 19;

fn stat_field(pid: &str, number: usize) -> Option<String> {
    let pid: u32 = pid.parse().ok()?;
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.rsplit_once(") ")?.1.split(' ').nth(number).map(str::to_owned)
}

fn is_namespace(pin: &Path) -> bool {
    statfs(pin).is_ok_and(|found| found.f_type as u64 == NSFS_MAGIC)
}

/// What can be noted of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Its container is prepared; the text is [`Prepared`]'s.
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

/// How a job's container was prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Tasks run inside as a whole.
    pub ccm: bool,
    /// What tells the request it was prepared for from any other.
    pub request: String,
    /// All groups of its user that are known.
    pub groups: Vec<u32>,
}

impl Prepared {
    /// What was noted of a job.
    pub fn of(node: &Node, job: u32) -> Option<Self> {
        let text = node.read(job, Note::Prepared)?;
        let mut lines = text.lines();
        let ccm = lines.next() == Some("ccm");
        let request = lines.next().unwrap_or("").to_owned();
        let groups = lines.next().unwrap_or("").split(',').filter_map(|group| group.parse().ok()).collect();
        Some(Self { ccm, request, groups })
    }

    /// Notes it.
    pub fn write(&self, node: &Node, job: u32) -> Result<(), String> {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let how = if self.ccm { "ccm" } else { "" };
        node.write(job, Note::Prepared, &format!("{how}\n{}\n{}\n", self.request, groups.join(",")))
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

    /// Jobs that something is noted of.
    pub fn noted(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.run.join("slurm")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut jobs: Vec<u32> = names.filter_map(|name| name.split_once('.')?.0.parse().ok()).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }

    /// The sshd of a job's container, and the process that keeps it, as long as they are those that `setupRoot` has
    /// recorded: sshd, its keeper and when that began. A number alone may be another process's by now.
    pub fn sshd(&self, job: u32) -> Option<(i32, i32)> {
        let record = fs::read_to_string(self.container(job).join("sshd")).ok()?;
        let words: Vec<&str> = record.split_whitespace().collect();
        let [sshd, keeper, begun] = words[..] else { return None };
        let is_sshds_parent = stat_field(sshd, PARENT).is_some_and(|parent| parent == keeper);
        let is_keeper = stat_field(keeper, BEGUN).is_some_and(|found| found == begun);
        let pid = |word: &str| word.parse().ok().filter(|pid: &i32| *pid > 1);
        (is_keeper && is_sshds_parent).then_some((pid(sshd)?, pid(keeper)?))
    }

    /// The pinned namespace of a job's container. A namespace that Slurm has made for the job shows no others that were
    /// pinned before (`copy_tree` of the kernel's fs/namespace.c); there it is found by the sshd's keeper, which stayed
    /// where the prolog was.
    pub fn pin(&self, job: u32) -> Option<PathBuf> {
        let pin = self.container(job).join("ns");
        let by_keeper = || {
            let (_, keeper) = self.sshd(job)?;
            Some(Path::new(&format!("/proc/{keeper}/root")).join(pin.strip_prefix("/").ok()?))
        };
        if is_namespace(&pin) { Some(pin) } else { by_keeper().filter(|pin| is_namespace(pin)) }
    }

    /// Whether a job's container can be used as it is: its namespace is there, and its sshd runs if it has one.
    pub fn is_whole(&self, job: u32) -> bool {
        let container = self.container(job);
        // The record is what setupRoot writes last.
        is_namespace(&container.join("ns"))
            && container.join("record").exists()
            && (!self.has_sshd(job) || self.sshd(job).is_some())
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
        let prepared = Prepared { ccm: true, request: "a".to_owned(), groups: vec![1, 22] };
        prepared.write(&node, 12).unwrap();
        assert_eq!((Prepared::of(&node, 12), Prepared::of(&node, 7)), (Some(prepared), None));
        // As it was noted before there was more to it.
        node.write(12, Note::Prepared, "ccm").unwrap();
        assert!(Prepared::of(&node, 12).is_some_and(|known| known.ccm && known.groups.is_empty()));
        assert_eq!(node.noted(), [7, 12]);
        assert!(node.forget(12).is_empty() && node.forget(7).is_empty() && !node.knows(7));
        assert!(node.noted().is_empty());
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
    #[test]
    fn a_process_that_only_has_the_number_of_a_jobs_sshd_is_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::at(directory.path());
        fs::create_dir_all(node.container(7)).unwrap();
        // This process stands for a keeper, its child for the sshd.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (sshd, keeper) = (child.id(), std::process::id());
        let begun = stat_field(&keeper.to_string(), BEGUN).unwrap();
        for (record, is_it) in [
            (format!("{sshd} {keeper} {begun}\n"), true),
            (format!("{sshd} {keeper} {begun}0\n"), false),
            (format!("{keeper} {keeper} {begun}\n"), false),
            (format!("1 {keeper} {begun}\n"), false),
            (format!("{sshd} {keeper}\n"), false),
            (format!("x y {begun}\n"), false),
            (String::new(), false),
        ] {
            fs::write(node.container(7).join("sshd"), &record).unwrap();
            assert_eq!(node.sshd(7).is_some(), is_it, "{record}");
            assert!(!node.is_whole(7), "no namespace is pinned");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
