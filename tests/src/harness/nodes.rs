//! Nodes of a cluster without a batch system: each has a network, a mount table and a host name of its own, and shares
//! the sandbox's files. They are joined by a bridge that lies in a namespace too, so the host's network has no part
//! in it, and all of it goes with the processes that hold the namespaces.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::daemon::Start;
use super::sandbox::Sandbox;
use super::{DaemonId, UserCommand};

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// `n1`, `n2` …
    pub name: String,
    /// Its address, which the sandbox's `/etc/hosts` has.
    pub address: String,
    /// For [`Sandbox::stop`].
    pub daemon: DaemonId,
    pid: u32,
}

impl Node {
    /// A process in its namespaces.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl UserCommand {
    /// On a node rather than on the test's own machine.
    #[must_use]
    pub fn on(self, node: &Node) -> Self {
        self.within(node.pid)
    }
}

impl Sandbox {
    /// Starts nodes that reach each other by name. Their mounts are shared, as service managers have it.
    pub fn nodes(&mut self, count: u8) -> Result<Vec<Node>> {
        let switch =
            self.holder("switch", &["-n"], "ip link add bridge type bridge; ip link set bridge up")?;
        let switch = self.pid(switch)?;
        let mut hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let mut nodes = Vec::new();
        for number in 1..=count {
            let (name, address) = (format!("n{number}"), format!("10.213.7.{number}"));
            hosts.push_str(&format!("{address} {name}\n"));
            let script = format!(
                "mount --make-rshared /; mkdir -p /run/shifter; mount -t tmpfs -o mode=0700 run /run/shifter; hostname {name}; \
                 ip link set lo up"
            );
            let daemon = self.holder(&name, &["-n", "-m", "-u"], &script)?;
            let pid = self.pid(daemon)?;
            let cable = format!(
                "ip link add v{number} type veth peer name eth0 netns {pid}; ip link set v{number} master bridge up"
            );
            let plug = format!("ip addr add {address}/24 dev eth0; ip link set eth0 up");
            self.root().run(&["nsenter", "-t", &switch.to_string(), "-n", "sh", "-ec", &cable])?.success()?;
            self.root().run(&["nsenter", "-t", &pid.to_string(), "-n", "sh", "-ec", &plug])?.success()?;
            nodes.push(Node { name, address, daemon, pid });
        }
        fs::write("/etc/hosts", hosts).context("write the private /etc/hosts")?;
        Ok(nodes)
    }

    /// Copies the OpenSSH that `./test` built to `place`, which is to be optUdiImage.
    pub fn install_openssh(&self, place: &Path) -> Result<()> {
        let built = self.openssh().context("there is no OpenSSH beside the programs: run ./test")?;
        let from = format!("/proc/self/fd/{}", built.as_raw_fd());
        for directory in ["bin", "sbin", "libexec", "etc"] {
            fs::create_dir_all(place.join(directory))?;
            for entry in fs::read_dir(format!("{from}/{directory}"))? {
                let entry = entry?;
                let target = place.join(directory).join(entry.file_name());
                fs::copy(entry.path(), &target).with_context(|| format!("copy {}", target.display()))?;
                let mode = if directory == "etc" { 0o644 } else { 0o755 };
                fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(())
    }

    /// A process that does nothing but hold namespaces, once a script in them is done.
    fn holder(&mut self, name: &str, namespaces: &[&str], script: &str) -> Result<DaemonId> {
        let script = format!("set -e; {script}; echo ready; exec sleep infinity");
        let words = [&["unshare"], namespaces, &["sh", "-c", &script]].concat();
        let log = self.next_log(name);
        let start = Start { name, words: &words, ids: (0, 0), environment: &[] };
        self.start_daemon(&start, &move || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")))
    }
}
