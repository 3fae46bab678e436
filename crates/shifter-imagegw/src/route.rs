//! From a request's target to a route: percent-decoded once, then split, so that `test%2Fapp%3Av1`
//! and `test/app:v1` are one tag and a tag may span slashes. Both slash forms are the same route.
//!
//! Pure text; whether systems and images exist is found out by the handlers.

pub(crate) mod manage;

use self::manage::Manage;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Root,
    Status,
    List { system: String },
    Queue { system: String },
    Lookup { system: String, itype: String, tag: String },
    Pull { system: String, itype: String, tag: String },
    Manage(Manage),
}

/// Why a target is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("the path is not percent-encoded text")]
    Encoding,
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    #[error("there is no such route")]
    Unknown,
}

/// Longest decoded path in bytes: three names and a tag of 512.
const MAX_PATH: usize = 2048;

impl Route {
    /// The methods the route answers to.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Route::Manage(manage) => manage.verb.methods(),
            Route::Pull { .. } => "POST",
            _ => "GET",
        }
    }

    /// The system whose munge socket and images are meant.
    pub(crate) fn system(&self) -> Option<&str> {
        match self {
            Route::Root | Route::Status => None,
            Route::List { system }
            | Route::Queue { system }
            | Route::Lookup { system, .. }
            | Route::Pull { system, .. }
            | Route::Manage(Manage { system, .. }) => Some(system),
        }
    }
}

/// Undoes percent-encoding, once.
pub(crate) fn decode(path: &str) -> Result<String, RouteError> {
    if path.len() > 3 * MAX_PATH {
        return Err(RouteError::TooLong);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(RouteError::Encoding);
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| RouteError::Encoding)?);
    }
    let text = String::from_utf8(bytes).map_err(|_| RouteError::Encoding)?;
    match text {
        text if text.len() > MAX_PATH => Err(RouteError::TooLong),
        text if text.chars().any(char::is_control) => Err(RouteError::Encoding),
        text => Ok(text),
    }
}

/// Splits a decoded path.
pub(crate) fn route(path: &str) -> Result<Route, RouteError> {
    if path == "/" || path.is_empty() {
        return Ok(Route::Root);
    }
    let rest = path.strip_prefix("/api/").ok_or(RouteError::Unknown)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let parts: Vec<&str> = rest.splitn(4, '/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(RouteError::Unknown);
    }
    if let Some(route) = manage::route(&parts) {
        return Ok(route);
    }
    let text = |part: &str| part.to_owned();
    match parts.as_slice() {
        ["status"] => Ok(Route::Status),
        ["list", system] => Ok(Route::List { system: text(system) }),
        ["queue", system] => Ok(Route::Queue { system: text(system) }),
        [verb, system, itype, tag] if !tag.starts_with('/') => {
            let (system, itype, tag) = (text(system), text(itype), text(tag));
            match *verb {
                "lookup" => Ok(Route::Lookup { system, itype, tag }),
                "pull" => Ok(Route::Pull { system, itype, tag }),
                _ => Err(RouteError::Unknown),
            }
        }
        _ => Err(RouteError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn pull(tag: &str) -> Result<Route, RouteError> {
        Ok(Route::Pull { system: "sysa".into(), itype: "docker".into(), tag: tag.into() })
    }

    #[test]
    fn targets_and_their_routes() {
        let lookup = Route::Lookup { system: "s".into(), itype: "custom".into(), tag: "a/b".into() };
        for (target, expected) in [
            ("/", Ok(Route::Root)),
            ("/api/status", Ok(Route::Status)),
            ("/api/status/", Ok(Route::Status)),
            ("/api/list/sysa", Ok(Route::List { system: "sysa".into() })),
            ("/api/list/sysa/", Ok(Route::List { system: "sysa".into() })),
            ("/api/queue/sysa/", Ok(Route::Queue { system: "sysa".into() })),
            ("/api/pull/sysa/docker/test%2Fapp%3Av1/", pull("test/app:v1")),
            ("/api/pull/sysa/docker/test/app:v1", pull("test/app:v1")),
            ("/api/pull/sysa/docker/h:5000/a/b%40sha256:00/", pull("h:5000/a/b@sha256:00")),
            ("/api/pull/sysa/docker/a%252Fb", pull("a%2Fb")),
            ("/api/lookup/s/custom/a%2fb%2F", Ok(lookup)),
            ("/api/lookup/sysa/bogus/", Err(RouteError::Unknown)),
            ("/api/lookup/sysa/docker/%2Fetc/", Err(RouteError::Unknown)),
            ("/api/lookup/sysa/docker//x", Err(RouteError::Unknown)),
            ("/api/lookup//docker/x", Err(RouteError::Unknown)),
            ("/api/list/a/b/c", Err(RouteError::Unknown)),
            ("/api/expire/s/docker", Err(RouteError::Unknown)),
            ("/api/expire/s/docker//x", Err(RouteError::Unknown)),
            ("/api/metrics/s/docker/x", Err(RouteError::Unknown)),
            ("/api", Err(RouteError::Unknown)),
            ("/nothing", Err(RouteError::Unknown)),
            ("/api/list/%", Err(RouteError::Encoding)),
            ("/api/list/%zz", Err(RouteError::Encoding)),
            ("/api/list/%ff", Err(RouteError::Encoding)),
            ("/api/list/a%00b", Err(RouteError::Encoding)),
            ("/api/list/a%0Ab", Err(RouteError::Encoding)),
        ] {
            assert_eq!(decode(target).and_then(|path| route(&path)), expected, "{target}");
        }
        assert_eq!(decode(&format!("/{}", "a".repeat(MAX_PATH))), Err(RouteError::TooLong));
        assert_eq!(decode(&"%41".repeat(3 * MAX_PATH)), Err(RouteError::TooLong));
    }
}
