//! Registry credentials on their way to workers apart: sealed by a key that all gateways and workers of a site have in
//! a file, bound to one job and an expiry, and good for nothing else. Knows nothing of databases.
//!
//! A sealed text is `EXPIRY:HEX`: seconds since the epoch, and ChaCha20-Poly1305 (RFC 8439) of `USER:PASSWORD` with the
//! random nonce before it. Job number and expiry are authenticated with it, so a text that was moved to another
//! job, or given a longer life, does not open.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use shifter_registry::Credentials;

/// Bytes of the key file.
const KEY: usize = 32;

/// Seconds for which sealed credentials may be used; each poll in the second half of it seals them anew.
pub(crate) const LIFETIME: f64 = 3600.0;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("reading SealKeyFile {} failed: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "SealKeyFile {} can be read by others than its owner (mode {mode:04o}); make a new key, as others may \
         have this one: head -c 32 /dev/urandom > FILE, with mode 0600",
        .path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error("SealKeyFile {} must be a regular file of exactly {KEY} bytes: head -c {KEY} /dev/urandom > FILE", .path.display())]
    Size { path: PathBuf },
    #[error("this machine gives no random numbers")]
    Random,
}

/// The key that a site's gateways and workers share.
pub(crate) struct SealKey(LessSafeKey);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(hidden)")
    }
}

impl SealKey {
    /// Reads a key file: regular, of 32 bytes, its owner's alone.
    pub(crate) fn read(path: &Path) -> Result<SealKey, SealError> {
        let io = |source| SealError::Io { path: path.to_owned(), source };
        // Not to wait for a writer, should it be a pipe.
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?;
        let size = || SealError::Size { path: path.to_owned() };
        if !found.is_file() || found.len() != KEY as u64 {
            return Err(size());
        }
        if found.mode() & 0o077 != 0 {
            return Err(SealError::Open { path: path.to_owned(), mode: found.mode() & 0o7777 });
        }
        let mut bytes = [0; KEY];
        file.read_exact(&mut bytes).map_err(io)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| size())?;
        Ok(SealKey(LessSafeKey::new(key)))
    }

    /// Seals credentials for one job until a time, seconds since the epoch.
    pub(crate) fn seal(&self, job: i64, until: f64, credentials: &Credentials) -> Result<String, SealError> {
        let until = until as u64;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Random)?;
        let mut text = format!("{}:{}", credentials.username, credentials.password).into_bytes();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to(job, until), &mut text)
            .map_err(|_| SealError::Random)?;
        let hex: String = nonce.iter().chain(&text).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{until}:{hex}"))
    }

    /// Opens what was sealed with this key for this job, unless its time is over.
    pub(crate) fn open(&self, job: i64, sealed: &str, now: f64) -> Option<Credentials> {
        let (until, hex) = sealed.split_once(':')?;
        let until: u64 = until.parse().ok()?;
        if is_over(sealed, now) {
            return None;
        }
        let bytes = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()));
        let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN)?;
        let mut text = text.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.0.open_in_place(nonce, bound_to(job, until), &mut text).ok()?;
        Credentials::parse(std::str::from_utf8(plain).ok()?)
    }
}

/// Whether sealed credentials are none, or too old to be opened by anybody.
pub(crate) fn is_over(sealed: &str, now: f64) -> bool {
    let until = sealed.split_once(':').and_then(|(until, _)| until.parse::<u64>().ok());
    until.is_none_or(|until| until as f64 <= now)
}

fn bound_to(job: i64, until: u64) -> Aad<String> {
    Aad::from(format!("shifter registry credentials 1\njob {job}\nuntil {until}\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<SealKey, SealError> {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        SealKey::read(&path)
    }

    #[test]
    fn sealed_credentials_open_for_their_job_in_their_time_and_unchanged_only() {
        let dir = tempfile::tempdir().unwrap();
        let ours = key(dir.path(), "a", &[7; 32], 0o600).unwrap();
        let other = key(dir.path(), "b", &[8; 32], 0o400).unwrap();
        let credentials = Credentials { username: "alice".into(), password: "pä:ss".into() };
        let sealed = ours.seal(5, 1000.0, &credentials).unwrap();
        assert!(!sealed.contains("alice") && sealed.starts_with("1000:"), "{sealed}");
        assert_ne!(sealed, ours.seal(5, 1000.0, &credentials).unwrap(), "each has its own nonce");
        let opened = ours.open(5, &sealed, 999.0).unwrap();
        assert_eq!((opened.username, opened.password), (credentials.username, credentials.password));
        let longer = sealed.replacen("1000:", "9000:", 1);
        let last = if sealed.ends_with('0') { "1" } else { "0" };
        let changed = format!("{}{last}", &sealed[..sealed.len() - 1]);
        for (key, job, text, now) in [
            (&other, 5, &sealed, 999.0),
            (&ours, 6, &sealed, 999.0),
            (&ours, 5, &sealed, 1000.0),
            (&ours, 5, &longer, 999.0),
            (&ours, 5, &changed, 999.0),
            (&ours, 5, &"1000:".to_owned(), 999.0),
            (&ours, 5, &"1000:é0".to_owned(), 999.0),
            (&ours, 5, &String::new(), 999.0),
        ] {
            assert!(key.open(job, text, now).is_none(), "{job} {text} {now}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_or_of_another_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, mode, expected) in [
            (&[7; 32][..], 0o640, "can be read by others than its owner (mode 0640)"),
            (&[7; 32], 0o604, "can be read by others"),
            (&[7; 31], 0o600, "exactly 32 bytes"),
            (&[7; 33], 0o600, "exactly 32 bytes"),
            (b"", 0o600, "exactly 32 bytes"),
        ] {
            let error = key(dir.path(), "key", bytes, mode).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = SealKey::read(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.starts_with("reading SealKeyFile ") && error.contains("absent"), "{error}");
        assert!(SealKey::read(dir.path()).unwrap_err().to_string().contains("regular file"));
    }
}
