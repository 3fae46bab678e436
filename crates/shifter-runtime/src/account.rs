//! The caller's name, which only labels the container: no decision looks at it.
//!
//! Sources, in order: `etcPath/passwd` (unless the site uses NSS), `/etc/passwd`, and `getent` run as the
//! user, so that directory services work without their code in a root process.

use crate::config::TrustedConfig;
use crate::error::{Error, Result};
use shifter_core::passwd::Account;
use shifter_sys::child::output_of;
use shifter_sys::directory::read_host;
use shifter_sys::lockdown::LockedDown;
use std::time::Duration;

/// Largest account or group file, in bytes.
pub(crate) const LARGEST: u64 = 64 << 20;
const GETENT: &str = "/usr/bin/getent";
const PATIENCE: Duration = Duration::from_secs(5);

/// The account of the caller's uid.
pub fn of_caller(config: &TrustedConfig, locked: &LockedDown) -> Result<Account> {
    let uid = locked.caller().uid();
    in_files(config, |text| Account::find(text, uid))
        .or_else(|| asked(locked, &uid.to_string()))
        .filter(|account| account.uid == uid)
        .ok_or(Error::NoAccount { uid })
}

/// An account by name, for `usersToImport`.
pub fn by_name(config: &TrustedConfig, locked: &LockedDown, name: &str) -> Result<Account> {
    in_files(config, |text| text.lines().filter_map(Account::parse).find(|account| account.name == name))
        .or_else(|| asked(locked, name))
        .filter(|account| account.name == name)
        .ok_or_else(|| Error::UnknownImport(name.to_owned()))
}

fn in_files(config: &TrustedConfig, find: impl Fn(&str) -> Option<Account>) -> Option<Account> {
    let site = Some(&config.udiroot).filter(|conf| !conf.allow_libc_pwd_calls);
    let found = |path: &str| find(&read_host(path, LARGEST).ok()?);
    site.and_then(|conf| found(&format!("{}/passwd", conf.etc_path))).or_else(|| found("/etc/passwd"))
}

/// The lines of these groups from the directory services, which `/etc/group` does not have; names only.
pub(crate) fn groups_elsewhere(locked: &LockedDown, gids: &[u32]) -> String {
    if gids.is_empty() {
        return String::new();
    }
    let gids: Vec<String> = gids.iter().map(u32::to_string).collect();
    let argv: Vec<&str> = [GETENT, "group"].into_iter().chain(gids.iter().map(String::as_str)).collect();
    output_of(locked, &argv, 1 << 20, PATIENCE).map_or(String::new(), |output| format!("\n{}", output.text))
}

/// One line of `getent passwd KEY`; anything else is no answer.
fn asked(locked: &LockedDown, key: &str) -> Option<Account> {
    let output = output_of(locked, &[GETENT, "passwd", key], 64 << 10, PATIENCE).ok()?;
    Account::parse(output.text.lines().next()?)
}
