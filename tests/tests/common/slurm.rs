//! A cluster with Shifter: nodes, the plugin, and images; users submit jobs from the sandbox's machine.

use super::shell_image;
use shifter_tests::fixture::{Entry, file};
use shifter_tests::harness::{Cluster, Munged, Outcome, Sandbox, SlurmOptions, UserCommand};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub struct SlurmSite {
    pub sandbox: Sandbox,
    pub munged: Munged,
    pub cluster: Cluster,
    /// The identifier of an image that says `first` in `/etc/which`.
    pub id: String,
}

/// The entries of an image that says its name in `/etc/which`.
pub fn image_named(name: &str) -> Vec<Entry> {
    let mut entries = shell_image();
    entries.push(file("etc/which", name));
    entries
}

/// Jobs of two nodes with four processors each, whose tasks srun places in different ways.
pub const PLACEMENTS: [&[&str]; 6] = [
    &["-N2", "-n5"],
    &["-n6"],
    &["-N2", "-n4", "--distribution=cyclic"],
    &["-N2", "--ntasks-per-node=3"],
    &["-N2", "-n10", "--overcommit"],
    &["-N2", "-n3", "--cpus-per-task=2"],
];

impl SlurmSite {
    /// So many nodes with these arguments behind the plugin's name.
    pub fn new(nodes: usize, arguments: &str) -> Self {
        Self::with(arguments, SlurmOptions { nodes, ..SlurmOptions::default() }, |_, _| {})
    }

    /// The same with all that Slurm may be told; `make` furnishes the sandbox before Slurm starts.
    pub fn with(arguments: &str, options: SlurmOptions, make: impl FnOnce(&mut Sandbox, &Munged)) -> Self {
        let mut sandbox = Sandbox::with_own_network().unwrap();
        let munged = sandbox.munged("site").unwrap();
        make(&mut sandbox, &munged);
        let id = sandbox.install_image(&image_named("first\n"), "").unwrap();
        let plugin = sandbox.program("shifter_slurm.so").unwrap();
        let plugstack = format!("required {} {arguments}\n", plugin.display());
        let options = SlurmOptions { plugstack, ..options };
        let cluster = sandbox.slurm(&munged, &options).unwrap();
        Self { sandbox, munged, cluster, id }
    }

    /// Gives the plugin other arguments; Slurm reads them whenever it starts something.
    pub fn rearrange(&self, arguments: &str) {
        let plugin = self.sandbox.program("shifter_slurm.so").unwrap();
        fs::write("/etc/slurm/plugstack.conf", format!("required {} {arguments}\n", plugin.display()))
            .unwrap();
    }

    pub fn as_user(&self, name: &str) -> UserCommand {
        self.sandbox.user(name).unwrap().directory(format!("/home/{name}"))
    }

    pub fn run(&self, user: &str, words: &[&str]) -> Outcome {
        self.as_user(user).run(words).unwrap()
    }

    /// `--image=id:…` of the first image.
    pub fn image(&self) -> String {
        format!("--image=id:{}", self.id)
    }

    /// Submits a script of the user's home and waits for the job's end: its exit code and output.
    pub fn batch(&self, user: &str, options: &[&str], script: &str) -> (Option<i32>, String) {
        let path = format!("/home/{user}/script.sh");
        let text =
            if script.starts_with("#!") { script.to_owned() } else { format!("#!/bin/bash\n{script}") };
        fs::write(&path, text).unwrap();
        let output = format!("--output=/home/{user}/out");
        let _absent_is_fine = fs::remove_file(format!("/home/{user}/out"));
        let words = [&["sbatch", "--parsable", &output], options, &[path.as_str()]].concat();
        let job = self.run(user, &words).success().unwrap().trim().to_owned();
        self.end_of(&job);
        (self.code_of(&job), fs::read_to_string(format!("/home/{user}/out")).unwrap_or_default())
    }

    /// The exit code of an ended job; none if a signal ended it.
    pub fn code_of(&self, job: &str) -> Option<i32> {
        let end = self.code_and_signal_of(job);
        let (code, signal) = end.split_once(':').unwrap();
        (signal == "0").then(|| code.parse().unwrap())
    }

    /// Exit code and signal of an ended job, as Slurm writes them: `7:0`, `0:15`.
    pub fn code_and_signal_of(&self, job: &str) -> String {
        let shown = self.run("alice", &["scontrol", "show", "job", job]).success().unwrap();
        shown.split_whitespace().find_map(|word| word.strip_prefix("ExitCode=")).unwrap().to_owned()
    }

    /// The same of a job that must succeed: its output.
    pub fn batch_well(&self, user: &str, options: &[&str], script: &str) -> String {
        let (code, out) = self.batch(user, options, script);
        assert_eq!(code, Some(0), "{out}\n{}", self.logs());
        out
    }

    /// Fails if the hosts' file of such a job is not what srun does.
    pub fn assert_hosts_are_where_srun_puts_tasks(&self, options: &[&str]) {
        let count = "sort | uniq -c | tr '\\n' ' '; echo";
        let script =
            format!("srun --quiet uname -n 2>/dev/null | {count}\nshifter cat /var/hostsfile | {count}\n");
        let out = self.batch_well("alice", options, &script);
        let (by_srun, in_file) = out.split_once('\n').unwrap();
        assert!(by_srun.contains("node1"), "{options:?}: {out}");
        assert_eq!(by_srun, in_file.trim_end_matches('\n'), "{options:?}");
    }

    /// Submits a script and returns the job's number.
    pub fn submit(&self, user: &str, options: &[&str], script: &str) -> String {
        let path = format!("/home/{user}/script-{}.sh", options.len());
        fs::write(&path, format!("#!/bin/bash\n{script}")).unwrap();
        let words = [&["sbatch", "--parsable", "--output=/home/%u/out-%j"], options, &[&path]].concat();
        self.run(user, &words).success().unwrap().trim().to_owned()
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, so: impl Fn() -> bool) {
        let started = Instant::now();
        while !so() {
            assert!(started.elapsed() < Duration::from_secs(60), "not {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a job's end: its state.
    pub fn end_of(&self, job: &str) -> String {
        let state = || {
            let out = self.run("alice", &["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]);
            out.out().trim().to_owned()
        };
        self.until("at an end", || {
            !["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"].contains(&state().as_str())
        });
        state()
    }

    /// Fails unless all that these nodes ran for a user is gone in time: sshd, its keeper, every process of the user's,
    /// mounts at udiMount, and what Shifter keeps of jobs. Counted from the end of the job's own work, not from the
    /// moment that Slurm calls the job ended: its epilogs have run by then.
    pub fn assert_gone(&self, user: &str, nodes: usize, ended: Instant, limit: Duration) {
        let look = format!(
            "pgrep -l -x 'sshd|shifter-keeper' || :; pgrep -a -u {user} || :; \
             grep -F /opt/shifter-test/udi /proc/self/mountinfo || :; [ ! -d /run/shifter ] || \
             find /run/shifter/jobs /run/shifter/slurm -mindepth 1 2>/dev/null || :"
        );
        for node in 1..=nodes {
            loop {
                let found = self.on_node(node, &look);
                if found.is_empty() {
                    break;
                }
                let elapsed = ended.elapsed();
                assert!(elapsed < limit, "node{node} after {elapsed:?}: {found}\n{}", self.logs());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        println!("all gone: {:?}", ended.elapsed());
    }

    /// What a file holds once it is there and not empty.
    pub fn text_of(&self, path: &str) -> String {
        let text = || fs::read_to_string(path).unwrap_or_default();
        self.until(path, || !text().is_empty());
        text()
    }

    pub fn logs(&self) -> String {
        format!("node1:\n{}\nnode2:\n{}", self.cluster.log(1), self.cluster.log(2))
    }

    /// Runs a script of root's on a node.
    pub fn on_node(&self, node: usize, script: &str) -> String {
        self.cluster.node_shell(&self.sandbox, node, script).unwrap()
    }

    /// What jobs have containers on a node.
    pub fn containers(&self, node: usize) -> String {
        self.on_node(node, "ls /run/shifter/jobs 2>/dev/null || :")
    }

    /// No node may have been drained, whatever users did.
    pub fn assert_undrained(&self) {
        let out =
            self.run("alice", &["sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T %E"]).success().unwrap();
        assert!(!out.contains("drain") && !out.contains("down"), "{out}\n{}", self.logs());
    }

    /// Nothing may be left, on nodes or here.
    pub fn finish(self) {
        self.assert_undrained();
        self.give_up();
    }

    /// The same, whatever Slurm thinks of its nodes.
    pub fn give_up(mut self) {
        self.cluster.finish(&mut self.sandbox).unwrap();
        self.sandbox.finish().unwrap();
    }
}

/// One node, on which Slurm makes each job a /tmp and a /dev/shm of its own.
pub fn private_tmp() -> SlurmOptions {
    let more = vec![("JobContainerType", "job_container/tmpfs".to_owned())];
    let text = "AutoBasePath=true\nBasePath=/opt/shifter-test/tmps\n";
    let files = vec![("job_container.conf", text.to_owned())];
    SlurmOptions { nodes: 1, cpus: 2, more, files, ..SlurmOptions::default() }
}

/// Puts OpenSSH below optUdiImage, and these keys into udiRoot.conf: where the tree is.
pub fn offer_openssh(sandbox: &mut Sandbox, keys: &[(&str, &str)]) -> PathBuf {
    let tree = sandbox.prefix().join("udiImage");
    fs::create_dir(&tree).unwrap();
    sandbox.install_openssh(&tree).unwrap();
    let place = tree.display().to_string();
    let always = [("optUdiImage", place.as_str()), ("siteEnvAppend", "PATH=/opt/udiImage/bin")];
    sandbox.write_udiroot(&[&always[..], keys].concat()).unwrap();
    tree
}

/// A script of root's in the sandbox, which all nodes see.
pub fn script(sandbox: &Sandbox, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = sandbox.prefix().join(name);
    fs::write(&path, format!("#!/bin/bash\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Path::new(&path).exists());
    path.display().to_string()
}
