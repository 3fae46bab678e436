//! Hosts in network namespaces of their own, each at the end of a line that can be taken down: what happens when a cable
//! is pulled or a switch restarts. Unlike a connection that is ended, nobody is told.
//!
//! A test that wants them gets a network of its own first; what it starts afterwards is in it, and all is gone when its
//! processes are.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::thread::gettid;

use super::command::UserCommand;
use super::namespace;
use super::sandbox::Sandbox;
use super::sshd::{Keys, Sshd, SshdOptions};

/// A running host at the end of a line.
#[derive(Debug, Clone)]
pub struct FarHost {
    /// Its address is `10.77.NUMBER.2`.
    pub sshd: Sshd,
    /// Our end of the line.
    link: String,
}

/// Moves this thread, and what is started from it, into a network that has nothing but itself: for what must be there
/// before the sandbox is.
pub fn enter_own_network() -> Result<()> {
    namespace::enter_network()?;
    UserCommand::new(None).run(&["ip", "link", "set", "lo", "up"])?.success().map(drop)
}

impl Sandbox {
    /// The same once the sandbox is there.
    pub fn own_network(&mut self) -> Result<()> {
        enter_own_network()
    }

    /// Starts a host in a network namespace of its own. The test must be in its own network.
    pub fn far_host(&mut self, keys: &Keys, number: u8, options: &SshdOptions) -> Result<FarHost> {
        let link = format!("far{number}");
        // The thread, since the process's first one is in another network.
        let here = gettid().as_raw_nonzero();
        let script = format!(
            "ip link set lo up; ip link add eth0 type veth peer name {link} netns {here}; \
             ip addr add 10.77.{number}.2/30 dev eth0; ip link set eth0 up; \
             nsenter --net=/proc/{here}/ns/net sh -ec \
             'ip addr add 10.77.{number}.1/30 dev {link}; ip link set {link} up'; "
        );
        let by = ["unshare", "-m", "-n"];
        let sshd = self.sshd_at(keys, (number, format!("10.77.{number}.2")), options, (&by, &script))?;
        Ok(FarHost { sshd, link })
    }
}

impl FarHost {
    /// Takes the line down, or up again.
    pub fn set_line(&self, sandbox: &Sandbox, is_up: bool) -> Result<()> {
        let state = if is_up { "up" } else { "down" };
        sandbox.root().run(&["ip", "link", "set", &self.link, state])?.success().map(drop)
    }

    /// Bytes on the line so far: to the host, and from it. To be asked from within the test's network.
    pub fn carried(&self) -> Result<(u64, u64)> {
        let table = fs::read_to_string("/proc/thread-self/net/dev").context("read /proc/net/dev")?;
        let row = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{}:", self.link)));
        let numbers: Vec<u64> =
            row.context("the line is there")?.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        // Received bytes come first, sent ones ninth (proc_pid_net(5)).
        let at = |place: usize| numbers.get(place).copied().context("numbers of a line");
        Ok((at(8)?, at(0)?))
    }
}
