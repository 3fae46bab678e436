//! `host` and `ssh` of a remote system: names and options that ssh takes for nothing else.

use std::path::PathBuf;

use super::Access;
use super::section::Section;
use crate::transfer::{self, Account};

/// A host's or an account's name: what ssh takes for nothing else.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// The hosts, each once.
pub(super) fn read_hosts(section: &mut Section<'_>, access: Access) -> Vec<String> {
    let mut hosts = section.names("host");
    if access == Access::Remote && hosts.is_empty() {
        section.problem("host", "missing; a remote system needs the name of a host");
    }
    if let Some(bad) = hosts.iter().find(|host| !is_name(host)) {
        section.problem("host", &format!("\"{}\" is no name of a host", bad.escape_default()));
    }
    let mut known = std::collections::HashSet::new();
    hosts.retain(|host| known.insert(host.clone()));
    hosts
}

/// The section `ssh`, and its `imageDir`. Of a local system only types are checked.
pub(super) fn read_ssh(
    ssh: &mut Section<'_>,
    access: Access,
    hosts: Vec<String>,
) -> (Account, Option<PathBuf>) {
    let username = match access {
        Access::Remote => ssh.required_text("username").unwrap_or_default(),
        Access::Local => ssh.text("username").unwrap_or_default().to_owned(),
    };
    if ssh.is_set("username") && !is_name(&username) {
        ssh.problem("username", "must be the name of an account");
    }
    let key = ssh.path("key");
    let mut options = ssh.names("sshCmdOptions");
    match transfer::of_ssh(&options) {
        Ok(checked) => options = checked,
        Err(why) => ssh.problem("sshCmdOptions", &why),
    }
    let scp = ssh.names("scpCmdOptions");
    match transfer::of_scp(&scp, &options) {
        Ok(more) => options.extend(more),
        Err(why) => ssh.problem("scpCmdOptions", &why),
    }
    let fasthash = ssh.text("fasthash").unwrap_or("fasthash").to_owned();
    if fasthash.is_empty() || fasthash.starts_with('-') || fasthash.chars().any(char::is_control) {
        ssh.problem("fasthash", "must be the name or the path of a program on the hosts");
    }
    (Account { hosts, username, key, options, fasthash }, ssh.required_path("imageDir"))
}
