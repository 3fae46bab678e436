//! The site layer of the container's `/etc`: what it says is decided here, as text, and laid over the image's
//! own `/etc` by `apply`. Built new from checked parts; nothing of the host is edited in place.

use crate::account::{self, LARGEST};
use crate::config::TrustedConfig;
use crate::error::{Error, Result};
use shifter_core::passwd::{Account, container_groups, groups_listing, groups_missing_in};
use shifter_sys::directory::{entries, read_host};
use shifter_sys::lockdown::LockedDown;
use shifter_sys::trusted::{self, Kind, open_file_in, read_all};

/// A file of the layer.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// Its name in `/etc`.
    pub name: String,
    /// Its content; owner root, mode 0644.
    pub content: String,
}

/// Where names of every kind are looked up, for containers that get a generated layer.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files dns\nservices: files\n\
    protocols: files\nrpc: files\nethers: files\nnetmasks: files\nnetgroup: files\npublickey: files\n\
    bootparams: files\nautomount: files\naliases: files\n";
/// Most files of `etcPath`.
const MOST_FILES: usize = 4096;
const HOST_CONF: &str = "order bind,hosts\nmulti on\n";

/// The layer for `account`: the host's `hosts` and `resolv.conf`, accounts, an empty `shadow`, and either
/// generated files or the site's (`populateEtcDynamically`).
pub fn site_layer(config: &TrustedConfig, locked: &LockedDown, account: &Account) -> Result<Vec<File>> {
    let conf = &config.udiroot;
    let mut layer = if conf.populate_etc_dynamically {
        generated(config, locked, account)?
    } else {
        of_site(config, locked, account)?
    };
    for name in ["hosts", "resolv.conf"] {
        if layer.iter().all(|file| file.name != name) {
            let content = read_host(&format!("/etc/{name}"), LARGEST).unwrap_or_default();
            layer.push(File { name: name.to_owned(), content });
        }
    }
    layer.retain(|file| file.name != "shadow");
    layer.push(File { name: "shadow".to_owned(), content: String::new() });
    Ok(layer)
}

/// Every group the caller's process has, the primary one first.
fn member_of(locked: &LockedDown) -> Vec<u32> {
    let caller = locked.caller();
    [&[caller.gid()], caller.groups()].concat()
}

fn generated(config: &TrustedConfig, locked: &LockedDown, account: &Account) -> Result<Vec<File>> {
    let (mut passwd, mut imported) = (account.line(), Vec::new());
    let groups = read_host("/etc/group", LARGEST).unwrap_or_default();
    for name in &config.udiroot.users_to_import {
        let account = account::by_name(config, locked, name)?;
        passwd.push_str(&account.line());
        imported.extend([account.gid].into_iter().chain(groups_listing(&groups, name)));
    }
    let group = groups_for(config, locked, account, groups, Some(&imported));
    let file = |name: &str, content: String| File { name: name.to_owned(), content };
    Ok(vec![
        file("passwd", passwd),
        file("group", group),
        file("nsswitch.conf", NSSWITCH.to_owned()),
        file("host.conf", HOST_CONF.to_owned()),
    ])
}

/// `text` with what it lacks of the user's groups, and of `others`, as a container shows it.
fn groups_for(
    config: &TrustedConfig,
    locked: &LockedDown,
    account: &Account,
    mut text: String,
    others: Option<&[u32]>,
) -> String {
    let mine = member_of(locked);
    if others.is_some() || config.udiroot.allow_libc_pwd_calls {
        let missing = groups_missing_in(&text, &[&mine[..], others.unwrap_or_default()].concat());
        text.push_str(&account::groups_elsewhere(locked, &missing));
    }
    let most = usize::try_from(config.udiroot.max_group_count).unwrap_or(usize::MAX);
    container_groups(&text, &account.name, &mine, most, others)
}

/// The files of `etcPath`, each root's own; `group` is filtered and kept whole as `group.orig`.
fn of_site(config: &TrustedConfig, locked: &LockedDown, account: &Account) -> Result<Vec<File>> {
    let path = &config.udiroot.etc_path;
    let directory = trusted::open(path, Kind::Directory).map_err(Error::ConfigurationFile)?;
    let mut layer = Vec::new();
    for entry in entries(&directory, path, MOST_FILES)? {
        let name = entry.name.to_string_lossy().into_owned();
        let target = format!("{path}/{name}");
        let content = if entry.file_type.is_symlink() {
            trusted::read(&target, LARGEST)?
        } else {
            read_all(open_file_in(&directory, &name, &[])?.0, &target, LARGEST)?
        };
        layer.push(File { name, content });
    }
    for name in ["passwd", "group", "nsswitch.conf"] {
        if layer.iter().all(|file| file.name != name) {
            let rule = "etcPath must have passwd, group and nsswitch.conf; or set populateEtcDynamically=1";
            return Err(Error::Target { path: format!("{path}/{name}"), rule });
        }
    }
    // Where the site lets others than its files name accounts, the user and their groups may be known to those alone.
    if let Some(passwd) = layer.iter_mut().find(|file| file.name == "passwd")
        && config.udiroot.allow_libc_pwd_calls
        && Account::find(&passwd.content, account.uid).is_none()
    {
        passwd.content.push_str(&format!("\n{}", account.line()));
    }
    if let Some(group) = layer.iter_mut().find(|file| file.name == "group") {
        let filtered = groups_for(config, locked, account, group.content.clone(), None);
        let whole = std::mem::replace(&mut group.content, filtered);
        layer.push(File { name: "group.orig".to_owned(), content: whole });
    }
    Ok(layer)
}
