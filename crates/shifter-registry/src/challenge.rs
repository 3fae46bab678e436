//! `WWW-Authenticate` (RFC 9110 §11.6.1): what a registry asks for.
//!
//! A small tolerant reader: several challenges in one header or several headers, quoted strings with escapes,
//! unknown schemes skipped. It decides nothing; `auth` does.

/// Longest header looked at, bytes.
const LONGEST: usize = 8192;

/// One way to authenticate that the registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token service, unchecked.
        realm: String,
        /// Name of the registry as the token service knows it.
        service: Option<String>,
        /// What the token is for.
        scope: Option<String>,
    },
}

/// All challenges of all headers, in order, unknown schemes left out.
pub(crate) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found = Vec::new();
    for header in headers.filter(|h| h.len() <= LONGEST) {
        let mut scheme: Option<(String, Vec<(String, String)>)> = None;
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let (word, after) = token(rest);
            if word.is_empty() {
                // A separator or garbage: skip one character.
                rest = rest.get(first_len(rest)..).unwrap_or("").trim_start();
                continue;
            }
            let spaced = after.trim_start();
            if let Some(value) = spaced.strip_prefix('=') {
                let (value, after) = parameter_value(value.trim_start());
                if let Some((_, parameters)) = &mut scheme {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after.trim_start();
            } else {
                found.extend(scheme.take().and_then(finish));
                scheme = Some((word.to_ascii_lowercase(), Vec::new()));
                rest = spaced;
            }
        }
        found.extend(scheme.take().and_then(finish));
    }
    found
}

fn finish((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

fn first_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// The RFC 9110 `token` at the start of `text`, possibly empty, and what follows.
fn token(text: &str) -> (&str, &str) {
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !legal(c)).unwrap_or(text.len()))
}

/// A quoted string, unescaped, or everything up to the next comma or space.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or("")),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let given = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        Challenge::Bearer { realm: realm.to_owned(), service: given(service), scope: given(scope) }
    }

    #[test]
    fn challenges_of_real_and_odd_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull""#;
        for (headers, expected) in [
            (
                vec![hub],
                vec![bearer(
                    "https://auth.docker.io/token",
                    "registry.docker.io",
                    "repository:library/a:pull",
                )],
            ),
            (vec![r#"Basic realm="Registry Realm""#], vec![Challenge::Basic]),
            (vec!["basic"], vec![Challenge::Basic]),
            (
                vec![r#"BEARER Realm = "https://a/t" , service=plain, scope="a:b:pull,push""#],
                vec![bearer("https://a/t", "plain", "a:b:pull,push")],
            ),
            (
                vec![r#"Basic realm="x", Bearer realm="https://a/t""#],
                vec![Challenge::Basic, bearer("https://a/t", "", "")],
            ),
            (vec![r#"Negotiate, Digest realm="d", nonce="q\"uo,te""#, "Basic"], vec![Challenge::Basic]),
            (
                vec![r#"Bearer realm="a\\b\"c", scope="unterminated"#],
                vec![bearer("a\\b\"c", "", "unterminated")],
            ),
            (vec!["Bearer service=x"], vec![]),
            (vec!["", ",,,", "====", "\"", "Bearer realm", "é=é"], vec![]),
            (vec![&"Basic ".repeat(2000)], vec![]),
        ] {
            assert_eq!(parse(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
