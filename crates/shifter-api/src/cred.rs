//! `~/.udiRoot/.cred`: the registry passwords `shifterimg login` keeps, sealed by MUNGE.
//!
//! One line per password, `SYSTEM:LOCATION=MUNGE:…:`; the payload of each credential is `user:password`. MUNGE
//! serves as the seal here, so an expired or already opened credential is still good, but one made by another
//! user is not: it could only be there to make this user pull with foreign credentials. The file is read only
//! if nobody else can read or write it, and written anew as a whole. Asking for passwords is the program's
//! business.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use shifter_munge::{Credential, DecodeError};

/// Where the file lies below the home directory that the user database names (never `$HOME`).
pub const FILE: &str = ".udiRoot/.cred";

/// Most bytes the file may have.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// Why the file as a whole was refused.
#[derive(Debug, thiserror::Error)]
pub enum CredError {
    /// It is there but cannot be read.
    #[error("cannot read the stored registry credentials {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be written anew.
    #[error("cannot write the stored registry credentials {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could have written it, or can read it.
    #[error("the stored registry credentials {path} are not used: {cause}; {hint}")]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// The way out.
        hint: &'static str,
    },
}

/// What the file held for one system.
#[derive(Default)]
pub struct Stored {
    /// `user:password` by registry location.
    pub locations: BTreeMap<String, String>,
    /// One sentence for each line that is of no use, without secrets.
    pub skipped: Vec<String>,
}

/// Reads the credentials of `system` from the caller's home.
///
/// `decode` is [`shifter_munge::Munge::decode_stored`] on the right socket; `uid` the caller's. No file means no
/// credentials. A line that cannot be opened is skipped and told, since a public image needs none.
///
/// # Errors
/// [`CredError`] if the file is there and cannot be read or trusted.
pub fn load(
    home: &Path,
    uid: u32,
    system: &str,
    decode: &dyn Fn(&str) -> Result<Credential, DecodeError>,
) -> Result<Stored, CredError> {
    let path = home.join(FILE);
    Ok(read(&path, uid)?.map_or_else(Stored::default, |text| open_lines(&text, uid, system, decode)))
}

/// Puts a sealed `user:password` in the place of what is stored for a location of a system, or, with `None`, takes
/// that away; says whether there was something. The other lines stay as they are. The file has mode 0600, a
/// directory made for it 0700; two writers at once take turns.
///
/// # Errors
/// [`CredError`], also where the present file cannot be trusted: what is in it is not passed on.
pub fn store(
    home: &Path,
    uid: u32,
    system: &str,
    location: &str,
    sealed: Option<&str>,
) -> Result<bool, CredError> {
    let path = home.join(FILE);
    let failed = |source| CredError::Write { path: path.clone(), source };
    let Some(directory) = path.parent() else { return Err(failed(io::ErrorKind::InvalidInput.into())) };
    if sealed.is_some() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let lock = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        lock => lock.map_err(failed)?,
    };
    // A home on a file system without locks: the last one wins.
    let _ = lock.lock();
    let old = read(&path, uid)?.unwrap_or_default();
    let key = format!("{system}:{location}=");
    let mut text: String = old
        .lines()
        .filter(|line| !line.trim_start().starts_with(&key))
        .flat_map(|line| [line, "\n"])
        .collect();
    let was_there = text.lines().count() != old.lines().count();
    if let Some(sealed) = sealed {
        text.push_str(&format!("{key}{sealed}\n"));
    }
    let new = directory.join(format!(".cred.{}", std::process::id()));
    // What a killed process of the same number left.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&new, &path)).map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })?;
    Ok(was_there)
}

/// Reads the file, if there is one; the checks are made on the opened file.
fn read(path: &Path, uid: u32) -> Result<Option<String>, CredError> {
    let failed = |source| CredError::Read { path: path.to_owned(), source };
    let untrusted = |cause, hint| CredError::Untrusted { path: path.to_owned(), cause, hint };
    // Opening a FIFO would wait for a writer.
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.is_file() => {
            return Err(untrusted("it is not a regular file".to_owned(), "remove it and log in again"));
        }
        Ok(_) => {}
    }
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if found.uid() != uid {
        let cause = format!("it belongs to uid {}, not {uid}", found.uid());
        return Err(untrusted(cause, "remove it and log in again"));
    }
    if found.mode() & 0o077 != 0 {
        let cause = format!("its mode is {:04o}", found.mode() & 0o7777);
        return Err(untrusted(cause, "make it private with chmod 600"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(untrusted(format!("it is larger than {MAX_BYTES} bytes"), "remove it and log in again"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(untrusted("it is not text".to_owned(), "remove it and log in again")),
    }
}

fn open_lines(
    text: &str,
    uid: u32,
    system: &str,
    decode: &dyn Fn(&str) -> Result<Credential, DecodeError>,
) -> Stored {
    let mut stored = Stored::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        // A location may hold a port (host:5000), a credential may end in '=': so first '=', then first ':'.
        let parsed = line.split_once('=').and_then(|(key, credential)| {
            key.split_once(':').map(|(of_system, location)| (of_system, location, credential))
        });
        let Some((of_system, location, credential)) = parsed else {
            stored.skipped.push(format!(
                "line {} of ~/{FILE} is not SYSTEM:LOCATION=CREDENTIAL and is skipped",
                index + 1
            ));
            continue;
        };
        if of_system != system {
            continue;
        }
        match user_and_password(credential, uid, decode) {
            Ok(password) => {
                // The later line wins, as with repeated keys elsewhere.
                stored.locations.insert(location.to_owned(), password);
            }
            Err(cause) => stored.skipped.push(format!(
                "the stored credential for registry location {location:?} is skipped: {cause}; \
                 log in to it again"
            )),
        }
    }
    stored
}

/// Opens one sealed `user:password`.
fn user_and_password(
    credential: &str,
    uid: u32,
    decode: &dyn Fn(&str) -> Result<Credential, DecodeError>,
) -> Result<String, String> {
    let opened = decode(credential).map_err(|error| error.to_string())?;
    if opened.uid != uid {
        return Err(format!("uid {} made it, not {uid}", opened.uid));
    }
    let text = String::from_utf8(opened.payload).map_err(|_| "its content is not text".to_owned())?;
    // C programs may have sealed the final NUL too.
    let text = text.trim_end_matches('\0');
    if text.contains(':') { Ok(text.to_owned()) } else { Err("its content is not user:password".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const UID: u32 = 1000;

    /// Stands for munged: `N/TEXT` is a credential by uid N wrapping TEXT; `!` one of another key.
    fn decode(credential: &str) -> Result<Credential, DecodeError> {
        match credential.split_once('/') {
            Some((uid, text)) => {
                Ok(Credential { uid: uid.parse().unwrap(), gid: 1, payload: text.as_bytes().to_vec() })
            }
            None => Err(DecodeError::Invalid { cause: "bad key".to_owned() }),
        }
    }

    #[test]
    fn lines_of_this_system_and_user_are_opened() {
        let text = "s:default=1000/u:p=w\n\n other:default=1000/no:no\ns:host:5000=1000/a:b\0\n\
                    s:default=1000/later:wins\r\n";
        let stored = open_lines(text, UID, "s", &decode);
        let found: Vec<_> = stored.locations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("default", "later:wins"), ("host:5000", "a:b")]);
        assert_eq!(stored.skipped, [""; 0]);
    }

    #[test]
    fn useless_lines_are_told_and_skipped() {
        let table = [
            ("garbage", "line 1 of"),
            ("s=1000/u:p", "line 1 of"),
            ("s:loc=!", "not valid: bad key"),
            ("s:loc=1001/u:secret", "uid 1001 made it, not 1000"),
            ("s:loc=1000/secret", "not user:password"),
        ];
        for (line, expected) in table {
            let stored = open_lines(line, UID, "s", &decode);
            assert!(stored.locations.is_empty(), "{line}");
            assert_eq!(stored.skipped.len(), 1, "{line}");
            assert!(stored.skipped[0].contains(expected), "{line}: {}", stored.skipped[0]);
            assert!(!stored.skipped[0].contains("secret"), "{}", stored.skipped[0]);
        }
    }

    #[test]
    fn a_password_is_stored_replaced_and_forgotten_and_other_lines_stay() {
        let home = tempfile::tempdir().unwrap();
        let uid = fs::metadata(home.path()).unwrap().uid();
        let path = home.path().join(FILE);
        let change =
            |location: &str, sealed: Option<&str>| store(home.path(), uid, "s", location, sealed).unwrap();
        assert!(!change("default", None), "nothing is stored, and no directory is made for that");
        assert!(!path.parent().unwrap().exists());
        assert!(!change("default", Some("A=")));
        fs::write(&path, "s:default=A=\nother:default=X\n# odd line\n").unwrap();
        assert!(!change("host:5000", Some("B")));
        assert!(change("default", Some("C")));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "other:default=X\n# odd line\ns:host:5000=B\ns:default=C\n");
        assert!(change("host:5000", None));
        assert_eq!(fs::read_to_string(&path).unwrap(), "other:default=X\n# odd line\ns:default=C\n");
        for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, mode, "{}", path.display());
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(store(home.path(), uid, "s", "x", None), Err(CredError::Untrusted { .. })));
    }

    #[test]
    fn a_file_others_can_touch_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let uid = fs::metadata(home.path()).unwrap().uid();
        let line = format!("s:default={uid}/u:p\n");
        assert!(
            load(home.path(), uid, "s", &decode).unwrap().locations.is_empty(),
            "no file, no credentials"
        );
        let path = home.path().join(FILE);
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, &line).unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o666, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match load(home.path(), uid, "s", &decode) {
                Ok(stored) => {
                    assert!(good, "{mode:o}");
                    assert_eq!(stored.locations["default"], "u:p");
                }
                Err(error) => {
                    assert!(!good, "{mode:o}: {error}");
                    assert!(error.to_string().contains("chmod 600"), "{error}");
                }
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = load(home.path(), uid + 1, "s", &decode).err().unwrap().to_string();
        assert!(error.contains(&format!("belongs to uid {uid}, not {}", uid + 1)), "{error}");
        fs::write(&path, vec![b'x'; usize::try_from(MAX_BYTES).unwrap() + 1]).unwrap();
        assert!(load(home.path(), uid, "s", &decode).err().unwrap().to_string().contains("larger than"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(load(home.path(), uid, "s", &decode).err().unwrap().to_string().contains("regular"));
    }
}
