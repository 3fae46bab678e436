//! Opening a file that a user names, with the gateway's rights but only as far as that user's own reach: every
//! directory on the way must let them pass, and the file must be readable to them, by owner, groups and mode.
//!
//! The way is walked by descriptor, each link read and followed here, so that what was checked is what is opened. A
//! POSIX access list cannot be judged from outside; where one could decide, the file has to be uploaded instead.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Most symbolic links on the way, as the kernel's own limit (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Longest path in bytes (PATH_MAX, linux/limits.h).
const LONGEST: usize = 4095;

/// The extended attribute that holds a POSIX access list (acl(5)).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// For whom a file is opened.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) uid: u32,
    /// All groups, the primary one included.
    pub(crate) gids: Vec<u32>,
}

/// Where files may be, and where not; directories that do not exist say nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// If there are some, the file must be below one of them.
    pub(crate) allowed: Vec<PathBuf>,
    /// The gateway's own directories.
    pub(crate) forbidden: Vec<PathBuf>,
}

/// Why a file is not opened; each is a sentence for the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the file to import must be named by an absolute path without \"..\"")]
    NotAbsolute,
    #[error("{path} is not there, or you cannot read it")]
    Unreadable { path: String },
    #[error("{path} is not a regular file; name the file itself, not a link to it")]
    NotAFile { path: String },
    #[error("{path} lies in a directory of the image gateway's own")]
    Forbidden { path: String },
    #[error("{path} is not in a directory from which this site allows imports")]
    NotAllowed { path: String },
    #[error(
        "whether you may read {path} is decided by an access list, which the gateway cannot judge; upload it"
    )]
    AccessList { path: String },
    #[error("the image gateway cannot read {path}: {why}; upload it, or let everybody read it")]
    Gateway { path: String, why: String },
}

/// Opens a regular file for reading if the asker could.
///
/// # Errors
/// [`OpenError`]; what is missing and what is denied read the same.
pub(crate) fn open(path: &Path, asker: &Asker, places: &Places) -> Result<File, OpenError> {
    let text = path.display().to_string();
    let bytes = path.as_os_str().as_bytes();
    let parts = || bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    if bytes.first() != Some(&b'/') || bytes.len() > LONGEST || parts().any(|part| part == b"..") {
        return Err(OpenError::NotAbsolute);
    }
    let unreadable = |_: Errno| OpenError::Unreadable { path: text.clone() };
    let to_do: VecDeque<OsString> = parts().map(|part| OsString::from_vec(part.to_vec())).collect();
    let mut way = Way { asker, here: root().map_err(unreadable)?, to_do, links: 0, passed: HashSet::new() };
    let file = way.walk(&text)?;
    let is_within = |directories: &[PathBuf]| {
        directories.iter().filter_map(|path| fs::stat(path).ok()).any(|s| way.passed.contains(&identity(&s)))
    };
    if is_within(&places.forbidden) {
        return Err(OpenError::Forbidden { path: text });
    }
    if !places.allowed.is_empty() && !is_within(&places.allowed) {
        return Err(OpenError::NotAllowed { path: text });
    }
    // The same file again, whatever its name means by now. O_NONBLOCK: a lease must not hold us up.
    let opened = fs::open(shown(&file), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    opened.map(File::from).map_err(|why| OpenError::Gateway { path: text, why: why.to_string() })
}

struct Way<'a> {
    asker: &'a Asker,
    here: OwnedFd,
    to_do: VecDeque<OsString>,
    links: usize,
    /// Device and inode of every directory on the way.
    passed: HashSet<(u64, u64)>,
}

impl Way<'_> {
    /// The file at the end, as an `O_PATH` descriptor.
    fn walk(&mut self, text: &str) -> Result<OwnedFd, OpenError> {
        let unreadable = |_: Errno| OpenError::Unreadable { path: text.to_owned() };
        let denied = || OpenError::Unreadable { path: text.to_owned() };
        let not_a_file = || OpenError::NotAFile { path: text.to_owned() };
        loop {
            let status = fs::fstat(&self.here).map_err(unreadable)?;
            self.allows(&self.here, &status, 0o1, text)?;
            self.passed.insert(identity(&status));
            let name = self.to_do.pop_front().ok_or_else(not_a_file)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = fs::openat(&self.here, &name, flags, Mode::empty()).map_err(unreadable)?;
            let status = fs::fstat(&next).map_err(unreadable)?;
            match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => self.here = next,
                FileType::Symlink if !self.to_do.is_empty() => self.follow(&next).ok_or_else(denied)?,
                FileType::RegularFile if self.to_do.is_empty() => {
                    self.allows(&next, &status, 0o4, text)?;
                    return Ok(next);
                }
                _ => return Err(not_a_file()),
            }
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> Option<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return None;
        }
        let target = fs::readlinkat(link, "", Vec::new()).ok()?.into_bytes();
        if target.first() == Some(&b'/') {
            self.here = root().ok()?;
        }
        let parts: Vec<&[u8]> = target.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        for part in parts.into_iter().rev() {
            self.to_do.push_front(OsStr::from_bytes(part).to_owned());
        }
        (self.to_do.len() <= LONGEST).then_some(())
    }

    /// Whether the asker may, by the bits of their class (inode(7)); root may everything.
    fn allows(&self, what: &OwnedFd, status: &Stat, bit: u32, text: &str) -> Result<(), OpenError> {
        let (uid, gids) = (self.asker.uid, &self.asker.gids);
        let shift = match () {
            () if uid == 0 => return Ok(()),
            () if status.st_uid == uid => 6,
            () if gids.contains(&status.st_gid) => 3,
            () => 0,
        };
        if shift != 6 && has_access_list(what) {
            return Err(OpenError::AccessList { path: text.to_owned() });
        }
        let is_allowed = (status.st_mode >> shift) & bit != 0;
        if is_allowed { Ok(()) } else { Err(OpenError::Unreadable { path: text.to_owned() }) }
    }
}

fn has_access_list(what: &OwnedFd) -> bool {
    // An O_PATH descriptor has no attributes of its own (open(2)); its name in /proc does.
    let mut nothing = [0_u8; 0];
    fs::getxattr(shown(what), ACCESS_LIST, &mut nothing).is_ok_and(|length| length > 0)
}

fn shown(what: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", what.as_raw_fd())
}

fn root() -> rustix::io::Result<OwnedFd> {
    fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn identity(status: &Stat) -> (u64, u64) {
    (status.st_dev, status.st_ino)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const ALICE: u32 = 4201;
    const LAB: u32 = 4300;

    fn alice() -> Asker {
        Asker { uid: ALICE, gids: vec![ALICE, LAB] }
    }

    /// Needs root, to give files to others; the gateway's own tests run so.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Tree {
            let tree = Tree(tempfile::Builder::new().prefix("import").tempdir().unwrap());
            tree.set("", 0, 0, 0o755);
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn set(&self, name: &str, uid: u32, gid: u32, mode: u32) {
            let path = self.path(name);
            chown(&path, Some(uid), Some(gid)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }

        fn file(&self, name: &str, uid: u32, gid: u32, mode: u32) -> PathBuf {
            std::fs::write(self.path(name), name).unwrap();
            self.set(name, uid, gid, mode);
            self.path(name)
        }

        fn directory(&self, name: &str, uid: u32, gid: u32, mode: u32) {
            std::fs::create_dir(self.path(name)).unwrap();
            self.set(name, uid, gid, mode);
        }
    }

    fn is_unreadable(result: Result<File, OpenError>) -> bool {
        matches!(result, Err(OpenError::Unreadable { .. }))
    }

    #[test]
    fn only_what_the_user_could_read_is_opened() {
        let tree = Tree::new();
        for (name, uid, gid, mode, expected) in [
            ("own", ALICE, 1, 0o400, true),
            ("own-denied", ALICE, 1, 0o044, false),
            ("group", 1, LAB, 0o040, true),
            ("group-denied", 1, LAB, 0o404, false),
            ("other", 1, 1, 0o004, true),
            ("secret", 0, 0, 0o600, false),
            ("gateways", 65534, 65534, 0o600, false),
        ] {
            let path = tree.file(name, uid, gid, mode);
            let opened = open(&path, &alice(), &Places::default());
            match expected {
                true => {
                    let mut text = String::new();
                    opened.unwrap().read_to_string(&mut text).unwrap();
                    assert_eq!(text, name);
                }
                false => assert!(is_unreadable(opened), "{name}"),
            }
            open(&path, &Asker { uid: 0, gids: vec![] }, &Places::default()).unwrap();
        }
        assert!(is_unreadable(open(&tree.path("missing"), &alice(), &Places::default())));
    }

    #[test]
    fn a_closed_directory_on_the_way_closes_the_file_also_behind_a_link() {
        let tree = Tree::new();
        tree.directory("closed", 1, 1, 0o700);
        tree.directory("open", 1, 1, 0o711);
        let hidden = tree.file("closed/file", ALICE, ALICE, 0o644);
        let seen = tree.file("open/file", ALICE, ALICE, 0o644);
        assert!(is_unreadable(open(&hidden, &alice(), &Places::default())));
        open(&seen, &alice(), &Places::default()).unwrap();
        symlink("closed", tree.path("to-closed")).unwrap();
        symlink(tree.path("open"), tree.path("to-open")).unwrap();
        symlink("to-open/../open/.", tree.path("to-to-open")).unwrap();
        assert!(is_unreadable(open(&tree.path("to-closed/file"), &alice(), &Places::default())));
        for name in ["to-open/file", "to-to-open/file", "./open//file"] {
            open(&tree.path(name), &alice(), &Places::default()).unwrap();
        }
        symlink("loop", tree.path("loop")).unwrap();
        assert!(is_unreadable(open(&tree.path("loop/file"), &alice(), &Places::default())));
    }

    #[test]
    fn links_devices_and_odd_paths_are_refused() {
        let tree = Tree::new();
        let file = tree.file("file", ALICE, ALICE, 0o644);
        symlink(&file, tree.path("link")).unwrap();
        fs::mknodat(fs::CWD, tree.path("fifo"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        for name in ["link", "fifo", "", "file/"] {
            let opened = open(&tree.path(name), &alice(), &Places::default());
            let is_fine = if name == "file/" {
                opened.is_ok()
            } else {
                matches!(opened, Err(OpenError::NotAFile { .. }))
            };
            assert!(is_fine, "{name}");
        }
        assert!(matches!(
            open(&tree.path("file/x"), &alice(), &Places::default()),
            Err(OpenError::NotAFile { .. })
        ));
        assert!(matches!(
            open(Path::new("/dev/null"), &alice(), &Places::default()),
            Err(OpenError::NotAFile { .. })
        ));
        for path in ["file", "", "../file", "/tmp/../etc/passwd", &format!("/{}", "a/".repeat(3000))] {
            let opened = open(Path::new(path), &alice(), &Places::default());
            assert_eq!(opened.unwrap_err(), OpenError::NotAbsolute, "{path}");
        }
    }

    #[test]
    fn the_gateways_own_directories_are_closed_and_others_may_be_all_that_is_open() {
        let tree = Tree::new();
        for name in ["images", "images/deep", "scratch"] {
            tree.directory(name, 0, 0, 0o755);
        }
        let own = tree.file("images/deep/file", ALICE, ALICE, 0o644);
        let scratch = tree.file("scratch/file", ALICE, ALICE, 0o644);
        symlink("images/deep", tree.path("link")).unwrap();
        let places = Places {
            allowed: vec![tree.path("scratch"), tree.path("images"), "/nonexistent".into()],
            forbidden: vec![tree.path("images"), "/nonexistent".into()],
        };
        for path in [own, tree.path("link/file")] {
            assert!(matches!(open(&path, &alice(), &places), Err(OpenError::Forbidden { .. })));
        }
        open(&scratch, &alice(), &places).unwrap();
        let elsewhere = tree.file("file", ALICE, ALICE, 0o644);
        assert!(matches!(open(&elsewhere, &alice(), &places), Err(OpenError::NotAllowed { .. })));
    }
}
