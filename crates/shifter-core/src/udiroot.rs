//! `udiRoot.conf`: the runtime's configuration, in the original's format and keys.
//!
//! Every key is one line of [`KEYS`]: name, default, meaning and how it is set. An unknown key is an error
//! with its line and the nearest known name; keys that lost their meaning are accepted and ignored; keys that
//! were once required have the documents' recommended defaults. New settings do not go here but into
//! `shifter.conf`, because the original fails on keys it does not know.

use crate::image_type::ImageType;
use crate::lexer::records;
use crate::nearest::nearest;
use crate::volume::{self, Propagation, VolumeMap};
use std::fmt;

/// A named bundle of site settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// `module_<name>_…`
    pub name: String,
    /// `enabled`; on unless set to 0.
    pub disabled: bool,
    /// `siteEnv`, `siteEnvAppend`, `siteEnvPrepend`, `siteEnvUnset`
    pub env: SiteEnv,
    /// `siteFs`
    pub site_fs: Vec<VolumeMap>,
    /// `copyPath`
    pub copy_path: Option<String>,
    /// `conflict`
    pub conflict: Vec<String>,
    /// `roothook`
    pub roothook: Option<String>,
    /// `userhook`
    pub userhook: Option<String>,
}

/// The environment settings a site or a module makes, in the order they apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteEnv {
    /// `NAME=VALUE`, replacing.
    pub set: Vec<String>,
    /// `NAME=VALUE`, after the old value and a colon.
    pub append: Vec<String>,
    /// `NAME=VALUE`, before the old value and a colon.
    pub prepend: Vec<String>,
    /// Names.
    pub unset: Vec<String>,
}

/// The configuration. Paths are as written, without trailing slashes; an empty one counts as unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each field is documented by its key in KEYS
pub struct UdiRootConf {
    pub udi_mount: String,
    pub loop_mount: String,
    pub image_path: String,
    pub udi_root_path: String,
    pub etc_path: String,
    pub rootfs_type: String,
    pub image_gateway: Vec<String>,
    pub system: String,
    pub default_image_type: Option<ImageType>,
    pub gateway_timeout_seconds: u64,
    pub opt_udi_image: String,
    pub site_pre_mount_hook: String,
    pub site_post_mount_hook: String,
    pub site_fs: Vec<VolumeMap>,
    pub site_env: SiteEnv,
    pub populate_etc_dynamically: bool,
    pub allow_libc_pwd_calls: bool,
    pub users_to_import: Vec<String>,
    pub max_group_count: u64,
    pub mount_udi_root_writable: bool,
    pub mount_propagation: Option<Propagation>,
    pub allow_local_chroot: bool,
    pub per_node_cache_path: String,
    pub per_node_cache_size_limit: Option<u64>,
    pub per_node_cache_allowed_fs: Vec<String>,
    pub mkfs_xfs_path: String,
    pub default_modules: Vec<String>,
    pub modules: Vec<Module>,
    pub site_resources: String,
    /// Things worth telling an administrator, with their lines; never a reason to refuse.
    pub warnings: Vec<(usize, String)>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfError {
    /// Line from 1; 0 where the fault is an absence.
    pub line: usize,
    /// The key at fault.
    pub key: String,
    /// What is wrong with it.
    pub reason: ConfReason,
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfReason {
    /// No such key; perhaps the named one was meant.
    Unknown(Option<&'static str>),
    /// Required and missing or empty.
    Missing,
    /// The value is none of those it can have.
    Value(&'static str),
    /// A volume map in the value is bad.
    Volume(volume::VolumeError),
    /// `defaultModules` or `conflict` names a module that is not defined.
    UndefinedModule(String),
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        let key = self.key.escape_default();
        match &self.reason {
            ConfReason::Unknown(Some(near)) => write!(f, "unknown key \"{key}\"; did you mean \"{near}\"?"),
            ConfReason::Unknown(None) => write!(f, "unknown key \"{key}\""),
            ConfReason::Missing => write!(f, "\"{key}\" is not set, and it has no default"),
            ConfReason::Value(expected) => write!(f, "the value of \"{key}\" must be {expected}"),
            ConfReason::Volume(error) => write!(f, "\"{key}\": {error}"),
            ConfReason::UndefinedModule(name) => {
                write!(f, "\"{key}\" names the module \"{}\", which is not defined", name.escape_default())
            }
        }
    }
}

impl std::error::Error for ConfError {}

type Setter = fn(&mut UdiRootConf, &str) -> Result<(), ConfReason>;

/// One key: the line from which parser and reference documentation are made.
pub struct Key {
    /// As written in the file; case matters.
    pub name: &'static str,
    /// The value where the key is absent; empty for none.
    pub default: &'static str,
    /// What it sets, with units.
    pub meaning: &'static str,
    set: Setter,
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

const OBSOLETE: &str = "Obsolete: accepted and ignored";
const IGNORED: Setter = |_, _| Ok(());

/// Every key there is, but for `module_<name>_<attribute>`.
pub const KEYS: &[Key] = &[
    key(
        "udiMount",
        "/var/udiMount",
        "Directory the container's root is assembled on",
        set!(path => udi_mount),
    ),
    key(
        "loopMount",
        "/var/udiLoopMount",
        "Directory the image is mounted on while assembling",
        set!(path => loop_mount),
    ),
    key("imagePath", "", "Directory of images and their .meta files; required", set!(path => image_path)),
    key(
        "udiRootPath",
        "/opt/shifter/default",
        "Installation prefix; its bin/shifterimg looks images up",
        set!(path => udi_root_path),
    ),
    key(
        "etcPath",
        "/opt/shifter/default/etc_files",
        "Site files for the container's /etc, and its passwd",
        set!(path => etc_path),
    ),
    key(
        "rootfsType",
        "tmpfs",
        "File system of the assembled root: tmpfs or ramfs",
        set!(rootfs => rootfs_type),
    ),
    key(
        "imageGateway",
        "",
        "Space-separated base URLs of the image gateways",
        set!(+ gateways => image_gateway),
    ),
    key("system", "", "This system's name in the gateway's configuration", set!(text => system)),
    key(
        "defaultImageType",
        "",
        "Type of images named without one: docker, custom, id or local",
        set!(image_type => default_image_type),
    ),
    key(
        "gatewayTimeout",
        "0",
        "Seconds a gateway request may take; 0 is no limit",
        set!(number => gateway_timeout_seconds),
    ),
    key("optUdiImage", "", "Tree copied to /opt/udiImage in every container", set!(path => opt_udi_image)),
    key(
        "sitePreMountHook",
        "",
        "Script root runs before siteFs is mounted",
        set!(path => site_pre_mount_hook),
    ),
    key(
        "sitePostMountHook",
        "",
        "Script root runs after siteFs is mounted",
        set!(path => site_post_mount_hook),
    ),
    key(
        "siteFs",
        "",
        "Semicolon-separated volume maps mounted in every container",
        set!(+ volumes => site_fs),
    ),
    key("siteEnv", "", "Space-separated NAME=VALUE set in every container", set!(+ words => site_env.set)),
    key(
        "siteEnvAppend",
        "",
        "Space-separated NAME=VALUE appended after a colon",
        set!(+ words => site_env.append),
    ),
    key(
        "siteEnvPrepend",
        "",
        "Space-separated NAME=VALUE prepended before a colon",
        set!(+ words => site_env.prepend),
    ),
    key(
        "siteEnvUnset",
        "",
        "Space-separated names removed from every container",
        set!(+ words => site_env.unset),
    ),
    key(
        "populateEtcDynamically",
        "0",
        "1: generate passwd, group and nsswitch.conf; 0: take them from etcPath",
        set!(boolean => populate_etc_dynamically),
    ),
    key(
        "allowLibcPwdCalls",
        "0",
        "1: find accounts through NSS; 0: in etcPath's passwd",
        set!(boolean => allow_libc_pwd_calls),
    ),
    key(
        "usersToImport",
        "",
        "Space-separated further accounts for generated passwd and group",
        set!(+ words => users_to_import),
    ),
    key(
        "maxGroupCount",
        "31",
        "Most groups the user is listed in in /etc/group; 0 is no limit",
        set!(number => max_group_count),
    ),
    key(
        "mountUdiRootWritable",
        "1",
        "0: the assembled root is read-only for root, too",
        set!(boolean => mount_udi_root_writable),
    ),
    key(
        "mountPropagationStyle",
        "private",
        "Propagation of bind mounts: private or slave",
        set!(propagation => mount_propagation),
    ),
    key(
        "allowLocalChroot",
        "0",
        "1: users may name a directory as image (local:)",
        set!(boolean => allow_local_chroot),
    ),
    key(
        "perNodeCachePath",
        "",
        "Directory for the backing files of perNodeCache volumes",
        set!(path => per_node_cache_path),
    ),
    key(
        "perNodeCacheSizeLimit",
        "",
        "Largest perNodeCache in bytes, with a unit letter",
        set!(bytes => per_node_cache_size_limit),
    ),
    key(
        "perNodeCacheAllowedFsType",
        "",
        "Space-separated file systems perNodeCache may use",
        set!(+ words => per_node_cache_allowed_fs),
    ),
    key("mkfsXfsPath", "", "mkfs.xfs for perNodeCache", set!(path => mkfs_xfs_path)),
    key(
        "defaultModules",
        "",
        "Comma-separated modules active unless the user selects others",
        set!(names => default_modules),
    ),
    key("siteResources", "", "Accepted for the GPU guide of the original", set!(path => site_resources)),
    key("batchType", "", OBSOLETE, IGNORED),
    key("modprobePath", "", OBSOLETE, IGNORED),
    key("insmodPath", "", OBSOLETE, IGNORED),
    key("cpPath", "", OBSOLETE, IGNORED),
    key("mvPath", "", OBSOLETE, IGNORED),
    key("chmodPath", "", OBSOLETE, IGNORED),
    key("ddPath", "", OBSOLETE, IGNORED),
    key("autoLoadKernelModule", "", OBSOLETE, IGNORED),
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

impl UdiRootConf {
    /// Reads the file's text. What is missing has its default; what is required and missing is an error.
    pub fn parse(text: &str) -> Result<Self, ConfError> {
        let mut conf = UdiRootConf::default();
        for known in KEYS.iter().filter(|known| !known.default.is_empty()) {
            (known.set)(&mut conf, known.default).map_err(|reason| located(0, known.name, reason))?;
        }
        for record in records(text, '=') {
            let fail = |reason| located(record.line, record.key, reason);
            if let Some(rest) = record.key.strip_prefix("module_") {
                set_module(&mut conf, rest, &record.value, record.line).map_err(fail)?;
            } else if let Some(known) = KEYS.iter().find(|known| known.name == record.key) {
                if known.meaning == OBSOLETE {
                    conf.warnings.push((record.line, format!("\"{}\" has no meaning any more", known.name)));
                }
                (known.set)(&mut conf, &record.value).map_err(fail)?;
            } else {
                return Err(fail(ConfReason::Unknown(nearest(
                    record.key,
                    KEYS.iter().map(|known| known.name),
                ))));
            }
        }
        conf.check()?;
        Ok(conf)
    }

    fn check(&self) -> Result<(), ConfError> {
        for (name, value) in [
            ("udiMount", &self.udi_mount),
            ("loopMount", &self.loop_mount),
            ("imagePath", &self.image_path),
            ("udiRootPath", &self.udi_root_path),
        ] {
            if value.is_empty() {
                return Err(located(0, name, ConfReason::Missing));
            }
        }
        let undefined = |name: &&String| !self.modules.iter().any(|module| module.name == **name);
        if let Some(name) = self.default_modules.iter().find(undefined) {
            return Err(located(0, "defaultModules", ConfReason::UndefinedModule(name.clone())));
        }
        for module in &self.modules {
            if let Some(name) = module.conflict.iter().find(undefined) {
                let key = format!("module_{}_conflict", module.name);
                return Err(located(0, &key, ConfReason::UndefinedModule(name.clone())));
            }
        }
        Ok(())
    }
}

fn located(line: usize, key: &str, reason: ConfReason) -> ConfError {
    ConfError { line, key: key.to_owned(), reason }
}

/// `<name>_<attribute>`: the attribute has no underscore, so names may.
fn set_module(conf: &mut UdiRootConf, rest: &str, value: &str, line: usize) -> Result<(), ConfReason> {
    let Some((name, attribute)) = rest.rsplit_once('_').filter(|(name, _)| !name.is_empty()) else {
        return Err(ConfReason::Value("set through a key of the form module_<name>_<attribute>"));
    };
    let index = conf.modules.iter().position(|module| module.name == name).unwrap_or_else(|| {
        conf.modules.push(Module { name: name.to_owned(), ..Module::default() });
        conf.modules.len() - 1
    });
    let module = &mut conf.modules[index];
    match attribute {
        "enabled" => module.disabled = !boolean(value)?,
        "siteEnv" => module.env.set = words(value)?,
        "siteEnvAppend" => module.env.append = words(value)?,
        "siteEnvPrepend" => module.env.prepend = words(value)?,
        "siteEnvUnset" => module.env.unset = words(value)?,
        "siteFs" => module.site_fs = volumes(value)?,
        // The original's own example spells it in lower case.
        "copyPath" | "copypath" => module.copy_path = Some(path(value)?).filter(|path| !path.is_empty()),
        "conflict" => module.conflict = words(value)?,
        "roothook" => module.roothook = Some(text(value)?).filter(|path| !path.is_empty()),
        "userhook" => module.userhook = Some(text(value)?).filter(|path| !path.is_empty()),
        unknown => {
            let hint = nearest(unknown, MODULE_ATTRIBUTES.iter().copied())
                .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
            conf.warnings.push((line, format!("module \"{name}\" has no attribute \"{unknown}\"{hint}")));
        }
    }
    Ok(())
}

fn text(value: &str) -> Result<String, ConfReason> {
    Ok(value.to_owned())
}

/// A path without trailing slashes; the original broke on them.
fn path(value: &str) -> Result<String, ConfReason> {
    if value.is_empty() || value.starts_with('/') {
        let trimmed = value.trim_end_matches('/');
        return Ok(if trimmed.is_empty() && !value.is_empty() { "/" } else { trimmed }.to_owned());
    }
    Err(ConfReason::Value("an absolute path"))
}

fn words(value: &str) -> Result<Vec<String>, ConfReason> {
    Ok(value.split_whitespace().map(str::to_owned).collect())
}

fn names(value: &str) -> Result<Vec<String>, ConfReason> {
    Ok(value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn gateways(value: &str) -> Result<Vec<String>, ConfReason> {
    let urls = words(value)?;
    if urls.iter().all(|url| url.starts_with("http://") || url.starts_with("https://")) {
        return Ok(urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect());
    }
    Err(ConfReason::Value("URLs that begin with http:// or https://, separated by spaces"))
}

fn volumes(value: &str) -> Result<Vec<VolumeMap>, ConfReason> {
    volume::parse_site(value).map_err(ConfReason::Volume)
}

/// The leading integer, as the original read it: `1 # comment` is 1, text is 0.
fn boolean(value: &str) -> Result<bool, ConfReason> {
    let digits = value.trim_start_matches(['+', '-']);
    Ok(digits.bytes().take_while(u8::is_ascii_digit).any(|digit| digit != b'0'))
}

fn number(value: &str) -> Result<u64, ConfReason> {
    if value.is_empty() {
        return Ok(0);
    }
    let digits = value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    digits.parse().map_err(|_| ConfReason::Value("a whole number"))
}

fn bytes(value: &str) -> Result<Option<u64>, ConfReason> {
    if value.is_empty() {
        return Ok(None);
    }
    volume::parse_bytes(value).map(Some).ok_or(ConfReason::Value("a size in bytes, e.g. 200g"))
}

fn rootfs(value: &str) -> Result<String, ConfReason> {
    if matches!(value, "tmpfs" | "ramfs") { text(value) } else { Err(ConfReason::Value("tmpfs or ramfs")) }
}

fn propagation(value: &str) -> Result<Option<Propagation>, ConfReason> {
    match value {
        "private" => Ok(Some(Propagation::Private)),
        "slave" => Ok(Some(Propagation::Slave)),
        _ => Err(ConfReason::Value("private or slave")),
    }
}

fn image_type(value: &str) -> Result<Option<ImageType>, ConfReason> {
    if value.is_empty() {
        return Ok(None);
    }
    ImageType::parse(value).map(Some).ok_or(ConfReason::Value("docker, custom, id or local"))
}

#[cfg(test)]
#[path = "udiroot_tests.rs"]
mod tests;
