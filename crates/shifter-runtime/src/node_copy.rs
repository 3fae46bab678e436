//! The site's trees (optUdiImage, modules' copyPath) as every container has them: as they were when it was built,
//! readable by all, out of the node's memory. A tree is copied once per node and state, into `/run/shifter`, and
//! shown read-only, or as the lower layer of an overlay where root hooks may write. A tree that changes gets a
//! further copy; old ones stay until the node starts anew, because containers may show them.
//!
//! It never writes to the source and decides nothing: a copy is found by the state of the tree it was made of.

use crate::error::Result;
use shifter_core::paths::RUN_DIRECTORY;
use shifter_sys::directory::{self as dir, FileType};
use shifter_sys::trusted;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;

/// Deepest tree copied.
pub(crate) const MOST_DEPTH: usize = 64;
/// Most copies kept; further states of a tree are copied into each container.
const MOST_COPIES: usize = 32;

/// The node's copy of `source`, whose path is `path`; `None` if there is none and none can be made now (another
/// process makes one for too long, memory is short): then the container gets a copy of its own.
pub(crate) fn of(source: &OwnedFd, path: &str) -> Result<Option<OwnedFd>> {
    let mut state = DefaultHasher::new();
    path.hash(&mut state);
    fingerprint(source, &mut state, MOST_DEPTH)?;
    Ok(found_or_made(source, &format!("{:016x}", state.finish())).ok().flatten())
}

fn found_or_made(source: &OwnedFd, name: &str) -> Result<Option<OwnedFd>> {
    trusted::open_or_make_directory(RUN_DIRECTORY, 0o700)?;
    let copies = trusted::open_or_make_directory(&format!("{RUN_DIRECTORY}/copies"), 0o700)?;
    let found = dir::find_if_present(&copies, name, dir::Links::Refuse)?;
    if found.is_some() {
        return Ok(found);
    }
    let lock = dir::open_lock(&copies, "lock")?;
    if !dir::wait_for_recent(&lock) || dir::entries(&copies, "copies", usize::MAX)?.len() > MOST_COPIES {
        return Ok(None);
    }
    if let Some(found) = dir::find_if_present(&copies, name, dir::Links::Refuse)? {
        return Ok(Some(found));
    }
    // Whoever held the lock before and was killed left this behind; nobody shows it.
    let partial = c"partial";
    dir::remove_tree(&copies, partial, MOST_DEPTH)?;
    dir::make(&copies, partial, 0o755)?;
    let target = dir::find_directory(&copies, partial)?;
    let copied = dir::copy_tree(source, &target, MOST_DEPTH);
    if copied.is_err() {
        dir::remove_tree(&copies, partial, MOST_DEPTH)?;
    }
    copied?;
    dir::rename(&copies, partial, name)?;
    Ok(Some(target))
}

/// What tells one state of a tree from another without reading its files.
fn fingerprint(directory: &OwnedFd, state: &mut DefaultHasher, depth: usize) -> Result<()> {
    let mut entries = dir::entries(directory, "a site directory", usize::MAX)?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let found = dir::status_of(directory, &entry.name)?;
        entry.name.hash(state);
        // Not the device: a network file system has another after each mount.
        (found.st_ino, found.st_mode, found.st_uid, found.st_size).hash(state);
        (found.st_mtime, found.st_mtime_nsec, found.st_ctime, found.st_ctime_nsec).hash(state);
        if entry.file_type == FileType::Directory && depth > 0 {
            fingerprint(&dir::find_directory(directory, &entry.name)?, state, depth - 1)?;
        }
    }
    Ok(())
}
