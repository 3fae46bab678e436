//! The site's configuration, as the plugin needs it: read whole, so that an error in it reads the same everywhere.
//!
//! On a submit host the user reads it for the user. On a node root acts on it, so there it must be root's.

use shifter_core::paths::{SHIFTER_CONF, SYSCONFDIR, UDIROOT_CONF};
use shifter_core::shifter_conf::ShifterConf;
use shifter_core::udiroot::UdiRootConf;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Most bytes of a configuration.
const LARGEST: u64 = 1 << 20;

/// `udiRoot.conf`, and what `shifter.conf` beside it adds.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The runtime's configuration.
    pub conf: UdiRootConf,
    /// Settings the original does not know.
    pub shifter: ShifterConf,
}

impl Site {
    /// Reads the configuration in its place, or in the one the site has named.
    pub fn read(place: Option<&str>) -> Result<Self, String> {
        let path = place.map_or_else(|| Path::new(SYSCONFDIR).join(UDIROOT_CONF), PathBuf::from);
        let conf =
            UdiRootConf::parse(&text(&path)?).map_err(|error| format!("{}: {error}", path.display()))?;
        let beside = path.with_file_name(SHIFTER_CONF);
        let shifter = match fs::exists(&beside) {
            Ok(true) => ShifterConf::parse(&text(&beside)?)
                .map_err(|error| format!("{}: {error}", beside.display()))?,
            _ => ShifterConf::default(),
        };
        Ok(Self { conf, shifter })
    }

    /// The same for root: refused if anybody else could have written it.
    pub fn read_trusted(place: Option<&str>) -> Result<Self, String> {
        let path = place.map_or_else(|| Path::new(SYSCONFDIR).join(UDIROOT_CONF), PathBuf::from);
        must_be_roots(&path)?;
        Self::read(Some(&path.display().to_string()))
    }

    /// Whether the site has an sshd for containers; a sentence says why not. Whether it can be believed is for `setupRoot`.
    pub fn has_sshd(&self) -> Result<(), String> {
        let tree = self.conf.opt_udi_image.trim_end_matches('/');
        let program = format!("{tree}/sbin/sshd");
        match Path::new(&program).exists() {
            _ if tree.is_empty() => Err("udiRoot.conf has no optUdiImage, where OpenSSH would be".to_owned()),
            true => Ok(()),
            false => Err(format!("there is no {program}, which dist/openssh/build makes")),
        }
    }

    /// A program of Shifter's that root runs.
    pub fn root_program(&self, name: &str) -> Result<String, String> {
        let path = format!("{}/sbin/{name}", self.conf.udi_root_path);
        must_be_roots(Path::new(&path))?;
        Ok(path)
    }
}

/// Whether root alone can have written this file: it and every directory above it, links followed.
pub fn must_be_roots(path: &Path) -> Result<(), String> {
    const OTHERS_WRITE: u32 = 0o022;
    let real = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for part in real.ancestors() {
        let found = fs::metadata(part).map_err(|error| format!("{}: {error}", part.display()))?;
        if found.uid() != 0 || found.mode() & OTHERS_WRITE != 0 {
            return Err(format!(
                "{} is not used: {} can be written by others than root",
                path.display(),
                part.display()
            ));
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = fs::File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text);
    let length = read.map_err(|error| format!("cannot read {shown}: {error}"))?;
    if length as u64 > LARGEST { Err(format!("{shown} is larger than {LARGEST} bytes")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_site_without_openssh_is_known_before_a_job_asks_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().display().to_string();
        for (line, made, expected) in [
            ("", "", "udiRoot.conf has no optUdiImage".to_owned()),
            (&*format!("optUdiImage={tree}"), "", format!("there is no {tree}/sbin/sshd, which")),
            (&*format!("optUdiImage={tree}/"), "sbin/sshd", String::new()),
        ] {
            fs::create_dir_all(directory.path().join(made)).unwrap();
            let conf = UdiRootConf::parse(&format!("imagePath=/i\nudiRootPath=/usr\n{line}\n")).unwrap();
            let said = Site { conf, ..Site::default() }.has_sshd().err().unwrap_or_default();
            assert!(said.starts_with(&expected) && said.is_empty() == expected.is_empty(), "{line}: {said}");
        }
    }

    #[test]
    fn a_missing_or_bad_configuration_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("udiRoot.conf");
        let place = place.to_str().unwrap();
        let said = Site::read(Some(place)).unwrap_err();
        assert_eq!(said, format!("cannot read {place}: No such file or directory (os error 2)"));
        fs::write(place, "colour=red\n").unwrap();
        assert!(Site::read(Some(place)).unwrap_err().starts_with(&format!("{place}: line 1: unknown key")));
        fs::write(place, "imagePath=/images\nudiRootPath=/usr\n").unwrap();
        assert!(Site::read(Some(place)).is_ok());
        fs::write(directory.path().join("shifter.conf"), "volumeDeny=/secret\n").unwrap();
        assert_eq!(Site::read(Some(place)).unwrap().shifter.volumes.deny, ["/secret"]);
        // /tmp is anybody's.
        assert!(Site::read_trusted(Some(place)).unwrap_err().contains("can be written by others than root"));
    }
}
