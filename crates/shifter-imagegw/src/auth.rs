//! Who is asking: one munge credential, decoded once per request, by the socket of the system named.
//!
//! The credential says uid and gid; its payload may carry registry passwords, which stay in memory,
//! and the digest of the request it was made for, which must then match. `mock` believes a header's
//! word and exists for tests; `serve` refuses it on anything but loopback addresses.

use std::path::PathBuf;
use std::sync::Arc;

use shifter_api::payload::Payload;
use shifter_munge::{DecodeError, Munge};

use crate::config::Authentication;

/// A proven caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) payload: Payload,
}

/// Why a request was not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error(
        "the request carries no credential; the header \"authentication\" is missing (list and lookup of public \
         images can be opened to everybody by the site, with AllowAnonymousReads in imagemanager.json)"
    )]
    Missing,
    #[error("the request's credential was refused: {0}")]
    Refused(String),
    #[error("the request's credential cannot be checked: {0}")]
    Unavailable(String),
}

/// Decides by the configured method.
pub(crate) enum Authenticator {
    Munge(Arc<Munge>),
    Mock,
}

impl Authenticator {
    /// Loads what the method needs.
    pub(crate) fn new(method: Authentication) -> Result<Authenticator, shifter_munge::MungeError> {
        Ok(match method {
            Authentication::Munge => Authenticator::Munge(Arc::new(Munge::load()?)),
            Authentication::Mock => Authenticator::Mock,
        })
    }

    /// Checks the header's value; `socket` is the munged of the system that the request names.
    pub(crate) async fn authenticate(
        &self,
        header: Option<&[u8]>,
        socket: Option<&PathBuf>,
    ) -> Result<Caller, AuthError> {
        let header = header.ok_or(AuthError::Missing)?;
        let header = std::str::from_utf8(header)
            .map_err(|_| AuthError::Refused("it is not text".to_owned()))?
            .trim()
            .to_owned();
        match self {
            Authenticator::Mock => mock(&header),
            Authenticator::Munge(munge) => {
                let (munge, socket) = (munge.clone(), socket.cloned());
                // libmunge talks to the daemon with blocking calls.
                tokio::task::spawn_blocking(move || by_munge(&munge, socket, &header))
                    .await
                    .map_err(|_| AuthError::Unavailable("the check ended unexpectedly".to_owned()))?
            }
        }
    }
}

fn by_munge(munge: &Munge, socket: Option<PathBuf>, header: &str) -> Result<Caller, AuthError> {
    let credential = munge.decode(socket.as_deref(), header).map_err(|error| match error {
        DecodeError::Expired
        | DecodeError::Rewound
        | DecodeError::Replayed
        | DecodeError::Unauthorized
        | DecodeError::Invalid { .. } => AuthError::Refused(error.to_string()),
        other => AuthError::Unavailable(other.to_string()),
    })?;
    let payload = Payload::parse(&credential.payload).map_err(|e| AuthError::Refused(e.to_string()))?;
    Ok(Caller { uid: credential.uid, gid: credential.gid, payload })
}

/// `status:user:group[:token[:uid:gid]]`, as the original's tests send it. In the forms without ids, user and
/// group are ids themselves: names say nothing here, since nothing is decided by them. The token is not a
/// password for any location, so it is not looked at.
fn mock(header: &str) -> Result<Caller, AuthError> {
    let refused = |why: &str| AuthError::Refused(why.to_owned());
    let fields: Vec<&str> = header.split(':').collect();
    if fields.first() != Some(&"good") {
        return Err(refused("its status is not \"good\""));
    }
    let (uid, gid) = match fields.as_slice() {
        [_, user, group] | [_, user, group, _] => (*user, *group),
        [_, _, _, _, uid, gid] => (*uid, *gid),
        _ => {
            return Err(refused("a mock credential has 3, 4 or 6 fields: good:USER:GROUP[:TOKEN[:UID:GID]]"));
        }
    };
    let id = |text: &str| {
        let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let id = text.parse::<u32>().ok().filter(|id| is_digits && *id != u32::MAX);
        id.ok_or_else(|| {
            refused("uid and gid of a mock credential must be numbers, as good:USER:GROUP:TOKEN:UID:GID")
        })
    };
    Ok(Caller { uid: id(uid)?, gid: id(gid)?, payload: Payload::default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn mock_headers() {
        for (header, expected) in [
            (Some("good:alice:users::500:501"), Some((500, 501))),
            (Some(" good:alice:users:tok:500:501 "), Some((500, 501))),
            (Some("good:alice:users"), None),
            (Some("good:500:501"), Some((500, 501))),
            (Some("good:500:501:token"), Some((500, 501))),
            (Some("good:500:501:token:502"), None),
            (Some("good:alice:users::4294967295:501"), None),
            (Some("good:alice:users::+5:501"), None),
            (Some("good:alice:users:tok:500:501:x"), None),
            (Some("bad:alice:users::500:501"), None),
            (Some("good:alice:users::x:501"), None),
            (Some("good:alice:users::-1:501"), None),
            (Some(""), None),
            (None, None),
        ] {
            let caller = Authenticator::Mock.authenticate(header.map(str::as_bytes), None).await;
            assert_eq!(caller.ok().map(|c| (c.uid, c.gid)), expected, "{header:?}");
        }
        assert!(Authenticator::Mock.authenticate(Some(b"\xff"), None).await.is_err());
    }
}
