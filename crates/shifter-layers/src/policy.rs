//! What of an image nodes get to see: one place for every rule that changes or drops content, so that
//! administrators can read what is done to their users' images.
//!
//! - Owners: everything is root's, unless [`Policy::owners`] keeps them.
//! - Modes: everything is readable by all, directories and programs also searchable and executable, as the
//!   old gateway's native mode left them, because nobody in a container is the owner. Setuid and setgid are
//!   dropped (and sticky on files, where it means nothing), unless [`Policy::setuid`] keeps them.
//! - Shadow password files are emptied: readable-by-all must not publish hashes, and nobody can log in. So
//!   is a file that only once stood there and has another name now.
//! - Device nodes and fifos are dropped, unless [`Policy::devices`] or [`Policy::fifos`] keeps them (tar
//!   cannot hold sockets). Everything below `dev/` is dropped always: nodes bring their own `/dev`.
//! - Extended attributes are dropped, unless [`Policy::xattrs`] keeps them: capabilities would be setuid by
//!   another name.
//! - Times are kept, in whole seconds from 1970 to 2106, which is what squashfs can store.

/// What sites may choose; the default drops everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Keeps owners and groups as archived.
    pub owners: bool,
    /// Keeps the setuid and setgid bits.
    pub setuid: bool,
    /// Keeps block and character devices.
    pub devices: bool,
    /// Keeps named pipes.
    pub fifos: bool,
    /// Keeps extended attributes of the classes that squashfs knows: user, security, trusted.
    pub xattrs: bool,
}

/// Permissions of a directory that no layer has an entry for.
pub const IMPLIED_DIRECTORY_MODE: u16 = 0o755;

/// Permissions of the emptied shadow files; the one exception from readable-by-all.
pub const SHADOW_MODE: u16 = 0o400;

/// Names of files whose content is withheld.
pub const SHADOWS: [&[u8]; 4] = [b"etc/shadow", b"etc/shadow-", b"etc/gshadow", b"etc/gshadow-"];

/// The directory whose contents are dropped; it stays itself, as a mount point.
pub const EMPTIED_DIRECTORY: &[u8] = b"dev";

impl Policy {
    /// What may be kept, as configurations name it.
    pub const NAMES: [&str; 5] = ["owners", "setuid", "devices", "fifos", "xattrs"];

    /// The policy that keeps what is named; or the first name that means nothing.
    pub fn keeping(names: &[String]) -> Result<Policy, &str> {
        let mut policy = Policy::default();
        for name in names {
            match name.as_str() {
                "owners" => policy.owners = true,
                "setuid" => policy.setuid = true,
                "devices" => policy.devices = true,
                "fifos" => policy.fifos = true,
                "xattrs" => policy.xattrs = true,
                unknown => return Err(unknown),
            }
        }
        Ok(policy)
    }

    /// Permissions that a directory gets. The sticky bit stays: it means something on directories.
    pub fn directory_mode(&self, archived: u16) -> u16 {
        (archived & (0o1777 | self.kept_bits())) | 0o755
    }

    /// Permissions that anything else gets.
    pub fn file_mode(&self, archived: u16) -> u16 {
        let executable = if archived & 0o111 != 0 { 0o111 } else { 0 };
        (archived & (0o777 | self.kept_bits())) | 0o644 | executable
    }

    fn kept_bits(&self) -> u16 {
        if self.setuid { 0o6000 } else { 0 }
    }
}

/// Whether squashfs can hold an extended attribute of this name.
pub(crate) fn is_storable_xattr(name: &[u8]) -> bool {
    let classes: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
    classes.iter().any(|class| name.strip_prefix(*class).is_some_and(|rest| !rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_keeps_one_thing_and_no_other_does() {
        let keeping = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Policy::keeping(&names).map_err(str::to_owned)
        };
        let flags = |policy: Policy| {
            let Policy { owners, setuid, devices, fifos, xattrs } = policy;
            [owners, setuid, devices, fifos, xattrs]
        };
        for (place, name) in Policy::NAMES.iter().enumerate() {
            let expected: Vec<bool> = (0..5).map(|flag| flag == place).collect();
            assert_eq!(keeping(&[name]).map(|policy| flags(policy).to_vec()), Ok(expected), "{name}");
        }
        assert_eq!(keeping(&[]), Ok(Policy::default()));
        assert_eq!(keeping(&Policy::NAMES).map(flags), Ok([true; 5]));
        assert_eq!(keeping(&["owners", "Setuid"]), Err("Setuid".to_owned()));
    }

    #[test]
    fn modes_open_reading_and_close_setuid() {
        let (drops, keeps) = (Policy::default(), Policy { setuid: true, ..Policy::default() });
        let files = [
            (0o4755, 0o755, 0o4755),
            (0o2700, 0o755, 0o2755),
            (0o0600, 0o644, 0o644),
            (0o0000, 0o644, 0o644),
            (0o1640, 0o644, 0o644),
            (0o0010, 0o755, 0o755),
            (0o0666, 0o666, 0o666),
        ];
        for (archived, expected, kept) in files {
            assert_eq!(drops.file_mode(archived), expected, "{archived:o}");
            assert_eq!(keeps.file_mode(archived), kept, "{archived:o}");
        }
        let directories = [
            (0o1777, 0o1777, 0o1777),
            (0o2770, 0o775, 0o2775),
            (0o0700, 0o755, 0o755),
            (0o0000, 0o755, 0o755),
        ];
        for (archived, expected, kept) in directories {
            assert_eq!(drops.directory_mode(archived), expected, "{archived:o}");
            assert_eq!(keeps.directory_mode(archived), kept, "{archived:o}");
        }
    }
}
