//! The kernel's table of mounts, `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
//!
//! It is bytes, not text: users name the places of their own FUSE mounts as they like. What is no line of the table is
//! left out. Nothing here reads the file, or judges what is mounted.

/// One line: where what is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// The mount point, as seen from the root of whoever read the table.
    pub point: Vec<u8>,
    /// The file system's type: `ext4`, `fuse.sshfs`.
    pub kind: &'a [u8],
    /// The options of the file system, separated by commas: `rw,memory`.
    pub options: &'a [u8],
}

/// Every mount, in the order in which they were made.
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(parse)
}

/// `36 35 98:0 /root /mount/point options optional... - type source options`
fn parse(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescaped(fields.nth(4)?);
    let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { point, kind, options: fields.nth(1).unwrap_or_default() })
}

/// Blank, tab, newline and backslash stand as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                Some((((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_manual_and_of_kernels_are_read() {
        for (line, expected) in [
            (
                &b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"[..],
                Some((&b"/mnt2"[..], "ext3", "rw,errors=continue")),
            ),
            (b"1 0 0:1 / / rw - rootfs rootfs rw", Some((b"/", "rootfs", "rw"))),
            (
                b"1 0 0:1 / /a\\040b\\011\\012\\134040 rw shared:1 master:2 - tmpfs t rw",
                Some((b"/a b\t\n\\040", "tmpfs", "rw")),
            ),
            (b"1 0 0:1 / /\xff\r rw - fuse.x f\\043 rw,x", Some((b"/\xff\r", "fuse.x", "rw,x"))),
            // A source without a name.
            (b"1 0 0:1 / /a rw - tmpfs  rw", Some((b"/a", "tmpfs", "rw"))),
            (b"1 0 0:1 / /a\\4\\400\\08 rw - t s", Some((b"/a\\4\\400\\08", "t", ""))),
            (b"1 0 0:1 / /a rw shared:1", None),
            (b"garbage - more", None),
            (b"", None),
        ] {
            let table = [b"nonsense\n", line, b"\n"].concat();
            let found: Vec<_> = mounts(&table).collect();
            let expected = expected.map(|(point, kind, options): (&[u8], &str, &str)| Mount {
                point: point.to_vec(),
                kind: kind.as_bytes(),
                options: options.as_bytes(),
            });
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{}", line.escape_ascii());
        }
    }
}
