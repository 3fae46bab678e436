//! The line format shared by `udiRoot.conf`, `shifter.conf` (`key = value`) and `.meta` (`KEY: value`).
//!
//! Rules are the original's, with its slips mended: a record split at its first delimiter and trimmed; `#`
//! starts a comment line (indented ones too); a value ending in `\` continues on the next line, joined with
//! one space, comments in between skipped; the last line of a file is a line like any other; a line without
//! delimiter is no record. There is no quoting, escaping or inclusion.

/// One record and the line, counted from 1, that it starts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where the key stands.
    pub line: usize,
    /// Trimmed text before the delimiter; may be empty.
    pub key: &'a str,
    /// Trimmed text after it, continuations joined.
    pub value: String,
}

/// Splits `text` into records at `delimiter`.
pub fn records(text: &str, delimiter: char) -> impl Iterator<Item = Record<'_>> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    std::iter::from_fn(move || {
        loop {
            let (index, line) = lines.next()?;
            let Some((key, value)) = line.split_once(delimiter) else { continue };
            let mut value = value.trim().to_owned();
            while value.ends_with('\\') {
                value.pop();
                let Some((_, next)) = lines.next() else { break };
                value.truncate(value.trim_end().len()); // in place: records have up to a million lines
                value.push(' ');
                value.push_str(next.trim());
            }
            return Some(Record { line: index + 1, key: key.trim(), value: value.trim().to_owned() });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_what_the_originals_reader_saw_or_should_have_seen() {
        let check = |text: &str, expected: &[(usize, &str, &str)]| {
            let got: Vec<_> = records(text, '=').map(|r| (r.line, r.key.to_owned(), r.value)).collect();
            let got: Vec<_> = got.iter().map(|(l, k, v)| (*l, k.as_str(), v.as_str())).collect();
            assert_eq!(got, expected, "{text:?}");
        };
        check("a=1\n  b =  2 x \n", &[(1, "a", "1"), (2, "b", "2 x")]);
        check("a=b=c", &[(1, "a", "b=c")]);
        check("# a=1\n   # b=2\nno delimiter\n\nc=3", &[(5, "c", "3")]);
        check("a=1 # kept", &[(1, "a", "1 # kept")]);
        check("a=x\\\n   y\\\n z\nb=1", &[(1, "a", "x y z"), (4, "b", "1")]);
        check("a=x;\\\n# comment\n  y", &[(1, "a", "x; y")]);
        check("a=x\\\nb=y\n", &[(1, "a", "x b=y")]);
        check("a=x\\", &[(1, "a", "x")]);
        check("a=x\\\n", &[(1, "a", "x")]);
        check("=v", &[(1, "", "v")]);
        check("a=\\\r\nb\r\n", &[(1, "a", "b")]);
        check("", &[]);
    }
}
