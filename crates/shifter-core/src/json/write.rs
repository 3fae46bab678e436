//! Writing the JSON line of `.meta`, in ASCII.

use super::Value;

/// Writes an object on one line in ASCII: characters beyond it become `\uXXXX`.
pub fn object(members: &[(&str, Value)]) -> String {
    let mut out = String::new();
    write_members(&mut out, members.iter().map(|(name, value)| (*name, value)), |out, value| match value {
        Value::Text(text) => write_string(out, text),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, item);
            }
            out.push(']');
        }
        Value::Map(map) => {
            write_members(out, map.iter().map(|(name, value)| (name.as_str(), value)), |out, text| {
                write_string(out, text);
            });
        }
    });
    out
}

fn write_members<'a, T: 'a>(
    out: &mut String,
    members: impl Iterator<Item = (&'a str, &'a T)>,
    write: impl Fn(&mut String, &T),
) {
    out.push('{');
    for (i, (name, value)) in members.enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_string(out, name);
        out.push(':');
        write(out, value);
    }
    out.push('}');
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}
