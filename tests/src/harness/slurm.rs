//! A real Slurm: slurmctld on the sandbox's machine, and nodes that have mounts, network, host name and process ids
//! of their own, each with a slurmd.
//!
//! A node is a process that does nothing but reap; the kernel ends all of it with that one, and that one with the
//! test. Nothing is pinned anywhere, so a killed test leaves nothing. Home directories, programs, image directory and
//! munge's socket are shared by all nodes, as on a cluster. No systemd, and no cgroups unless a test asks for them.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::accounts::host_account;
use super::command::Outcome;
use super::daemon::{DaemonId, Start};
use super::munged::Munged;
use super::namespace::set_mode;
use super::sandbox::Sandbox;

/// The address of the sandbox's machine, which users log in to.
pub(super) const ADDRESS: &str = "10.250.0.1";
/// The bridge between it and the nodes.
const BRIDGE: &str = "shbr0";
/// How long nodes may take to be idle.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where every program of Slurm looks by itself.
const CONFIGURATION: &str = "/etc/slurm";

/// What a test's Slurm is told.
#[derive(Debug, Clone, Default)]
pub struct SlurmOptions {
    /// Number of nodes, named node1 and so on; at most 200.
    pub nodes: usize,
    /// Processors of each, whatever the machine has; 0 for 2.
    pub cpus: u32,
    /// Lines of `plugstack.conf`.
    pub plugstack: String,
    /// Lines that replace or join those of `slurm.conf`, by key.
    pub more: Vec<(&'static str, String)>,
    /// Further files beside `slurm.conf`.
    pub files: Vec<(&'static str, String)>,
}

/// A node of a running cluster.
#[derive(Debug, Clone)]
struct Node {
    daemon: DaemonId,
    /// Its first process, as the sandbox's machine numbers it.
    init: String,
    /// Its mounts before the first job.
    mounts: Vec<String>,
}

/// A running Slurm. Users' commands run on the sandbox's machine: `sandbox.user("alice")?.run(&["sbatch", …])`.
#[derive(Debug, Clone)]
pub struct Cluster {
    nodes: Vec<Node>,
    directory: PathBuf,
    /// The controller, for [`Sandbox::stop`].
    pub controller: DaemonId,
}

/// Furnishes an empty network: loopback, the bridge, a host name.
pub(super) fn make_network(sandbox: &Sandbox) -> Result<()> {
    let commands = format!(
        "link set lo up\nlink add {BRIDGE} type bridge\naddr add {ADDRESS}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
    );
    sandbox.root().stdin(commands).run(&["ip", "-batch", "-"])?.success()?;
    sandbox.root().run(&["hostname", "login"])?.success().map(drop)
}

/// Whether Slurm here is older than 21.08.
fn is_old(sandbox: &Sandbox) -> Result<bool> {
    Ok(sandbox.root().run(&["slurmctld", "-V"])?.success()?.contains(" 20."))
}

fn address_of(node: usize) -> String {
    format!("10.250.0.{}", 10 + node)
}

impl Sandbox {
    /// Starts Slurm on a sandbox with a network of its own; all nodes are idle when this returns.
    pub fn slurm(&mut self, munged: &Munged, options: &SlurmOptions) -> Result<Cluster> {
        if self.address() != ADDRESS {
            bail!("Slurm's nodes need Sandbox::with_own_network");
        }
        let directory = self.new_directory("slurm")?;
        let (uid, gid) =
            host_account("slurm").context("Slurm is not installed: there is no account slurm")?;
        for name in ["state", "log", "spool"] {
            fs::create_dir(directory.join(name)).with_context(|| format!("create Slurm's {name}"))?;
        }
        for name in ["state", "log"] {
            chown(directory.join(name), Some(uid), Some(gid)).context("give Slurm its directories")?;
        }
        let cluster_hosts = (1..=options.nodes).map(|node| format!("{} node{node}\n", address_of(node)));
        let hosts: String = cluster_hosts.collect();
        fs::write("/etc/hosts", format!("127.0.0.1 localhost\n{ADDRESS} login\n{hosts}"))
            .context("write hosts")?;
        let _absent_is_fine = fs::remove_dir_all(CONFIGURATION);
        fs::create_dir(CONFIGURATION).with_context(|| format!("create {CONFIGURATION}"))?;
        set_mode(CONFIGURATION.as_ref(), 0o755)?;
        let write = |name: &str, text: &str| {
            fs::write(format!("{CONFIGURATION}/{name}"), text).with_context(|| format!("write {name}"))
        };
        write("slurm.conf", &configuration(&directory, munged, options))?;
        // Before 21.08 there was nothing to choose.
        let old = is_old(self)?;
        write("cgroup.conf", if old { "" } else { "CgroupPlugin=cgroup/v1\n" })?;
        write("plugstack.conf", &options.plugstack)?;
        for (name, text) in &options.files {
            write(name, text)?;
        }

        let mut nodes = Vec::new();
        for node in 1..=options.nodes {
            let spool = directory.join(format!("spool/node{node}"));
            fs::create_dir(&spool).with_context(|| format!("create {}", spool.display()))?;
            nodes.push(self.boot(node)?);
        }
        self.wire(&mut nodes)?;
        let words = ["slurmctld", "-D", "-i", "-c"];
        let start = Start { name: "slurmctld", words: &words, ids: (uid, gid), environment: &[] };
        let controller = self.start_daemon(&start, &|| true)?;
        let mut cluster = Cluster { nodes, directory, controller };
        for node in 1..=options.nodes {
            cluster.start_slurmd(self, node)?;
        }
        cluster.wait_until_idle(self)?;
        for node in 1..=options.nodes {
            let mounts = cluster.mounts(node)?;
            cluster.nodes[node - 1].mounts = mounts;
        }
        Ok(cluster)
    }

    /// Starts the first process of a node; it has everything but a network.
    fn boot(&mut self, node: usize) -> Result<Node> {
        let furnish = format!(
            "mount --make-rshared / && hostname node{node} && \
             for d in /run /tmp /var/tmp /var/spool /dev/shm; do mount -t tmpfs -o mode=1777 node $d || exit 1; done && \
             chmod 755 /run && mkdir /var/spool/slurmd /run/munge && ln -s \"$MUNGE\" /run/munge/munge.socket.2 && \
             mkdir -m 755 \"$READY\" || exit 1; while :; do sleep 3600 & wait $!; done"
        );
        let ready = self.new_directory("node")?.join("ready");
        let munge = fs::read_link("/run/munge/munge.socket.2").context("Slurm needs a munged")?;
        let environment = [("MUNGE", munge.display().to_string()), ("READY", ready.display().to_string())];
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let words = [
            "unshare",
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "bash",
            "-c",
            &furnish,
        ];
        let start = Start { name: "node", words: &words, ids: (0, 0), environment: &environment };
        let daemon = self.start_daemon(&start, &|| true)?;
        Ok(Node { daemon, init: ready.display().to_string(), mounts: Vec::new() })
    }

    /// Connects all nodes at once, when each is up.
    fn wire(&self, nodes: &mut [Node]) -> Result<()> {
        let started = Instant::now();
        let mut links = String::new();
        for (index, node) in nodes.iter_mut().enumerate() {
            while !fs::exists(&node.init)? {
                if started.elapsed() > PATIENCE {
                    bail!("node{} was not up after {PATIENCE:?}: {}", index + 1, self.log(node.daemon));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let parent = self.pid(node.daemon)?;
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
            node.init = children.trim().to_owned();
            let (init, number) = (&node.init, index + 1);
            links.push_str(&format!(
                "link add shv{number} type veth peer name eth0 netns {init}\nlink set shv{number} master {BRIDGE} up\n"
            ));
        }
        self.root().stdin(links).run(&["ip", "-batch", "-"])?.success()?;
        for (index, node) in nodes.iter().enumerate() {
            let address = address_of(index + 1);
            let commands = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
            let words = ["nsenter", "-t", &node.init, "-n", "ip", "-batch", "-"];
            self.root().stdin(commands).run(&words)?.success()?;
        }
        Ok(())
    }
}

impl Cluster {
    /// Runs a program as root on a node.
    pub fn on_node(&self, sandbox: &Sandbox, node: usize, words: &[&str]) -> Result<Outcome> {
        let init = &self.nodes[node - 1].init;
        sandbox.root().run(&[&["nsenter", "-t", init, "-a", "--wd=/", "--"], words].concat())
    }

    /// Runs a script of root's on a node, which must succeed.
    pub fn node_shell(&self, sandbox: &Sandbox, node: usize, script: &str) -> Result<String> {
        self.on_node(sandbox, node, &["bash", "-ec", script])?.success()
    }

    /// Starts the slurmd of a node; it is registered a moment later.
    pub fn start_slurmd(&self, sandbox: &Sandbox, node: usize) -> Result<()> {
        self.on_node(sandbox, node, &["slurmd", "-N", &format!("node{node}")])?.success().map(drop)
    }

    /// Kills the slurmd of a node as a crash would; jobs' own processes go on.
    pub fn kill_slurmd(&self, sandbox: &Sandbox, node: usize) -> Result<()> {
        let script = "kill -9 $(cat /run/slurmd.pid) && rm /run/slurmd.pid";
        self.node_shell(sandbox, node, script).map(drop)
    }

    /// The log of a node's slurmd.
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.directory.join(format!("log/node{node}.log"))).unwrap_or_default()
    }

    /// Waits until every node is idle: no job, no epilog, not drained. An error shows the nodes and their logs.
    pub fn wait_until_idle(&self, sandbox: &Sandbox) -> Result<()> {
        let started = Instant::now();
        loop {
            let states = sandbox.root().run(&["sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T %E"])?;
            let text = states.out();
            if text.lines().filter(|line| line.contains(" idle ")).count() == self.nodes.len() {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                let logs: String = (1..=self.nodes.len()).map(|node| self.log(node)).collect();
                bail!(
                    "the nodes are not idle:\n{}\n{}\n{logs}",
                    states.describe(),
                    sandbox.log(self.controller)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end of all jobs, then stops everything and fails if a node was not left as it was found: a
    /// mount, a file of Shifter's, a process.
    pub fn finish(self, sandbox: &mut Sandbox) -> Result<()> {
        self.wait_until_idle(sandbox)?;
        let mut problems = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let left = self.left_behind(sandbox, index + 1, node)?;
            problems.extend(left.into_iter().map(|what| format!("node{}: {what}", index + 1)));
        }
        for node in self.nodes {
            sandbox.kill(node.daemon)?;
        }
        sandbox.stop(self.controller)?;
        if problems.is_empty() { Ok(()) } else { bail!("jobs left behind:\n  {}", problems.join("\n  ")) }
    }

    fn left_behind(&self, sandbox: &Sandbox, number: usize, node: &Node) -> Result<Vec<String>> {
        let started = Instant::now();
        loop {
            let mounts = self.mounts(number)?;
            // The node keeps the tmpfs of its jobs' containers, and its locks.
            let new = mounts.iter().filter(|mount| !node.mounts.contains(mount));
            let new = new.filter(|mount| !mount.contains(" /run/shifter/jobs "));
            let mut left: Vec<String> = new.map(|mount| format!("mount {mount}")).collect();
            let files = "for d in /run/shifter/jobs /run/shifter/slurm /tmp /var/tmp /dev/shm; do \
                [ ! -d $d ] || find $d -mindepth 1; done; \
                ps -e -o pid=,comm=,args= | grep -Ev ' (slurmd|bash|sleep|ps|grep|find|nsenter) ' || :";
            let found = self.node_shell(sandbox, number, files)?;
            left.extend(found.lines().map(str::to_owned));
            // A step's daemon outlives its job by a moment.
            if left.is_empty() || started.elapsed() > Duration::from_secs(5) {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn mounts(&self, node: usize) -> Result<Vec<String>> {
        let path = format!("/proc/{}/mountinfo", self.nodes[node - 1].init);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// `slurm.conf`; from shared experience with small machines, no accounting, no cgroups, short waits.
fn configuration(directory: &std::path::Path, munged: &Munged, options: &SlurmOptions) -> String {
    let place = directory.display();
    let cpus = if options.cpus == 0 { 2 } else { options.cpus };
    let mut lines = vec![
        ("ClusterName", "shiftertest".to_owned()),
        ("SlurmctldHost", format!("login({ADDRESS})")),
        ("AuthType", "auth/munge".to_owned()),
        ("AuthInfo", format!("socket={}", munged.socket.display())),
        ("CredType", "cred/munge".to_owned()),
        ("SlurmUser", "slurm".to_owned()),
        ("SlurmctldPidFile", format!("{place}/state/slurmctld.pid")),
        ("SlurmdPidFile", "/run/slurmd.pid".to_owned()),
        ("SlurmctldLogFile", format!("{place}/log/slurmctld.log")),
        ("SlurmdLogFile", format!("{place}/log/%n.log")),
        ("SlurmdDebug", "verbose".to_owned()),
        ("SlurmdParameters", "config_overrides".to_owned()),
        ("StateSaveLocation", format!("{place}/state")),
        ("SlurmdSpoolDir", format!("{place}/spool/%n")),
        ("ProctrackType", "proctrack/linuxproc".to_owned()),
        ("TaskPlugin", "task/none".to_owned()),
        ("JobAcctGatherType", "jobacct_gather/none".to_owned()),
        ("AccountingStorageType", "accounting_storage/none".to_owned()),
        ("SelectType", "select/cons_tres".to_owned()),
        ("SelectTypeParameters", "CR_Core".to_owned()),
        ("SchedulerType", "sched/backfill".to_owned()),
        (
            "SchedulerParameters",
            "sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=1".to_owned(),
        ),
        ("SwitchType", "switch/none".to_owned()),
        ("MpiDefault", "none".to_owned()),
        ("ReturnToService", "2".to_owned()),
        ("SlurmdTimeout", "60".to_owned()),
        ("SlurmctldTimeout", "60".to_owned()),
        ("InactiveLimit", "0".to_owned()),
        ("KillWait", "2".to_owned()),
        ("MinJobAge", "300".to_owned()),
        ("PrologFlags", "Alloc,Contain".to_owned()),
        ("PlugStackConfig", format!("{CONFIGURATION}/plugstack.conf")),
    ];
    lines.retain(|(key, _)| !options.more.iter().any(|(replaced, _)| replaced == key));
    lines.extend(options.more.iter().cloned());
    let mut text: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    for node in 1..=options.nodes {
        let address = address_of(node);
        text.push_str(&format!(
            "NodeName=node{node} NodeHostname=node{node} NodeAddr={address} CPUs={cpus} RealMemory=4000 State=UNKNOWN\n"
        ));
    }
    text.push_str("PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES\n");
    text
}
