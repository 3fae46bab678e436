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
use serde::{Deserialize, Serialize};

/// Most symbolic links on the way, as the kernel's own limit (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Longest path in bytes (PATH_MAX, linux/limits.h).
const LONGEST: usize = 4095;

/// The extended attribute that holds a POSIX access list (acl(5)).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// For whom a file is opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asker {
    /// Their account's number; 0 may all that the reading process may.
    pub uid: u32,
    /// All groups, the primary one included.
    pub gids: Vec<u32>,
}

/// Where files may be, and where not; directories that do not exist say nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Places {
    /// If there are some, the file must be below one of them.
    pub allowed: Vec<PathBuf>,
    /// The gateway's own directories and files.
    pub forbidden: Vec<PathBuf>,
}

/// Why a file is not opened; each is a sentence for the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No path that can be walked.
    #[error("the file to import must be named by an absolute path without \"..\"")]
    NotAbsolute,
    /// Missing or denied.
    #[error("{0} is not there, or you cannot read it")]
    Unreadable(String),
    /// A directory, a link, a device.
    #[error("{0} is not a regular file; name the file itself, not a link to it")]
    NotAFile(String),
    /// A file, a link, a device.
    #[error("{0} is not a directory; name the directory itself, not a link to it")]
    NotADirectory(String),
    /// Below one of the gateway's directories, or one of its files.
    #[error("{0} is the image gateway's own, or lies in a directory of its own")]
    Forbidden(String),
    /// Below none of those that the site names.
    #[error("{0} is not in a directory from which this site allows imports")]
    NotAllowed(String),
    /// A POSIX access list has the last word.
    #[error(
        "whether you may read {0} is decided by an access list, which the gateway cannot judge; upload it"
    )]
    AccessList(String),
    /// The reading process may not.
    #[error("the image gateway cannot read {0}: {1}; upload it, or let everybody read it")]
    Gateway(String, String),
}

/// Opens a regular file for reading if the asker could.
///
/// # Errors
/// [`OpenError`]; what is missing and what is denied read the same.
pub fn open(path: &Path, asker: &Asker, places: &Places) -> Result<File, OpenError> {
    open_as(path, FileType::RegularFile, asker, places)
}

/// Opens a directory for reading its names if the asker could do that, and pass it.
///
/// # Errors
/// As for [`open()`].
pub fn open_directory(path: &Path, asker: &Asker, places: &Places) -> Result<File, OpenError> {
    open_as(path, FileType::Directory, asker, places)
}

fn open_as(path: &Path, wanted: FileType, asker: &Asker, places: &Places) -> Result<File, OpenError> {
    let text = path.display().to_string();
    let bytes = path.as_os_str().as_bytes();
    let parts = || bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    if bytes.first() != Some(&b'/') || bytes.len() > LONGEST || parts().any(|part| part == b"..") {
        return Err(OpenError::NotAbsolute);
    }
    let unreadable = |_: Errno| OpenError::Unreadable(text.clone());
    let to_do: VecDeque<OsString> = parts().map(|part| OsString::from_vec(part.to_vec())).collect();
    let here = root().map_err(unreadable)?;
    let mut way = Way { asker, wanted, here, to_do, links: 0, passed: HashSet::new() };
    let found = way.walk(&text)?;
    let is_within = |directories: &[PathBuf]| {
        directories.iter().filter_map(|path| fs::stat(path).ok()).any(|s| way.passed.contains(&identity(&s)))
    };
    if is_within(&places.forbidden) {
        return Err(OpenError::Forbidden(text));
    }
    if !places.allowed.is_empty() && !is_within(&places.allowed) {
        return Err(OpenError::NotAllowed(text));
    }
    reopen(&found).map_err(|why| OpenError::Gateway(text, why.to_string()))
}

/// The same file or directory again, for reading, whatever its name means by now.
///
/// # Errors
/// What open(2) says to this process.
pub fn reopen(found: &OwnedFd) -> rustix::io::Result<File> {
    // O_NONBLOCK: a lease must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(shown(found), flags, Mode::empty()).map(File::from)
}

/// What mode and owner say of an asker's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Granted.
    Yes,
    /// Denied.
    No,
    /// An access list decides, which cannot be judged from outside.
    Unclear,
}

/// Whether the asker may, by the bits of their class (inode(7)): 4 reading, 2 writing, 1 passing, or sums of these. Root
/// may everything. `what` is open, be it with `O_PATH` only.
pub fn judge(what: &OwnedFd, status: &Stat, asker: &Asker, bits: u32) -> Verdict {
    let shift = match () {
        () if asker.uid == 0 => return Verdict::Yes,
        () if status.st_uid == asker.uid => 6,
        () if asker.gids.contains(&status.st_gid) => 3,
        () => 0,
    };
    if shift != 6 && has_access_list(what) {
        return Verdict::Unclear;
    }
    if (status.st_mode >> shift) & bits == bits { Verdict::Yes } else { Verdict::No }
}

struct Way<'a> {
    asker: &'a Asker,
    /// What the last name must be.
    wanted: FileType,
    here: OwnedFd,
    to_do: VecDeque<OsString>,
    links: usize,
    /// Device and inode of every directory on the way, and of the file at its end.
    passed: HashSet<(u64, u64)>,
}

impl Way<'_> {
    /// What is at the end, as an `O_PATH` descriptor.
    fn walk(&mut self, text: &str) -> Result<OwnedFd, OpenError> {
        let unreadable = |_: Errno| OpenError::Unreadable(text.to_owned());
        let denied = || OpenError::Unreadable(text.to_owned());
        let other = match self.wanted {
            FileType::Directory => OpenError::NotADirectory,
            _ => OpenError::NotAFile,
        };
        loop {
            let status = fs::fstat(&self.here).map_err(unreadable)?;
            self.allows(&self.here, &status, 0o1, text)?;
            self.passed.insert(identity(&status));
            let Some(name) = self.to_do.pop_front() else {
                if self.wanted != FileType::Directory {
                    return Err(other(text.to_owned()));
                }
                self.allows(&self.here, &status, 0o5, text)?;
                return self.here.try_clone().map_err(|_| denied());
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = fs::openat(&self.here, &name, flags, Mode::empty()).map_err(unreadable)?;
            let status = fs::fstat(&next).map_err(unreadable)?;
            match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => self.here = next,
                FileType::Symlink if !self.to_do.is_empty() => self.follow(&next).ok_or_else(denied)?,
                kind @ FileType::RegularFile if self.to_do.is_empty() && kind == self.wanted => {
                    self.allows(&next, &status, 0o4, text)?;
                    self.passed.insert(identity(&status));
                    return Ok(next);
                }
                _ => return Err(other(text.to_owned())),
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

    fn allows(&self, what: &OwnedFd, status: &Stat, bits: u32, text: &str) -> Result<(), OpenError> {
        match judge(what, status, self.asker, bits) {
            Verdict::Yes => Ok(()),
            Verdict::No => Err(OpenError::Unreadable(text.to_owned())),
            Verdict::Unclear => Err(OpenError::AccessList(text.to_owned())),
        }
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

/// Device and inode: what a file is, whatever it is called.
pub fn identity(status: &Stat) -> (u64, u64) {
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
        matches!(result, Err(OpenError::Unreadable(..)))
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
            let is_fine =
                if name == "file/" { opened.is_ok() } else { matches!(opened, Err(OpenError::NotAFile(..))) };
            assert!(is_fine, "{name}");
        }
        assert!(matches!(
            open(&tree.path("file/x"), &alice(), &Places::default()),
            Err(OpenError::NotAFile(..))
        ));
        assert!(matches!(
            open(Path::new("/dev/null"), &alice(), &Places::default()),
            Err(OpenError::NotAFile(..))
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
            forbidden: vec![tree.path("images"), "/nonexistent".into(), tree.path("scratch/key")],
        };
        let key = tree.file("scratch/key", ALICE, ALICE, 0o644);
        std::fs::hard_link(&key, tree.path("scratch/other")).unwrap();
        for path in [own, tree.path("link/file"), key, tree.path("scratch/other")] {
            assert!(matches!(open(&path, &alice(), &places), Err(OpenError::Forbidden(..))));
        }
        open(&scratch, &alice(), &places).unwrap();
        let elsewhere = tree.file("file", ALICE, ALICE, 0o644);
        assert!(matches!(open(&elsewhere, &alice(), &places), Err(OpenError::NotAllowed(..))));
    }
}
