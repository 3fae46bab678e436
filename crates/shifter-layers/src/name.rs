//! Names from archives: validated and brought to one form before anything else looks at them, so that the
//! rest of the crate only ever sees `a/b/c`. Names are bytes; whether they are UTF-8 is nobody's business.

use crate::error::Rule;
use crate::limits::Limits;

/// The most characters of a foreign name that a message repeats.
const SHOWN_CHARACTERS: usize = 200;

/// Brings a name to the form `a/b/c`; the root becomes the empty name.
///
/// `./` and doubled slashes, which archivers write freely, are dropped, and so is a slash in front: the image's root is
/// the only one there is, and some builders (ko) write all names so. `..` is refused rather than cleaned: nobody builds
/// such names by accident.
pub(crate) fn normalize(raw: &[u8], limits: &Limits) -> Result<Vec<u8>, Rule> {
    if raw.is_empty() {
        return Err(Rule::Empty);
    }
    if raw.contains(&0) {
        return Err(Rule::Nul);
    }
    if raw.len() > limits.name_bytes {
        return Err(Rule::NameTooLong(raw.len()));
    }
    let mut name = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for component in raw.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Rule::DotDot),
            _ if component.len() > limits.component_bytes => {
                return Err(Rule::ComponentTooLong(component.len()));
            }
            _ => {}
        }
        depth += 1;
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(component);
    }
    if depth > limits.depth {
        return Err(Rule::TooDeep(depth));
    }
    Ok(name)
}

/// The parent's name and the last component of a normalized name; the root is its own parent.
pub(crate) fn split_last(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (name.get(..at).unwrap_or_default(), name.get(at + 1..).unwrap_or_default()),
        None => (b"", name),
    }
}

/// The components of a normalized name; none for the root.
pub(crate) fn components(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
}

/// A name as a message may show it: one line, no control characters, not too long.
pub(crate) fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn names_take_one_form_or_are_refused() {
        let long = [b'x'; 256];
        let deep = b"d/".repeat(257);
        type Case<'a> = (&'a [u8], Result<&'a [u8], Rule>);
        let table: &[Case<'_>] = &[
            (b"a", Ok(b"a")),
            (b"./a/b/", Ok(b"a/b")),
            (b"a//b/./c", Ok(b"a/b/c")),
            (b"./", Ok(b"")),
            (b".", Ok(b"")),
            (b"/", Ok(b"")),
            (b"foo..bar/..x", Ok(b"foo..bar/..x")),
            (b"\xff\xfe", Ok(b"\xff\xfe")),
            (b"", Err(Rule::Empty)),
            (b"a\0b", Err(Rule::Nul)),
            (b"/etc/passwd", Ok(b"etc/passwd")),
            (b"//x", Ok(b"x")),
            (b"../x", Err(Rule::DotDot)),
            (b"a/../../x", Err(Rule::DotDot)),
            (b"a/..", Err(Rule::DotDot)),
            (b"/..", Err(Rule::DotDot)),
            (&long, Err(Rule::ComponentTooLong(256))),
            (&deep, Err(Rule::TooDeep(257))),
        ];
        for (raw, expected) in table {
            let expected = expected.clone().map(<[u8]>::to_vec);
            assert_eq!(normalize(raw, &Limits::default()), expected, "{}", shown(raw));
        }
        let endless = b"a/".repeat(2049);
        assert_eq!(normalize(&endless, &Limits::default()), Err(Rule::NameTooLong(4098)));
    }

    #[test]
    fn a_shown_name_stays_on_its_line() {
        assert_eq!(shown(b"a\nb\x1b[2J\"\xff"), "a\\nb\\u{1b}[2J\\\"\u{fffd}");
        assert_eq!(shown(&[b'y'; 300]).chars().count(), SHOWN_CHARACTERS + 1);
    }
}
