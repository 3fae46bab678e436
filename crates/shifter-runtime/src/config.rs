//! The configuration, believed because of where it lies: a root-owned file under root-owned directories that
//! nobody else can write, parsed from the descriptor that was checked.

use crate::error::{Error, Result};
use shifter_core::paths::{SHIFTER_CONF, SYSCONFDIR, UDIROOT_CONF};
use shifter_core::shifter_conf::ShifterConf;
use shifter_core::udiroot::UdiRootConf;
use shifter_sys::directory::IS_A_LINK;
use shifter_sys::lockdown::LockedDown;
use shifter_sys::trusted::{self, Kind};

/// Largest configuration file, in bytes.
const LARGEST: u64 = 1 << 20;
const ENOENT: i32 = 2;

/// Both configuration files. There is no other way to get one than [`TrustedConfig::open`].
#[derive(Debug)]
pub struct TrustedConfig {
    /// `udiRoot.conf`
    pub udiroot: UdiRootConf,
    /// `shifter.conf`, all defaults if the file is absent.
    pub shifter: ShifterConf,
}

impl TrustedConfig {
    /// Opens and parses both files. The directory is fixed at build time.
    pub fn open(_locked: &LockedDown) -> Result<Self> {
        let directory = trusted::open(SYSCONFDIR, Kind::Directory).map_err(Error::ConfigurationFile)?;
        let read = |name: &str| {
            let path = format!("{SYSCONFDIR}/{name}");
            let text = match trusted::open_file_in(&directory, name, &[]) {
                Ok((file, _)) => trusted::read_all(file, &path, LARGEST),
                // A link is followed by the walk that looks at each step.
                Err(error) if error.errno() == Some(IS_A_LINK) => trusted::read(&path, LARGEST),
                Err(error) => Err(error),
            };
            (path, text)
        };
        let (path, text) = read(UDIROOT_CONF);
        let udiroot = UdiRootConf::parse(&text.map_err(Error::ConfigurationFile)?)
            .map_err(|fault| Error::Configuration { path, fault })?;
        if udiroot.site_fs.iter().any(|map| map.cache.is_some()) {
            return Err(Error::Unsupported { what: "a perNodeCache in siteFs".to_owned() });
        }
        let shifter = match read(SHIFTER_CONF) {
            (path, Ok(text)) => {
                ShifterConf::parse(&text).map_err(|fault| Error::Configuration { path, fault })?
            }
            (_, Err(error)) if error.errno() == Some(ENOENT) => ShifterConf::default(),
            (_, Err(error)) => return Err(Error::ConfigurationFile(error)),
        };
        Ok(Self { udiroot, shifter })
    }
}

#[cfg(test)]
impl TrustedConfig {
    /// What no program can do: a configuration from text alone.
    pub(crate) fn of(udiroot: &str) -> std::result::Result<Self, shifter_core::udiroot::ConfError> {
        Ok(Self { udiroot: UdiRootConf::parse(udiroot)?, shifter: ShifterConf::default() })
    }
}
