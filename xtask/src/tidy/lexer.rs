//! Just enough of Rust's lexical structure to count lines and find keywords without being fooled by comments,
//! strings and characters. Not a parser: it knows neither items nor types.

/// The source with comments blanked and the content of strings and characters replaced by `x`; line breaks,
/// columns and everything else stay where they were.
pub(super) fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (length, fill) = if rest.starts_with(b"//") {
            (rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()), b' ')
        } else if rest.starts_with(b"/*") {
            (block_comment(rest), b' ')
        } else if rest[0] == b'"' {
            (quoted(rest, b'"'), b'x')
        } else if let Some(length) = raw_string(rest, at.checked_sub(1).map(|before| bytes[before])) {
            (length, b'x')
        } else if rest[0] == b'\'' {
            match character(rest) {
                Some(length) => (length, b'x'),
                None => (1, b'\''),
            }
        } else {
            at += 1;
            continue;
        };
        for byte in &mut out[at..at + length] {
            if *byte != b'\n' {
                *byte = fill;
            }
        }
        at += length;
    }
    // Bytes were only replaced by ASCII, whole literals and comments at a time.
    String::from_utf8_lossy(&out).into_owned()
}

/// Block comments nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a literal that ends at the next unescaped `quote`.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` and their byte and C forms, where the letter does not belong to a longer name.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| open + 1 + end + close.len()))
}

/// The length of a character literal; `None` for a lifetime or label.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    // One character of one to four bytes, then the quote.
    (3..=6)
        .find(|end| rest.get(end - 1) == Some(&b'\''))
        .filter(|end| std::str::from_utf8(&rest[1..end - 1]).is_ok_and(|text| text.chars().count() == 1))
}

/// Byte ranges of the items under `attribute` in masked source: attribute to closing brace or semicolon.
pub(super) fn items_under(attribute: &str, masked: &str) -> Vec<std::ops::Range<usize>> {
    let bytes = masked.as_bytes();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = masked[from..].find(attribute) {
        let start = from + offset;
        let mut depth = 0_usize;
        let mut at = start + attribute.len();
        while at < bytes.len() {
            match bytes[at] {
                b'{' | b'[' | b'(' => depth += 1,
                b'}' | b']' | b')' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && bytes[at] == b'}' {
                        break;
                    }
                }
                b';' if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        from = (at + 1).min(bytes.len());
        found.push(start..from);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_vanish_and_literals_become_x() {
        let cases = [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            ("let s = \"unsafe \\\" {\";", "let s = xxxxxxxxxxxxx;"),
            ("r\"a\\\" b", "xxxxx b"),
            ("br#\"a\"b\"# c", "xxxxxxxxx c"),
            ("'\\'' 'a' &'a str", "xxxx xxx &'a str"),
            ("'ü' x", "xxxx x"),
            ("color\"x\"", "colorxxx"),
            ("\"two\nlines\"", "xxxx\nxxxxxx"),
            ("\"never closed", "xxxxxxxxxxxxx"),
        ];
        for (source, expected) in cases {
            assert_eq!(mask(source), expected, "{source}");
        }
    }

    #[test]
    fn test_items_end_where_the_item_ends() {
        let cases = [
            ("a #[cfg(test)] mod t { fn f() { } } b", vec![" mod t { fn f() { } }"]),
            ("#[cfg(test)]\nmod tests;\nfn f() {}", vec!["\nmod tests;"]),
            ("#[cfg(test)] #[path = \"x\"] mod t; c", vec![" #[path = \"x\"] mod t;"]),
            ("#[cfg(test)] fn f(a: [u8; 3]) {} c", vec![" fn f(a: [u8; 3]) {}"]),
            ("fn f() {}", vec![]),
        ];
        for (source, expected) in cases {
            let seen: Vec<_> =
                items_under("#[cfg(test)]", source).into_iter().map(|range| &source[range][12..]).collect();
            assert_eq!(seen, expected, "{source}");
        }
    }
}
