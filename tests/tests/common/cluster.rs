//! Nodes on which a batch system prepared the same container for one job, with sshd in it.

use super::Machine;
use rustix::process::{Pid, Signal, kill_process};
use shifter_tests::harness::{Node, Outcome, UserCommand};
use std::fs;
use std::path::PathBuf;

pub const IDENTITY: &str = "/home/alice/.udiRoot/id_ed25519.key";

pub struct Cluster {
    networks: Networks,
    pub machine: Machine,
    pub nodes: Vec<Node>,
    pub key: String,
}

impl Cluster {
    /// Nodes, and a site that has OpenSSH in its optUdiImage; nothing is prepared yet.
    pub fn new(mut machine: Machine, count: u8) -> Self {
        let tree = tree(&machine);
        machine.sandbox.install_openssh(&tree).unwrap();
        let tree = tree.display().to_string();
        machine
            .sandbox
            .write_udiroot(&[("optUdiImage", &tree), ("siteEnvAppend", "PATH=/opt/udiImage/bin")])
            .unwrap();
        let nodes = machine.sandbox.nodes(count).unwrap();
        let keygen =
            "mkdir -m 0700 ~/.udiRoot && ssh-keygen -q -t ed25519 -N '' -f ~/.udiRoot/id_ed25519.key";
        for user in ["alice", "bob"] {
            machine.shell(user, keygen).success().unwrap();
        }
        let key = fs::read_to_string(format!("{IDENTITY}.pub")).unwrap();
        let networks = Networks(nodes.iter().map(|node| network(node.pid()).unwrap()).collect());
        Self { networks, machine, nodes, key }
    }

    /// A command of root on a node.
    pub fn root(&self, node: usize) -> UserCommand {
        self.machine.sandbox.root().on(&self.nodes[node])
    }

    /// `setupRoot` on one node, for alice's job 1 on all of them unless the words say otherwise.
    pub fn setup_on(&self, node: usize, words: &[&str]) -> Outcome {
        let program = self.machine.sandbox.program("setupRoot").unwrap().display().to_string();
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("{}/2", node.name)).collect();
        let hosts = hosts.join(" ");
        let named: &[&str] = if words.contains(&"-N") { &[] } else { &["-N", &hosts] };
        let words = [
            &[program.as_str(), "-U4201", "-G4201", "-ualice", "--job=1", "-s", &self.key][..],
            named,
            words,
            &["id", &self.machine.id],
        ]
        .concat();
        self.root(node).run(&words).unwrap()
    }

    /// The same on all nodes.
    pub fn setup(&self) {
        for node in 0..self.nodes.len() {
            self.setup_on(node, &[]).success().unwrap();
        }
    }

    /// `unsetupRoot` on all nodes, without a word.
    pub fn unsetup(&self) {
        let program = self.machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
        for node in 0..self.nodes.len() {
            let out = self.root(node).run(&[&program, "--job=1"]).unwrap();
            assert!(out.status.success() && out.err().is_empty(), "{}", out.describe());
        }
    }

    /// A shell script in a container on a node.
    pub fn inside(&self, node: usize, user: &str, script: &str) -> Outcome {
        let words = self.machine.words(&["sh", "-c", script]);
        self.machine.as_user(user).on(&self.nodes[node]).run(&words).unwrap()
    }

    /// Processes of this uid in the nodes' networks, id and words: the machine's others are none of ours.
    pub fn processes_of(&self, uid: u32) -> Vec<(u32, String)> {
        self.networks.processes(uid)
    }

    /// The processes of alice, one a line.
    pub fn processes(&self) -> String {
        self.processes_of(4201).iter().map(|(pid, words)| format!("{pid} {words}\n")).collect()
    }

    /// The keepers of sshd.
    pub fn keepers(&self) -> Vec<u32> {
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let all = self.processes_of(0).into_iter().map(|(pid, _)| pid);
        all.filter(|pid| name(*pid) == "shifter-keeper\n").collect()
    }
}

/// The site's tree.
pub fn tree(machine: &Machine) -> PathBuf {
    machine.sandbox.prefix().join("udiImage")
}

/// The nodes' networks, by which their processes are told from the machine's others. A test that fails leaves nothing
/// running in them.
struct Networks(Vec<PathBuf>);

fn network(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

impl Networks {
    /// Those of this uid, all for root's, that have not ended: id and words.
    fn processes(&self, uid: u32) -> Vec<(u32, String)> {
        use std::os::unix::fs::MetadataExt as _;
        let number = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        let there = fs::read_dir("/proc").unwrap().filter_map(number).filter(|pid: &u32| {
            fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == uid || uid == 0)
                && network(*pid).is_some_and(|found| self.0.contains(&found))
                && !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ")
        });
        let words = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        there.map(|pid| (pid, String::from_utf8_lossy(&words(pid)).replace('\0', " "))).collect()
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // Stopped first: what forks would outrun us.
        for signal in [Signal::STOP, Signal::STOP, Signal::STOP, Signal::KILL] {
            for (pid, _) in self.processes(0) {
                let _ended_already = Pid::from_raw(pid as i32).map(|pid| kill_process(pid, signal));
            }
        }
    }
}
