//! Whether this account can use the directories and files that a configuration names. Nothing is made or changed; root
//! can use all, so whoever wants to know of the gateway's account asks as that.

use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::catalog::Place;
use crate::config::Config;

/// What cannot be used, one sentence each, and which key says so.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |key: &str, result: Result<(), String>| {
        problems.extend(result.err().map(|why| format!("{key}: {why}")));
    };
    note("CacheDirectory", directory(&config.cache_directory));
    note("ExpandDirectory", directory(&config.expand_directory));
    if let Some(path) = &config.audit_log {
        note("AuditLog", file(path));
    }
    if let Place::Sqlite(path) = &config.database {
        note("DatabaseURI", file(path));
    }
    problems
}

/// A directory that is used, or made with those above it.
fn directory(path: &Path) -> Result<(), String> {
    let mut there = path;
    while !exists(there)? {
        // The root directory is always there.
        there = there.parent().unwrap_or(Path::new("/"));
    }
    let shown = path.display();
    if !there.is_dir() {
        return Err(format!("{shown} cannot be made, because {} is not a directory", there.display()));
    }
    match may(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(why) if there == path => Err(format!("this account cannot write to {shown}: {why}")),
        Err(why) => Err(format!("this account cannot make {shown} in {}: {why}", there.display())),
    }
}

/// A file that is written, or made in a directory that is there.
fn file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if exists(path)? {
        let usable = may(path, Access::READ_OK | Access::WRITE_OK);
        return usable.map_err(|why| format!("this account cannot read and write {shown}: {why}"));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !exists(parent)? || !parent.is_dir() {
        return Err(format!("{shown} cannot be made, because {} is not a directory", parent.display()));
    }
    let usable = may(parent, Access::WRITE_OK | Access::EXEC_OK);
    usable.map_err(|why| format!("this account cannot make {shown}: {why}"))
}

/// Whether there is something, as far as this account can tell.
fn exists(path: &Path) -> Result<bool, String> {
    // What lies below a file is not there, and what is wrong with that is said of the file.
    path.try_exists().or_else(|error| match error.kind() {
        ErrorKind::NotADirectory => Ok(false),
        _ => Err(format!("this account cannot look for {}: {error}", path.display())),
    })
}

fn may(path: &Path, access: Access) -> Result<(), std::io::Error> {
    accessat(CWD, path, access, AtFlags::EACCESS).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_that_cannot_be_used_are_named_before_a_start_fails_at_them() {
        let held = tempfile::tempdir().unwrap();
        let at = |name: &str| held.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        for (path, is_usable) in [("", true), ("new/and/below", true), ("file", false), ("file/below", false)]
        {
            assert_eq!(directory(&at(path)).is_ok(), is_usable, "directory {path}");
        }
        for (path, is_usable) in [("file", true), ("new", true), ("new/below", false), ("file/below", false)]
        {
            assert_eq!(file(&at(path)).is_ok(), is_usable, "file {path}");
        }
    }
}
