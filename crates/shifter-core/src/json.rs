//! A bounded reader for the one JSON line in `.meta`; `write` writes it.
//!
//! The runtime reads image metadata with root's rights, so it gets these hundred lines instead of a JSON
//! library: one object whose values are strings, whole numbers, arrays of strings or objects of strings.
//! Anything else, anything deeper and anything longer is an error. Grammar: RFC 8259.

#[cfg(feature = "gateway")]
pub mod write;

/// Most members in an object or elements in an array.
const MOST_ITEMS: usize = 10_000;

/// A value allowed in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number without sign, fraction or exponent.
    Number(u64),
    /// An array of strings.
    List(Vec<String>),
    /// An object of strings.
    Map(Vec<(String, String)>),
}

/// Where and why reading stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Byte offset in the text.
    pub offset: usize,
    /// What was expected there.
    pub expected: &'static str,
}

/// Reads one object; members keep their order, the last of equal names counts for lookups by the caller.
pub fn parse_object(text: &str) -> Result<Vec<(String, Value)>, JsonError> {
    let mut reader = Reader { text, at: 0 };
    let members = reader.object(Reader::value)?;
    reader.blanks();
    if reader.at == text.len() { Ok(members) } else { Err(reader.error("the end of the line")) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn error(&self, expected: &'static str) -> JsonError {
        JsonError { offset: self.at, expected }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn accept(&mut self, byte: char) -> bool {
        self.blanks();
        let found = self.rest().starts_with(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: char, expected: &'static str) -> Result<(), JsonError> {
        if self.accept(byte) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn object<T>(
        &mut self,
        mut value: impl FnMut(&mut Self) -> Result<T, JsonError>,
    ) -> Result<Vec<(String, T)>, JsonError> {
        self.expect('{', "an object")?;
        self.items('}', |reader| {
            reader.blanks();
            let name = reader.string()?;
            reader.expect(':', "a colon")?;
            Ok((name, value(reader)?))
        })
    }

    fn items<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, JsonError>,
    ) -> Result<Vec<T>, JsonError> {
        let mut found = Vec::new();
        if self.accept(close) {
            return Ok(found);
        }
        loop {
            if found.len() == MOST_ITEMS {
                return Err(self.error("fewer items"));
            }
            found.push(item(self)?);
            if self.accept(close) {
                return Ok(found);
            }
            self.expect(',', "a comma or the end of the list")?;
        }
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        self.blanks();
        match self.rest().bytes().next() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'[') => {
                self.at += 1;
                self.items(']', |reader| {
                    reader.blanks();
                    reader.string()
                })
                .map(Value::List)
            }
            Some(b'{') => self
                .object(|reader| {
                    reader.blanks();
                    reader.string()
                })
                .map(Value::Map),
            Some(b'0'..=b'9') => {
                let rest = self.rest();
                let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let number = rest[..digits].parse().map_err(|_| self.error("a number below 2^64"))?;
                self.at += digits;
                Ok(Value::Number(number))
            }
            _ => Err(self.error("a string, number, array of strings or object of strings")),
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        if !self.rest().starts_with('"') {
            return Err(self.error("a string"));
        }
        self.at += 1;
        let mut found = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else { return Err(self.error("a closing quote")) };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(found),
                '\\' => found.push(self.escape()?),
                c if (c as u32) < 0x20 => return Err(self.error("an escaped control character")),
                c => found.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(c) = self.rest().chars().next() else { return Err(self.error("an escape")) };
        self.at += c.len_utf8();
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let high = self.hex4()?;
                let code = if (0xD800..0xDC00).contains(&high) && self.rest().starts_with("\\u") {
                    self.at += 2;
                    let low = self.hex4()?;
                    if !(0xDC00..0xE000).contains(&low) {
                        return Err(self.error("the second half of a surrogate pair"));
                    }
                    0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                } else {
                    high
                };
                char::from_u32(code).ok_or(self.error("a Unicode character"))?
            }
            _ => return Err(self.error("a known escape")),
        })
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.rest().get(..4).ok_or(self.error("four hexadecimal digits"))?;
        let code = Some(digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let code = code.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or(self.error("four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_ascii_on_one_line_and_reads_back() {
        let members = vec![
            ("a", Value::Text("q\"b\\n\nü😀\u{7f}".into())),
            ("n", Value::Number(u64::MAX)),
            ("l", Value::List(vec![String::new(), "it's".into()])),
            ("m", Value::Map(vec![("k".into(), "v:=".into())])),
        ];
        let text = write::object(&members);
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text}");
        let back = parse_object(&text).unwrap();
        assert_eq!(back.iter().map(|(k, v)| (k.as_str(), v.clone())).collect::<Vec<_>>(), members);
        assert_eq!(parse_object(" { \"a\" : [ ] } ").unwrap(), vec![("a".into(), Value::List(vec![]))]);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "{",
            "[]",
            "{\"a\":1.5}",
            "{\"a\":-1}",
            "{\"a\":true}",
            "{\"a\":[1]}",
            "{\"a\":[[\"x\"]]}",
            "{\"a\":{\"b\":{}}}",
            "{\"a\":\"x\"}x",
            "{\"a\":\"\\q\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\ud800\\u0041\"}",
            "{\"a\":\"\\u+041\"}",
            "{\"a\":\"\n\"}",
            "{a:1}",
            "{\"a\":99999999999999999999}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"x",
            "{\"a\":1,}",
            "{\"\\u00é\":1}",
        ] {
            assert!(parse_object(bad).is_err(), "{bad}");
        }
        assert!(parse_object(&format!("{{\"a\":[{}\"x\"]}}", "\"x\",".repeat(20_000))).is_err());
    }
}
