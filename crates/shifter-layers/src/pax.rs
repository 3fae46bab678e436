//! pax extended header records, `LENGTH KEY=VALUE\n` (POSIX.1-2024 pax, "pax Header Block"): the keys that
//! change what an entry is. Access times, comments, names of owners and the like are passed over.

use crate::error::Fault;
use crate::name::shown;
use crate::sink::Xattr;
use crate::sparse;

/// The records of one extended header that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// The entry's name.
    pub(crate) path: Option<Vec<u8>>,
    /// The target of a link.
    pub(crate) link_path: Option<Vec<u8>>,
    /// Bytes of data behind the entry's own header.
    pub(crate) size: Option<u64>,
    /// Whole seconds since 1970, rounded down.
    pub(crate) mtime: Option<i64>,
    /// The owner's number, as it stands there.
    pub(crate) uid: Option<Vec<u8>>,
    /// The group's number, as it stands there.
    pub(crate) gid: Option<Vec<u8>>,
    /// Extended attributes, in the order of the records.
    pub(crate) xattrs: Vec<Xattr>,
    /// What makes the entry a sparse file.
    pub(crate) sparse: sparse::Records,
}

/// Reads all records; a later one of the same key wins.
pub(crate) fn parse(mut data: &[u8]) -> Result<Records, Fault> {
    let mut records = Records::default();
    while !data.is_empty() {
        let malformed = || Fault::Pax(String::new());
        let space = data.iter().take(20).position(|&byte| byte == b' ').ok_or_else(malformed)?;
        let length = decimal(data.get(..space).unwrap_or_default())
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length > space + 1)
            .ok_or_else(malformed)?;
        let record = data.get(space + 1..length).ok_or_else(malformed)?;
        let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
        let (key, value) = record.split_at(equals);
        take(&mut records, key, value.get(1..).unwrap_or_default())?;
        data = data.get(length..).unwrap_or_default();
    }
    Ok(records)
}

fn take(records: &mut Records, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let malformed = || Fault::Pax(shown(key));
    // An empty value takes the record back.
    let text = Some(value.to_vec()).filter(|value| !value.is_empty());
    match key {
        b"path" => records.path = text,
        b"linkpath" => records.link_path = text,
        b"size" if value.is_empty() => records.size = None,
        b"size" => records.size = Some(decimal(value).ok_or_else(malformed)?),
        b"mtime" if value.is_empty() => records.mtime = None,
        b"mtime" => records.mtime = Some(whole_seconds(value).ok_or_else(malformed)?),
        b"uid" => records.uid = text,
        b"gid" => records.gid = text,
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                records.xattrs.push((name.into(), value.into()));
            } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                records.sparse.take(key, value, decimal).ok_or_else(malformed)?;
            }
        }
    }
    Ok(())
}

/// Decimal digits and nothing else, below 2^63.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    let (&first, _) = digits.split_first()?;
    let value = digits.iter().try_fold(0_u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })?;
    (first.is_ascii_digit() && i64::try_from(value).is_ok()).then_some(value)
}

/// `[-]SECONDS[.FRACTION]`, rounded down.
fn whole_seconds(value: &[u8]) -> Option<i64> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let below = negative && fraction.iter().any(|&digit| digit != b'0');
    Some(if negative { -seconds - i64::from(below) } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length += 1;
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn known_keys_are_taken_and_others_passed_over() {
        let data = [
            record("path", b"a\xff=b\nc"),
            record("linkpath", b"t"),
            record("size", b"8589934592"),
            record("mtime", b"-1.5"),
            record("SCHILY.xattr.user.x", b"\0\n=1"),
            record("uid", b"1000"),
            record("linkpath", b""),
        ]
        .concat();
        let expected = Records {
            path: Some(b"a\xff=b\nc".to_vec()),
            size: Some(8_589_934_592),
            mtime: Some(-2),
            uid: Some(b"1000".to_vec()),
            xattrs: vec![(b"user.x".as_slice().into(), b"\0\n=1".as_slice().into())],
            ..Records::default()
        };
        assert_eq!(parse(&data), Ok(expected));
    }

    #[test]
    fn sparse_records_are_one_of_three_versions_or_refused() {
        use crate::sparse::{Form, Segment};
        let seg = |offset, bytes| Segment { offset, bytes };
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<Form>);
        let table: &[Case<'_>] = &[
            (&[], Some(Form::Plain)),
            (&[("size", "9"), ("numblocks", "2"), ("offset", "0"), ("numbytes", "1")], None),
            (
                &[("size", "9"), ("numblocks", "1"), ("offset", "5"), ("numbytes", "4")],
                Some(Form::Mapped(vec![seg(5, 4)], 9)),
            ),
            (&[("size", "9"), ("numblocks", "1"), ("offset", "5")], None),
            (
                &[("size", "9"), ("numblocks", "2"), ("name", "f"), ("map", "0,1,5,4")],
                Some(Form::Mapped(vec![seg(0, 1), seg(5, 4)], 9)),
            ),
            (&[("major", "1"), ("minor", "0"), ("realsize", "7")], Some(Form::MapInData(7))),
            (&[("major", "1"), ("minor", "1"), ("realsize", "7")], None),
            (&[("major", "1"), ("minor", "0")], None),
            (&[("name", "f")], None),
            (&[("new", "f"), ("size", "9"), ("numblocks", "0")], None),
        ];
        for (records, expected) in table {
            let data: Vec<u8> = records
                .iter()
                .flat_map(|(key, value)| record(&format!("GNU.sparse.{key}"), value.as_bytes()))
                .collect();
            let form = parse(&data).map(|records| records.sparse.form(true).ok());
            assert_eq!(form.as_ref().map(Option::as_ref), Ok(expected.as_ref()), "{records:?}");
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        let table: &[&[u8]] = &[
            b"x",
            b"5",
            b"5 a=b",
            b"0 a=b\n",
            b"2 \n",
            b"999 a=b\n",
            b"6 a=bc\n",
            b"5 ab\n",
            b"-6 a=b\n",
            b"18446744073709551616 a=b\n",
            b"12 size=-12\n",
            b"10 size=x\n",
            b"11 mtime=.\n",
            b"30 size=99999999999999999999\n",
            b"22 GNU.sparse.map=1,\n",
            b"27 GNU.sparse.numbytes=10\n",
        ];
        for data in table {
            assert!(matches!(parse(data), Err(Fault::Pax(_))), "{}", data.escape_ascii());
        }
    }
}
