//! A job's own ssh key: made by its user at submission, so that no other job's key opens its containers.
//!
//! The private half stays in the user's home, where every node finds it; its public half, whose comment is the file's
//! name, goes with the job. Nobody can tell when the last node is done with it, so keys go by age.

use crate::program::run;
use crate::request::key_line;
use std::fs::{self, DirBuilder};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

/// The directory in a home, as the original's.
const DIRECTORY: &str = ".udiRoot";
/// What every key's name begins with.
const NAME: &str = "shifter-";
/// Digits behind it.
const DIGITS: usize = 16;
/// Age at which a key goes: no job waits and runs for so long.
const LONGEST: Duration = Duration::from_secs(180 * 86_400);
/// The file whose time says when keys were last looked through: whoever submits many jobs has many.
const LOOKED: &str = "keys-looked-through";
/// Time between two looks.
const BETWEEN: Duration = Duration::from_secs(86_400);

/// The home of the account, where nodes look for its keys; `$HOME` may be another.
pub fn home() -> Result<String, String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let ended = run(&["/usr/bin/getent", "passwd", &uid], &[], Duration::from_secs(20))?;
    let home = ended.out.lines().next().and_then(|line| line.split(':').nth(5));
    home.filter(|home| ended.well() && home.starts_with('/'))
        .map(str::to_owned)
        .ok_or_else(|| format!("cannot make the job's ssh key: getent passwd knows no home of user {uid}"))
}

/// Makes a key pair in `home`; returns the public line.
pub fn make(home: &str) -> Result<String, String> {
    let said =
        |what: &str, error: &dyn std::fmt::Display| format!("cannot make the job's ssh key: {what}: {error}");
    let directory = Path::new(home).join(DIRECTORY);
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(said(&directory.display().to_string(), &error));
        }
        _ => {}
    }
    let found =
        fs::symlink_metadata(&directory).map_err(|error| said(&directory.display().to_string(), &error))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(said(
            &directory.display().to_string(),
            &"it must be your directory, writable by you alone",
        ));
    }
    remove_old(&directory);
    let mut bytes = [0; DIGITS / 2];
    let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.map_err(|error| said("/dev/urandom", &error))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{NAME}{digits}");
    let path = directory.join(&name).display().to_string();
    let words = ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", &name, "-f", &path];
    let ended = run(&words, &[("HOME", home)], Duration::from_secs(20))?;
    if !ended.well() {
        return Err(said("ssh-keygen", &crate::program::last_words(&ended.err)));
    }
    let line = fs::read_to_string(format!("{path}.pub")).map_err(|error| said(&path, &error))?;
    key_line(&line)
}

/// Where the private half of a public line is, for `setupRoot --identity`; none if its comment is not ours.
pub fn identity(line: &str) -> Option<String> {
    let name = line.split(' ').nth(2)?;
    let digits = name.strip_prefix(NAME)?;
    let good = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| format!("~/{DIRECTORY}/{name}"))
}

/// A failure is no reason to refuse a job.
fn remove_old(directory: &Path) {
    let age = |found: fs::Metadata| found.modified().ok().and_then(|at| at.elapsed().ok());
    let stamp = directory.join(LOOKED);
    // A time that is yet to come has no age.
    if fs::metadata(&stamp).ok().and_then(age).is_some_and(|age| age < BETWEEN) {
        return;
    }
    let _looks_again_then = fs::write(&stamp, "This file's time: when old keys were last looked for.\n");
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME));
        let age = entry.metadata().ok().and_then(age);
        if ours && age.is_some_and(|age| age > LONGEST) {
            let _next_time = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn each_job_has_its_own_key_and_old_ones_go() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        let first = make(home).unwrap();
        let file = identity(&first).unwrap().replace('~', home);
        assert!(
            first.starts_with("ssh-ed25519 ")
                && fs::metadata(&file).unwrap().permissions().mode() & 0o77 == 0
        );
        let set = |file: &str, time: std::time::SystemTime| {
            fs::File::open(file).unwrap().set_modified(time).unwrap();
        };
        let now = std::time::SystemTime::now();
        let stamp = format!("{home}/{DIRECTORY}/{LOOKED}");
        set(&file, now - LONGEST * 2);
        let second = make(home).unwrap();
        assert_ne!(first, second);
        assert!(Path::new(&file).exists(), "looked for once a day");
        set(&stamp, now - BETWEEN * 2);
        make(home).unwrap();
        assert!(!Path::new(&file).exists() && Path::new(&format!("{file}.pub")).exists());
        assert!(fs::metadata(&stamp).unwrap().modified().unwrap() > now - BETWEEN);
        // A clock that was wrong stops nothing.
        let other = format!("{file}.pub");
        set(&other, now - LONGEST * 2);
        set(&stamp, now + BETWEEN * 400);
        make(home).unwrap();
        assert!(!Path::new(&other).exists());
        fs::set_permissions(format!("{home}/.udiRoot"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(make(home).unwrap_err().contains("writable by you alone"));
        for other in
            ["ssh-ed25519 AAAA", "ssh-ed25519 AAAA me@here", "ssh-ed25519 AAAA shifter-../../etc/passwd"]
        {
            assert_eq!(identity(other), None);
        }
    }
}
