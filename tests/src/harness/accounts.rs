//! The people and services of a test machine, added to the sandbox's private `/etc/passwd` and `/etc/group`.

use std::fs;

use anyhow::{Context as _, Result};

/// An account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: &'static str,
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

/// Ordinary users and the services' accounts. Numbers are above what distributions give out by themselves.
pub(super) const ACCOUNTS: [Account; 7] = [
    Account { name: "alice", uid: 4201, gid: 4201, groups: &[4301, 4302] },
    Account { name: "bob", uid: 4202, gid: 4202, groups: &[4301] },
    // A supplementary group 0 must be dropped in the container, and is no reason to refuse her.
    Account { name: "carol", uid: 4203, gid: 4203, groups: &[0, 4302] },
    // A primary group 0 is refused.
    Account { name: "dave", uid: 4204, gid: 0, groups: &[] },
    Account { name: "gateway", uid: 4210, gid: 4210, groups: &[] },
    Account { name: "registry", uid: 4211, gid: 4211, groups: &[] },
    // The account on the hosts of remote systems.
    Account { name: "shifter", uid: 4212, gid: 4212, groups: &[] },
];

const GROUPS: [(&str, u32); 2] = [("physics", 4301), ("chemistry", 4302)];

/// The account of this name.
pub(super) fn find(name: &str) -> Result<Account> {
    let found = ACCOUNTS.iter().find(|account| account.name == name).copied();
    found.with_context(|| format!("the test machine has no account named {name}"))
}

/// The numbers of an account the host has, `munge` for instance.
pub(super) fn host_account(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [user, _, uid, gid, ..] = fields.as_slice() else { return None };
        (*user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    })
}

/// Appends the accounts to `passwd` and `group`.
pub(super) fn install() -> Result<()> {
    let mut passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let mut group = fs::read_to_string("/etc/group").context("read /etc/group")?;
    for account in ACCOUNTS {
        let Account { name, uid, gid, .. } = account;
        passwd.push_str(&format!("{name}:x:{uid}:{gid}:test account:/home/{name}:/bin/sh\n"));
        if gid == uid {
            group.push_str(&format!("{name}:x:{gid}:\n"));
        }
    }
    for (name, gid) in GROUPS {
        let members: Vec<_> = ACCOUNTS
            .iter()
            .filter(|account| account.groups.contains(&gid))
            .map(|account| account.name)
            .collect();
        group.push_str(&format!("{name}:x:{gid}:{}\n", members.join(",")));
    }
    fs::write("/etc/passwd", passwd).context("write the private /etc/passwd")?;
    fs::write("/etc/group", group).context("write the private /etc/group")
}
