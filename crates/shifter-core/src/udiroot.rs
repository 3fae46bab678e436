//! `udiRoot.conf`: the runtime's configuration, in the original's format and keys.
//!
//! Every key is one line of [`keys::KEYS`]: name, default, meaning and how it is set. An unknown key is an error
//! with its line and the nearest known name; keys that lost their meaning are accepted and ignored; keys that
//! were once required have the documents' recommended defaults. New settings do not go here but into
//! `shifter.conf`, because the original fails on keys it does not know.

pub mod keys;

use crate::image_type::ImageType;
use crate::lexer::records;
use crate::nearest::nearest;
use crate::volume::{self, Propagation, VolumeMap};
use keys::{KEYS, MODULE_ATTRIBUTES, OBSOLETE, boolean, names, path, text, volumes, words};
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
                if let Some(instead) = known.meaning.strip_prefix(OBSOLETE) {
                    let text = format!("\"{}\" has no meaning any more{instead}", known.name);
                    conf.warnings.push((record.line, text));
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

/// Why a choice of modules cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// No module has this name.
    Unknown(String),
    /// It has, but the site switched it off.
    Disabled(String),
    /// The two exclude each other.
    Conflict(String, String),
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModuleError::Unknown(name) => write!(f, "Unknown shifter module: {}", name.escape_debug()),
            ModuleError::Disabled(name) => write!(f, "module {name} is not enabled for use."),
            ModuleError::Conflict(one, other) => {
                write!(f, "cannot load conflicting modules {one} and {other}")
            }
        }
    }
}

impl std::error::Error for ModuleError {}

impl UdiRootConf {
    /// The active modules, in order and each once: those `choice` lists, separated by commas (`none` alone: none), or
    /// `defaultModules` where there is no choice.
    pub fn select_modules(&self, choice: Option<&str>) -> Result<Vec<&Module>, ModuleError> {
        let chosen = match choice {
            None => self.default_modules.clone(),
            Some(text) if text.trim().eq_ignore_ascii_case("none") => Vec::new(),
            Some(text) => names(text).unwrap_or_default(),
        };
        let mut active: Vec<&Module> = Vec::new();
        for name in chosen {
            let Some(module) = self.modules.iter().find(|module| module.name == name) else {
                return Err(ModuleError::Unknown(name));
            };
            if module.disabled {
                return Err(ModuleError::Disabled(name));
            }
            let excludes =
                |other: &&&Module| other.conflict.contains(&name) || module.conflict.contains(&other.name);
            if let Some(other) = active.iter().find(excludes) {
                return Err(ModuleError::Conflict(other.name.clone(), name));
            }
            if !active.contains(&module) {
                active.push(module);
            }
        }
        Ok(active)
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

#[cfg(test)]
mod tests;
