//! From a request's target to entries of the table in `routes`: percent-decoded once, then compared, so
//! that `test%2Fapp%3Av1` and `test/app:v1` are one tag and a tag may span slashes. Both slash forms are
//! the same route. Parameters behind the question mark are read here, too.
//!
//! Pure text; whether systems and images exist is found out by the handlers.

use crate::routes::{self, Route};

/// Why a target is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("the path and its parameters are not percent-encoded text")]
    Encoding,
    #[error("the path is longer than {MAX_PATH} bytes, or its parameters longer than {MAX_QUERY}")]
    TooLong,
    #[error("there is no such route")]
    Unknown,
}

/// Longest decoded path in bytes: three names and a tag of 512.
const MAX_PATH: usize = 2048;

/// Longest text of parameters in bytes, as it was sent.
const MAX_QUERY: usize = 8192;

/// The table's entries that have a path, one per method, with what stands in its places.
#[derive(Debug)]
pub(crate) struct Found<'p> {
    pub(crate) routes: Vec<&'static Route>,
    pub(crate) names: Names<'p>,
}

/// The variable parts of a path; empty where its route has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names<'p> {
    pub(crate) system: &'p str,
    pub(crate) itype: &'p str,
    pub(crate) tag: &'p str,
}

/// Undoes percent-encoding of a path, once.
pub(crate) fn decode(path: &str) -> Result<String, RouteError> {
    if path.len() > 3 * MAX_PATH {
        return Err(RouteError::TooLong);
    }
    match undo(path)? {
        text if text.len() > MAX_PATH => Err(RouteError::TooLong),
        text => Ok(text),
    }
}

fn undo(text: &str) -> Result<String, RouteError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
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
    if text.chars().any(char::is_control) { Err(RouteError::Encoding) } else { Ok(text) }
}

/// The entries for a decoded path, whatever their methods.
pub(crate) fn find(path: &str) -> Result<Found<'_>, RouteError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut found = Found { routes: Vec::new(), names: Names::default() };
    for route in routes::all() {
        if let Some(names) = fits(route.path.strip_suffix('/').unwrap_or(route.path), path) {
            found.names = names;
            found.routes.push(route);
        }
    }
    if found.routes.is_empty() { Err(RouteError::Unknown) } else { Ok(found) }
}

/// What stands in a template's places, if the path fits it. Only a tag may hold slashes, and not begin
/// with one.
fn fits<'p>(template: &str, path: &'p str) -> Option<Names<'p>> {
    let mut names = Names::default();
    let mut parts = path.splitn(template.split('/').count(), '/');
    for place in template.split('/') {
        let part = parts.next()?;
        match place {
            "{tag}" if !part.is_empty() && !part.starts_with('/') => names.tag = part,
            "{system}" if is_name(part) => names.system = part,
            "{itype}" if is_name(part) => names.itype = part,
            literal if literal == part && !literal.starts_with('{') => {}
            _ => return None,
        }
    }
    Some(names)
}

fn is_name(part: &str) -> bool {
    !part.is_empty() && !part.contains('/')
}

/// What stands behind the question mark, decoded. Parameters that a route does not know are not looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// Why a parameter cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("the parameter {0} must be a whole number from {1} to {2}")]
    Number(&'static str, u64, u64),
    #[error("the parameter {0} must be 1 or 0")]
    Flag(&'static str),
}

impl Query {
    /// Reads `a=1&b=x%20y&c`; a plus sign is a blank, as forms send it.
    pub(crate) fn parse(text: Option<&str>) -> Result<Query, RouteError> {
        let text = text.unwrap_or_default();
        if text.len() > MAX_QUERY {
            return Err(RouteError::TooLong);
        }
        let words = text.split('&').filter(|word| !word.is_empty());
        let pairs = words.map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            Ok((undo(name)?, undo(&value.replace('+', " "))?))
        });
        Ok(Query(pairs.collect::<Result<_, _>>()?))
    }

    /// The last value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// All values of a parameter that may be given several times.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `1` or `true`, `0` or `false`; absent is false, and the bare name is true.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, QueryError> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(_) => Err(QueryError::Flag(name)),
        }
    }

    /// A whole number within limits, both included.
    pub(crate) fn number(
        &self,
        name: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, QueryError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| is_digits && (least..=most).contains(n));
        number.map(Some).ok_or(QueryError::Number(name, least, most))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn check(target: &str, expected: Result<&str, RouteError>) {
        let shown = decode(target).and_then(|path| {
            let found = find(&path)?;
            let Names { system, itype, tag } = found.names;
            Ok(format!("{} {system} {itype} {tag}", found.routes[0].path).trim_end().to_owned())
        });
        assert_eq!(shown, expected.map(str::to_owned), "{target}");
    }

    /// ST42.
    #[test]
    fn targets_and_their_routes() {
        const PULL: &str = "/api/pull/{system}/{itype}/{tag} sysa docker";
        check("/", Ok("/"));
        check("/api/status", Ok("/api/status"));
        check("/api/status/", Ok("/api/status"));
        check("/api/openapi.json", Ok("/api/openapi.json"));
        check("/api/list/sysa", Ok("/api/list/{system} sysa"));
        check("/api/list/sysa/", Ok("/api/list/{system} sysa"));
        check("/api/queue/sysa/", Ok("/api/queue/{system} sysa"));
        for (target, tag) in [
            ("/api/pull/sysa/docker/test%2Fapp%3Av1/", "test/app:v1"),
            ("/api/pull/sysa/docker/test/app:v1", "test/app:v1"),
            ("/api/pull/sysa/docker/h:5000/a/b%40sha256:00/", "h:5000/a/b@sha256:00"),
            ("/api/pull/sysa/docker/a%252Fb", "a%2Fb"),
        ] {
            check(target, Ok(&format!("{PULL} {tag}")));
        }
        check("/api/lookup/s/custom/a%2fb%2F", Ok("/api/lookup/{system}/{itype}/{tag} s custom a/b"));
        for unknown in [
            "/api/lookup/sysa/bogus/",
            "/api/lookup/sysa/docker/%2Fetc/",
            "/api/lookup/sysa/docker//x",
            "/api/lookup//docker/x",
            "/api/list/a/b/c",
            "/api/list/{system}/x",
            "//",
            "/api",
            "/api/",
            "/nothing",
        ] {
            check(unknown, Err(RouteError::Unknown));
        }
        for bad in ["/api/list/%", "/api/list/%zz", "/api/list/%ff", "/api/list/a%00b", "/api/list/a%0Ab"] {
            check(bad, Err(RouteError::Encoding));
        }
        check(&format!("/{}", "a".repeat(MAX_PATH)), Err(RouteError::TooLong));
        check(&"%41".repeat(3 * MAX_PATH), Err(RouteError::TooLong));
    }

    #[test]
    fn parameters() {
        let query =
            Query::parse(Some("mine=1&label=a%3Db&label=c+d&wait=30&&x&n=-1&big=99999999999999999999"));
        let query = query.unwrap();
        assert_eq!(query.all("label").collect::<Vec<_>>(), ["a=b", "c d"]);
        assert_eq!((query.flag("mine"), query.flag("x"), query.flag("y")), (Ok(true), Ok(true), Ok(false)));
        assert_eq!(query.flag("wait"), Err(QueryError::Flag("wait")));
        assert_eq!(query.number("wait", 0, 60), Ok(Some(30)));
        assert_eq!(query.number("nosuch", 0, 60), Ok(None));
        for bad in ["n", "big", "x", "label"] {
            assert!(query.number(bad, 0, 60).is_err(), "{bad}");
        }
        assert_eq!(Query::parse(Some("a=%zz")).unwrap_err(), RouteError::Encoding);
        assert_eq!(Query::parse(Some(&"a".repeat(9000))).unwrap_err(), RouteError::TooLong);
    }
}
