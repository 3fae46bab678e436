//! The configuration, believed because of where it lies: a root-owned file under root-owned directories that
//! nobody else can write, parsed from the descriptor that was checked.

use crate::error::{Error, Result};
use shifter_core::paths::{SHIFTER_CONF, SYSCONFDIR, UDIROOT_CONF};
use shifter_core::shifter_conf::ShifterConf;
use shifter_core::udiroot::UdiRootConf;
use shifter_sys::directory::{IS_A_LINK, identity, status};
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
    /// Which files these are, for the record of a prepared container.
    pub(crate) identity: String,
}

impl TrustedConfig {
    /// Opens and parses both files. The directory is fixed at build time.
    pub fn open(_locked: &LockedDown) -> Result<Self> {
        Self::open_in(SYSCONFDIR, UDIROOT_CONF)
    }

    /// The same with another `udiRoot.conf`, for programs that root runs.
    #[cfg(feature = "setup")]
    pub fn open_at(_locked: &LockedDown, path: &str) -> Result<Self> {
        let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
        Self::open_in(directory, name)
    }

    fn open_in(place: &str, name: &str) -> Result<Self> {
        let directory = trusted::open(place, Kind::Directory).map_err(Error::ConfigurationFile)?;
        let read = |name: &str| {
            let path = format!("{place}/{name}");
            let file = match trusted::open_file_in(&directory, name, &[]) {
                // A link is followed by the walk that looks at each step.
                Err(error) if error.errno() == Some(IS_A_LINK) => trusted::open(&path, Kind::File),
                other => other.map(|(file, _)| file),
            };
            let text = file.and_then(|file| {
                let identity = identity(&status(&file, &path)?);
                Ok((trusted::read_all(file, &path, LARGEST)?, identity))
            });
            (path, text)
        };
        let (path, text) = read(name);
        let (text, mut identity) = text.map_err(Error::ConfigurationFile)?;
        let udiroot = UdiRootConf::parse(&text).map_err(|fault| Error::Configuration { path, fault })?;
        let shifter = match read(SHIFTER_CONF) {
            (path, Ok((text, of_file))) => {
                identity = format!("{identity} {of_file}");
                ShifterConf::parse(&text).map_err(|fault| Error::Configuration { path, fault })?
            }
            (_, Err(error)) if error.errno() == Some(ENOENT) => ShifterConf::default(),
            (_, Err(error)) => return Err(Error::ConfigurationFile(error)),
        };
        Ok(Self { udiroot, shifter, identity })
    }
}

#[cfg(test)]
impl TrustedConfig {
    /// What no program can do: a configuration from text alone.
    pub(crate) fn of(udiroot: &str) -> std::result::Result<Self, shifter_core::udiroot::ConfError> {
        Ok(Self {
            udiroot: UdiRootConf::parse(udiroot)?,
            shifter: ShifterConf::default(),
            identity: String::new(),
        })
    }
}
