//! SQLite's file: a directory on a local file system and a lock file that says who serves.
//!
//! The lock is flock(2) on a file beside the database: the kernel drops it with the process, however
//! that ends, so a stale lock cannot exist.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use shifter_core::mountinfo::mounts;

use crate::catalog::CatalogError;

/// File systems on which several hosts may open one file, by their names in mountinfo (proc(5)).
const NETWORK: &[&str] = &[
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "cvfs", "fhgfs", "gfs2", "gpfs", "lustre", "nfs", "nfs4",
    "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "stornext", "virtiofs", "wekafs",
];
const NETWORK_FUSE: &[&str] = &["fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs", "fuse.s3fs"];

/// Creates the directory where it is missing, checks its file system and takes the lock.
pub(super) fn lock(database: &Path) -> Result<File, CatalogError> {
    let table = Path::new("/proc/self/mountinfo");
    let mounts = std::fs::read(table).map_err(|source| CatalogError::Io {
        operation: "reading",
        path: table.to_owned(),
        source,
    })?;
    lock_where(database, &mounts)
}

/// The same with this table of mounts.
fn lock_where(database: &Path, mounts: &[u8]) -> Result<File, CatalogError> {
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| CatalogError::Io { operation, path, source }
    };
    let directory = database.parent().unwrap_or(Path::new("/"));
    // The rows hold names and environments of private images.
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("creating", directory))?;
    let real = directory.canonicalize().map_err(io("resolving", directory))?;
    if let Some(kind) = file_system_of(&real, mounts)
        && (NETWORK.contains(&kind.as_str()) || NETWORK_FUSE.contains(&kind.as_str()))
    {
        return Err(CatalogError::Network { path: database.to_owned(), kind });
    }
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let open = |path: &Path| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    };
    // SQLite gives its companion files the mode of the database file, which would be world-readable.
    drop(open(database).map_err(io("opening", database))?);
    let mut file = open(&path).map_err(io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&file).take(20).read_to_string(&mut holder);
            let holder = holder.trim().to_owned();
            let holder = if holder.is_empty() { "(unknown)".to_owned() } else { holder };
            return Err(CatalogError::InUse { path: database.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(io("locking", &path)(source)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(io("writing", &path))?;
    Ok(file)
}

/// The type of the mount that a path lies on: the deepest mount point that leads to it, the last
/// one where several lie on one another.
fn file_system_of(path: &Path, table: &[u8]) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for mount in mounts(table) {
        let point = Path::new(OsStr::from_bytes(&mount.point));
        let depth = point.components().count();
        if path.starts_with(point) && best.as_ref().is_none_or(|(deepest, _)| depth >= *deepest) {
            best = Some((depth, String::from_utf8_lossy(mount.kind).into_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// A path as part of a URL.
pub(super) fn escape(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte);
    let escape = |byte: &u8| match plain(byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.as_os_str().as_bytes().iter().map(escape).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_deepest_and_latest_mount_decides() {
        let mounts = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /images rw - lustre mgs@tcp:/fs rw
31 22 0:41 / /var/lib\\040x rw shared:7 master:2 - nfs4 srv:/v rw
34 30 0:44 / /images/\xff rw - nfs srv:/v rw
32 30 0:42 / /images/local rw - ext4 /dev/sdb rw
33 32 0:43 / /images/local rw - xfs /dev/sdc rw
garbage
";
        for (path, kind) in [
            ("/var/lib/shifter", "ext4"),
            ("/images", "lustre"),
            ("/images/a/b", "lustre"),
            ("/images2", "ext4"),
            ("/var/lib x/y", "nfs4"),
            ("/images/local/db", "xfs"),
        ] {
            assert_eq!(file_system_of(Path::new(path), mounts).as_deref(), Some(kind), "{path}");
        }
    }

    #[test]
    fn a_catalog_on_a_network_file_system_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(real.join("far"), real.join("link")).unwrap();
        let point = real.join("far").display().to_string();
        for (kind, is_refused) in
            [("nfs4", true), ("lustre", true), ("gpfs", true), ("fuse.sshfs", true), ("ext4", false)]
        {
            let mounts = format!(
                "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / {point} rw shared:1 - {kind} server:/v rw\n"
            );
            for name in ["far", "link"] {
                std::fs::create_dir_all(real.join("far")).unwrap();
                let database = real.join(name).join("shifter.db");
                let locked = lock_where(&database, mounts.as_bytes());
                match is_refused {
                    true => {
                        let error = locked.unwrap_err();
                        assert!(matches!(error, CatalogError::Network { .. }), "{error}");
                        let expected = format!("on a network file system ({kind})");
                        assert!(error.to_string().contains(&expected), "{error}");
                        assert_eq!(std::fs::read_dir(real.join("far")).unwrap().count(), 0);
                    }
                    false => drop(locked.unwrap()),
                }
            }
            // Beside it, and not on it.
            drop(lock_where(&real.join("near/shifter.db"), mounts.as_bytes()).unwrap());
        }
    }

    #[test]
    fn a_second_gateway_is_told_who_serves() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("new/shifter.db");
        let held = lock(&database).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&database), mode(database.parent().unwrap())), (0o600, 0o700));
        let error = lock(&database).unwrap_err().to_string();
        let expected = format!("in use by process {};", std::process::id());
        assert!(error.contains(&expected), "{error}");
        drop(held);
        lock(&database).unwrap();
    }
}
