//! The keys of `udiRoot.conf`, one line each: parser and reference documentation are made from this table.
//!
//! Beside it, how each kind of value is read; an empty value means unset wherever the original took it so.

use super::{ConfReason, UdiRootConf};
use crate::image_type::ImageType;
use crate::volume::{self, Propagation, VolumeMap};

type Setter = fn(&mut UdiRootConf, &str) -> Result<(), ConfReason>;

/// One key: the line from which parser and reference documentation are made.
pub struct Key {
    /// As written in the file; case matters.
    pub name: &'static str,
    /// The value where the key is absent; empty for none.
    pub default: &'static str,
    /// What it sets, with units.
    pub meaning: &'static str,
    pub(super) set: Setter,
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str, set: Setter) -> Key {
    Key { name, default, meaning, set }
}

macro_rules! set {
    ($convert:ident => $($field:ident).+) => {
        |conf, text| {
            conf.$($field).+ = $convert(text)?;
            Ok(())
        }
    };
    (+ $convert:ident => $($field:ident).+) => {
        |conf, text| {
            conf.$($field).+.extend($convert(text)?);
            Ok(())
        }
    };
}

/// How the meaning of such a key begins; what follows says what there is instead.
pub(super) const OBSOLETE: &str = "Obsolete: accepted and ignored";
const IGNORED: Setter = |_, _| Ok(());

#[rustfmt::skip] // one key, one line
/// Every key there is, but for `module_<name>_<attribute>`.
pub const KEYS: &[Key] = &[
    key("udiMount", "/var/udiMount", "Directory the container's root is assembled on", set!(path => udi_mount)),
    key("loopMount", "/var/udiLoopMount", "Directory the image is mounted on while assembling", set!(path => loop_mount)),
    key("imagePath", "", "Directory of images and their .meta files; required", set!(path => image_path)),
    key("udiRootPath", "/opt/shifter/default", "Installation prefix; its bin/shifterimg looks images up", set!(path => udi_root_path)),
    key("etcPath", "/opt/shifter/default/etc_files", "Site files for the container's /etc, and its passwd", set!(path => etc_path)),
    key("rootfsType", "tmpfs", "File system of the assembled root: tmpfs or ramfs", set!(rootfs => rootfs_type)),
    key("imageGateway", "", "Space-separated base URLs of the image gateways", set!(+ gateways => image_gateway)),
    key("system", "", "This system's name in the gateway's configuration", set!(text => system)),
    key("defaultImageType", "", "Type of images named without one: docker, custom, id or local", set!(image_type => default_image_type)),
    key("gatewayTimeout", "0", "Seconds a gateway request may take; 0 is no limit", set!(number => gateway_timeout_seconds)),
    key("optUdiImage", "", "Tree copied to /opt/udiImage in every container", set!(path => opt_udi_image)),
    key("sitePreMountHook", "", "Script root runs before siteFs is mounted", set!(path => site_pre_mount_hook)),
    key("sitePostMountHook", "", "Script root runs after siteFs is mounted", set!(path => site_post_mount_hook)),
    key("siteFs", "", "Semicolon-separated volume maps mounted in every container", set!(+ volumes => site_fs)),
    key("siteEnv", "", "Space-separated NAME=VALUE set in every container", set!(+ words => site_env.set)),
    key("siteEnvAppend", "", "Space-separated NAME=VALUE appended after a colon", set!(+ words => site_env.append)),
    key("siteEnvPrepend", "", "Space-separated NAME=VALUE prepended before a colon", set!(+ words => site_env.prepend)),
    key("siteEnvUnset", "", "Space-separated names removed from every container", set!(+ words => site_env.unset)),
    key("populateEtcDynamically", "0", "1: generate passwd, group and nsswitch.conf; 0: take them from etcPath", set!(boolean => populate_etc_dynamically)),
    key("allowLibcPwdCalls", "0", "1: find accounts through NSS; 0: in etcPath's passwd", set!(boolean => allow_libc_pwd_calls)),
    key("usersToImport", "", "Space-separated further accounts for generated passwd and group", set!(+ words => users_to_import)),
    key("maxGroupCount", "31", "Most groups the user is listed in in /etc/group; 0 is no limit", set!(number => max_group_count)),
    key("mountUdiRootWritable", "1", "0: the assembled root is read-only for root, too", set!(boolean => mount_udi_root_writable)),
    key("mountPropagationStyle", "private", "Propagation of bind mounts: private or slave", set!(propagation => mount_propagation)),
    key("allowLocalChroot", "0", "1: users may name a directory as image (local:)", set!(boolean => allow_local_chroot)),
    key("perNodeCachePath", "", "Directory for the backing files of perNodeCache volumes", set!(path => per_node_cache_path)),
    key("perNodeCacheSizeLimit", "", "Most bytes of all perNodeCaches of a container, with a unit letter", set!(bytes => per_node_cache_size_limit)),
    key("perNodeCacheAllowedFsType", "", "Space-separated file systems perNodeCache may use", set!(+ words => per_node_cache_allowed_fs)),
    key("mkfsXfsPath", "", "mkfs.xfs for perNodeCache", set!(path => mkfs_xfs_path)),
    key("defaultModules", "", "Comma-separated modules active unless the user selects others", set!(names => default_modules)),
    key("siteResources", "", "Accepted for the GPU guide of the original", set!(path => site_resources)),
    key("batchType", "", OBSOLETE, IGNORED),
    key("modprobePath", "", OBSOLETE, IGNORED),
    key("insmodPath", "", OBSOLETE, IGNORED),
    key("cpPath", "", OBSOLETE, IGNORED),
    key("mvPath", "", OBSOLETE, IGNORED),
    key("chmodPath", "", OBSOLETE, IGNORED),
    key("ddPath", "", OBSOLETE, IGNORED),
    key("autoLoadKernelModule", "", "Obsolete: accepted and ignored: have loop, squashfs and overlay loaded at boot", IGNORED),
    key("kmodBasePath", "", OBSOLETE, IGNORED),
    key("kmodCacheFile", "", OBSOLETE, IGNORED),
    key("optionalSshdAsRoot", "", OBSOLETE, IGNORED),
    key("nodeContextPrefix", "", OBSOLETE, IGNORED),
];

/// The attributes of a module, for the same two purposes.
pub const MODULE_ATTRIBUTES: &[&str] = &[
    "enabled",
    "siteEnv",
    "siteEnvAppend",
    "siteEnvPrepend",
    "siteEnvUnset",
    "siteFs",
    "copyPath",
    "conflict",
    "roothook",
    "userhook",
];

pub(super) fn text(value: &str) -> Result<String, ConfReason> {
    Ok(value.to_owned())
}

/// A path without trailing slashes; the original broke on them.
pub(super) fn path(value: &str) -> Result<String, ConfReason> {
    if value.is_empty() || value.starts_with('/') {
        let trimmed = value.trim_end_matches('/');
        return Ok(if trimmed.is_empty() && !value.is_empty() { "/" } else { trimmed }.to_owned());
    }
    Err(ConfReason::Value("an absolute path"))
}

pub(super) fn words(value: &str) -> Result<Vec<String>, ConfReason> {
    Ok(value.split_whitespace().map(str::to_owned).collect())
}

pub(super) fn names(value: &str) -> Result<Vec<String>, ConfReason> {
    Ok(value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

pub(super) fn gateways(value: &str) -> Result<Vec<String>, ConfReason> {
    let urls = words(value)?;
    if urls.iter().all(|url| url.starts_with("http://") || url.starts_with("https://")) {
        return Ok(urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect());
    }
    Err(ConfReason::Value("URLs that begin with http:// or https://, separated by spaces"))
}

pub(super) fn volumes(value: &str) -> Result<Vec<VolumeMap>, ConfReason> {
    volume::parse_site(value).map_err(ConfReason::Volume)
}

/// The leading integer, as the original read it: `1 # comment` is 1, text is 0.
pub(crate) fn boolean(value: &str) -> Result<bool, ConfReason> {
    let digits = value.trim_start_matches(['+', '-']);
    Ok(digits.bytes().take_while(u8::is_ascii_digit).any(|digit| digit != b'0'))
}

pub(super) fn number(value: &str) -> Result<u64, ConfReason> {
    if value.is_empty() {
        return Ok(0);
    }
    let digits = value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    digits.parse().map_err(|_| ConfReason::Value("a whole number"))
}

pub(super) fn bytes(value: &str) -> Result<Option<u64>, ConfReason> {
    if value.is_empty() {
        return Ok(None);
    }
    volume::parse_bytes(value).map(Some).ok_or(ConfReason::Value("a size in bytes, e.g. 200g"))
}

pub(super) fn rootfs(value: &str) -> Result<String, ConfReason> {
    if matches!(value, "tmpfs" | "ramfs") { text(value) } else { Err(ConfReason::Value("tmpfs or ramfs")) }
}

pub(super) fn propagation(value: &str) -> Result<Option<Propagation>, ConfReason> {
    match value {
        "private" => Ok(Some(Propagation::Private)),
        "slave" => Ok(Some(Propagation::Slave)),
        _ => Err(ConfReason::Value("private or slave")),
    }
}

pub(super) fn image_type(value: &str) -> Result<Option<ImageType>, ConfReason> {
    if value.is_empty() {
        return Ok(None);
    }
    ImageType::parse(value).map(Some).ok_or(ConfReason::Value("docker, custom, id or local"))
}
