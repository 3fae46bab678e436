//! Control groups of a test, by the kind that this machine has: a place that a site would delegate, and Slurm's own.

use shifter_tests::harness::SlurmOptions;
use std::collections::BTreeSet;
use std::fs;

/// Control groups of the test, which no namespace takes away.
pub struct Groups(pub [String; 2]);

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let _asserted_where_it_matters = fs::remove_dir(group);
        }
    }
}

/// Slurm's groups, by the kind of cgroups of this machine: where they are, what Slurm is told, which line of
/// `/proc/PID/cgroup` is theirs, and a place for those of a site.
fn groups_here() -> (&'static str, &'static str, &'static str, &'static str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        // Slurm has its own in systemd's, whether or not that runs.
        let slice = "/sys/fs/cgroup/system.slice";
        return (slice, "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n", "^0::", "/sys/fs/cgroup");
    }
    let has_freezer =
        mounts.contains(" - cgroup cgroup rw,freezer") && fs::exists("/sys/fs/cgroup/freezer").unwrap();
    assert!(has_freezer, "not to be seen here: there is neither cgroup v2 alone nor cgroup v1's freezer");
    ("/sys/fs/cgroup/freezer", "CgroupPlugin=cgroup/v1\n", ":freezer:", "/sys/fs/cgroup/pids")
}

/// A Slurm that tracks processes by control groups, and a group for `memory_cgroup=`.
pub struct JobGroups {
    /// For `memory_cgroup=`.
    pub base: String,
    /// Which line of `/proc/PID/cgroup` is Slurm's, for grep.
    pub line: &'static str,
    place: &'static str,
    told: &'static str,
    made: Groups,
    made_place: bool,
    before: BTreeSet<String>,
    /// Slurm names its groups by users and jobs alone, which are the same in each test.
    _alone: fs::File,
}

impl JobGroups {
    pub fn new() -> Self {
        let (place, told, line, tree) = groups_here();
        let _alone = fs::File::open("/sys/fs/cgroup").unwrap();
        _alone.lock().unwrap();
        let made_place = fs::create_dir(place).is_ok();
        let base = format!("{tree}/shifter-test-{}", std::process::id());
        let made = Groups([format!("{base}/shifter"), base.clone()]);
        fs::create_dir(&base).unwrap();
        Self { base, line, place, told, made, made_place, before: directories_of(place), _alone }
    }

    /// A Slurm of one node with them.
    pub fn options(&self) -> SlurmOptions {
        let more = vec![("ProctrackType", "proctrack/cgroup".to_owned())];
        let files = vec![("cgroup.conf", self.told.to_owned())];
        SlurmOptions { nodes: 1, cpus: 2, more, files, ..SlurmOptions::default() }
    }

    /// Removes them, Slurm having ended; fails if one of a job's is left.
    pub fn finish(self) {
        drop(self.made);
        // Slurm keeps its own group of the node; it is the test's. Those of jobs are gone with them.
        for group in directories_of(self.place).difference(&self.before) {
            let find = |what: &[&str]| {
                let out = std::process::Command::new("find").arg(group).args(what).output().unwrap();
                String::from_utf8(out.stdout).unwrap()
            };
            assert_eq!(find(&["-name", "job_*"]), "");
            find(&["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
        }
        assert_eq!(directories_of(self.place), self.before);
        if self.made_place {
            fs::remove_dir(self.place).unwrap();
        }
    }
}

fn directories_of(place: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(place).unwrap().flatten().filter(|entry| entry.path().is_dir());
    entries.map(|entry| entry.path().display().to_string()).collect()
}
