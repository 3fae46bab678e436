//! MUNGE credentials: who sent this, by the word of the local `munged`.
//!
//! A client [encodes](Munge::encode) a payload into a credential that names its user and group and that only a
//! daemon with the same key can open; a server [decodes](Munge::decode) it, once. `libmunge.so.2` is loaded at
//! run time. The socket is given per call, so that one gateway can serve clusters with different keys.
//!
//! What this crate deliberately does not do: interpret payloads, keep credentials, or retry. It also never falls
//! back to another socket: the socket decides whose word is believed.

#![deny(unsafe_code)]

use std::ffi::{CString, c_int};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[allow(unsafe_code)]
mod sys;

#[cfg(test)]
mod tests;

/// The library's name as every distribution ships it; found by the dynamic linker's own rules.
pub const LIBRARY: &str = "libmunge.so.2";

/// Most bytes a payload may have: munged refuses messages above 1 MiB, its own few header bytes included.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Most bytes a credential may have: base64 of the largest message, with room for the envelope.
pub const MAX_CREDENTIAL: usize = 2 * MAX_PAYLOAD;

/// Most bytes a Unix socket's path may have (`sun_path`, without the final NUL; unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// libmunge, loaded. May be shared by threads: every call has its own context.
pub struct Munge {
    api: sys::Api,
}

/// What a credential says, by the word of the daemon that opened it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// User id of the process that made the credential.
    pub uid: u32,
    /// Primary group id of the process that made the credential.
    pub gid: u32,
    /// The bytes it wrapped; may be empty, may hold passwords.
    pub payload: Vec<u8>,
}

/// The payload is left out: it may hold registry passwords, and debug text ends in logs.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// Why a credential could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MungeError {
    /// The shared library is not installed, or is not libmunge.
    #[error("cannot load {library}: {cause}; install the MUNGE library (package libmunge2 or munge-libs)")]
    Library {
        /// The name that was looked for.
        library: String,
        /// The dynamic linker's words.
        cause: String,
    },
    /// The payload with its envelope is above munged's limit.
    #[error(
        "cannot make a credential of {bytes} bytes: munged takes at most {MAX_PAYLOAD}, envelope included"
    )]
    PayloadTooLarge {
        /// The payload's length.
        bytes: usize,
    },
    /// The socket's path cannot be one.
    #[error("{socket:?} cannot be the path of munged's socket: {cause}")]
    BadSocketPath {
        /// The path as given.
        socket: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// No daemon answered.
    #[error(
        "cannot reach munged at {socket}: {cause}; is munged running, and may this user open its socket?"
    )]
    Unavailable {
        /// The socket's path, or "its default socket".
        socket: String,
        /// libmunge's words.
        cause: String,
    },
    /// libmunge failed in a way that is neither the caller's nor the daemon's state.
    #[error("munged at {socket} made no credential: {cause} (libmunge status {status})")]
    Failed {
        /// The socket's path, or "its default socket".
        socket: String,
        /// `munge_err_t`.
        status: i32,
        /// libmunge's words.
        cause: String,
    },
}

/// Why a credential was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Older than its time to live (five minutes unless the site changed it).
    #[error("the credential has expired; are the clocks of the two hosts in step?")]
    Expired,
    /// Made in the future by this host's clock.
    #[error("the credential comes from the future; are the clocks of the two hosts in step?")]
    Rewound,
    /// Seen before: every credential is good for one use.
    #[error("the credential was used before; each request needs a fresh one")]
    Replayed,
    /// Its maker restricted who may open it.
    #[error("the credential was made for another user or group to open")]
    Unauthorized,
    /// Not a credential, tampered with, or made with another key.
    #[error("the credential is not valid: {cause}; do both hosts have the same MUNGE key?")]
    Invalid {
        /// What is wrong with it.
        cause: String,
    },
    /// No daemon answered: nothing is known about the credential.
    #[error(
        "cannot reach munged at {socket}: {cause}; is munged running, and may this user open its socket?"
    )]
    Unavailable {
        /// The socket's path, or "its default socket".
        socket: String,
        /// libmunge's words.
        cause: String,
    },
    /// The socket's path cannot be one.
    #[error("{socket:?} cannot be the path of munged's socket: {cause}")]
    BadSocketPath {
        /// The path as given.
        socket: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// libmunge failed in a way that is neither the credential's nor the daemon's state.
    #[error("munged at {socket} could not decode the credential: {cause} (libmunge status {status})")]
    Failed {
        /// The socket's path, or "its default socket".
        socket: String,
        /// `munge_err_t`.
        status: i32,
        /// libmunge's words.
        cause: String,
    },
}

impl Munge {
    /// Loads [`LIBRARY`].
    ///
    /// # Errors
    /// [`MungeError::Library`] where it is not installed or lacks a symbol.
    pub fn load() -> Result<Munge, MungeError> {
        load_from(LIBRARY)
    }

    /// Makes a credential that wraps `payload` in this process's effective uid and gid.
    ///
    /// `socket` names the daemon; `None` means libmunge's compiled-in one. The result is one line of visible
    /// ASCII (`MUNGE:…:`), fit for an HTTP header.
    ///
    /// # Errors
    /// A sentence that tells an unreachable daemon from a payload above [`MAX_PAYLOAD`].
    pub fn encode(&self, socket: Option<&Path>, payload: &[u8]) -> Result<String, MungeError> {
        self.wrap(socket, None, payload)
    }

    /// As [`Munge::encode`], but only `uid` and root can open the result: for what is stored rather than sent.
    ///
    /// # Errors
    /// As [`Munge::encode`].
    pub fn seal(&self, socket: Option<&Path>, uid: u32, payload: &[u8]) -> Result<String, MungeError> {
        self.wrap(socket, Some(uid), payload)
    }

    fn wrap(&self, socket: Option<&Path>, reader: Option<u32>, payload: &[u8]) -> Result<String, MungeError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(MungeError::PayloadTooLarge { bytes: payload.len() });
        }
        let path = socket_path(socket)
            .map_err(|cause| MungeError::BadSocketPath { socket: socket_name(socket), cause })?;
        let encoded = self.api.encode(path.as_deref(), reader, payload);
        let failed =
            |cause| MungeError::Failed { socket: socket_name(socket), status: encoded.status, cause };
        match (Status::of(encoded.status), encoded.credential) {
            (Status::Success, Some(bytes)) => String::from_utf8(bytes)
                .ok()
                .filter(|text| text.starts_with("MUNGE:") && text.bytes().all(|b| b.is_ascii_graphic()))
                .ok_or_else(|| failed("what it returned is not one line of ASCII".to_owned())),
            (Status::TooLong, _) => Err(MungeError::PayloadTooLarge { bytes: payload.len() }),
            (Status::Unavailable, _) => {
                Err(MungeError::Unavailable { socket: socket_name(socket), cause: encoded.message })
            }
            _ => Err(failed(encoded.message)),
        }
    }

    /// Opens a credential. It is then spent: a second decode by the same daemon is [`DecodeError::Replayed`].
    ///
    /// # Errors
    /// One variant per reason, so that a server can tell "refuse this caller" from "the service is down".
    pub fn decode(&self, socket: Option<&Path>, credential: &str) -> Result<Credential, DecodeError> {
        let (status, contents) = self.decode_any(socket, credential)?;
        match status {
            Status::Success => Ok(contents),
            Status::Expired => Err(DecodeError::Expired),
            Status::Rewound => Err(DecodeError::Rewound),
            _ => Err(DecodeError::Replayed),
        }
    }

    /// Opens a credential that was stored rather than sent: an expired or already opened one is accepted.
    ///
    /// Made for `~/.udiRoot/.cred`, where MUNGE seals a file rather than authenticates a request. Never use it
    /// on anything that came over the network: it gives up replay protection.
    ///
    /// # Errors
    /// As [`Munge::decode`], without expired and replayed.
    pub fn decode_stored(&self, socket: Option<&Path>, credential: &str) -> Result<Credential, DecodeError> {
        let (status, contents) = self.decode_any(socket, credential)?;
        match status {
            Status::Rewound => Err(DecodeError::Rewound),
            _ => Ok(contents),
        }
    }

    /// Opens a credential whose contents the daemon vouches for, and says in what state it is: success, expired,
    /// rewound or replayed. Every other state is an error here already.
    fn decode_any(
        &self,
        socket: Option<&Path>,
        credential: &str,
    ) -> Result<(Status, Credential), DecodeError> {
        let invalid = |cause: &str| DecodeError::Invalid { cause: cause.to_owned() };
        let credential = credential.trim_ascii();
        if credential.is_empty() {
            return Err(invalid("it is empty"));
        }
        if credential.len() > MAX_CREDENTIAL {
            return Err(invalid("it is too long"));
        }
        let credential = CString::new(credential).map_err(|_| invalid("it holds a NUL byte"))?;
        let path = socket_path(socket)
            .map_err(|cause| DecodeError::BadSocketPath { socket: socket_name(socket), cause })?;
        let decoded = self.api.decode(path.as_deref(), &credential);
        let status = Status::of(decoded.status);
        match status {
            Status::Success | Status::Expired | Status::Rewound | Status::Replayed => {}
            Status::Unauthorized => return Err(DecodeError::Unauthorized),
            Status::Invalid | Status::TooLong => return Err(DecodeError::Invalid { cause: decoded.message }),
            Status::Unavailable => {
                return Err(DecodeError::Unavailable { socket: socket_name(socket), cause: decoded.message });
            }
            Status::Other => {
                return Err(DecodeError::Failed {
                    socket: socket_name(socket),
                    status: decoded.status,
                    cause: decoded.message,
                });
            }
        }
        Ok((status, Credential { uid: decoded.uid, gid: decoded.gid, payload: decoded.payload }))
    }
}

/// What a `munge_err_t` means to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Success,
    Expired,
    Rewound,
    Replayed,
    Unauthorized,
    Invalid,
    TooLong,
    Unavailable,
    Other,
}

impl Status {
    /// Numbers from `munge.h`: 3 bad length, 6 socket, 7 timeout, 8–14 kinds of unusable credential.
    fn of(status: c_int) -> Status {
        match status {
            sys::SUCCESS => Status::Success,
            3 => Status::TooLong,
            8..=14 => Status::Invalid,
            6 | 7 => Status::Unavailable,
            15 => Status::Expired,
            16 => Status::Rewound,
            17 => Status::Replayed,
            18 => Status::Unauthorized,
            _ => Status::Other,
        }
    }
}

fn load_from(library: &str) -> Result<Munge, MungeError> {
    let api = sys::Api::open(library).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        MungeError::Library { library: library.to_owned(), cause }
    })?;
    Ok(Munge { api })
}

fn socket_path(socket: Option<&Path>) -> Result<Option<CString>, &'static str> {
    let Some(socket) = socket else { return Ok(None) };
    let bytes = socket.as_os_str().as_bytes();
    match bytes.len() {
        0 => Err("it is empty"),
        length if length > MAX_SOCKET_PATH => Err("it is longer than 107 bytes"),
        _ => CString::new(bytes).map(Some).map_err(|_| "it holds a NUL byte"),
    }
}

fn socket_name(socket: Option<&Path>) -> String {
    socket.map_or_else(|| "its default socket".to_owned(), |path| path.display().to_string())
}
