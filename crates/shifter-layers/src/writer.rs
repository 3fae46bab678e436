//! The merged stream in GNU tar format: the one form that `mksquashfs -tar` 4.5 and `tar2sqfs` 1.2 both read
//! right for long names, names that are no UTF-8 and files beyond 8 GiB (seen on both). Numbers that squashfs
//! cannot store never get here. Extended attributes, where policy keeps them, stand in pax headers before.

use std::io::{self, BufWriter, Write};

use crate::error::MergeError;
use crate::header::BLOCK;
use crate::sink::{Attributes, Device, Special, Xattr};

/// The longest name that fits a header.
const SHORT_NAME: usize = 100;
/// The first size that eleven octal digits cannot say: 8 GiB.
const OCTAL_LIMIT: u64 = 1 << 33;
/// The first owner that seven octal digits cannot say.
const OCTAL_IDS: u32 = 1 << 21;

/// Writes entries; the order is the caller's, and names are relative, without a slash at either end. Each method fails
/// with [`MergeError::WriteOutput`].
pub struct TarWriter<'a> {
    out: BufWriter<&'a mut dyn Write>,
}

impl<'a> TarWriter<'a> {
    /// Of nothing yet.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out: BufWriter::with_capacity(256 * 1024, out) }
    }

    /// A directory; the empty name is the root.
    pub fn directory(&mut self, name: &[u8], attributes: &Attributes<'_>) -> Result<(), MergeError> {
        let name = if name.is_empty() { b"./".to_vec() } else { [name, b"/"].concat() };
        self.entry(b'5', &name, b"", attributes, 0, None)
    }

    /// A symbolic link to `target`.
    pub fn symlink(
        &mut self,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes<'_>,
    ) -> Result<(), MergeError> {
        self.entry(b'2', name, target, attributes, 0, None)
    }

    /// Another name of what is called `target`.
    pub fn hard_link(
        &mut self,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes<'_>,
    ) -> Result<(), MergeError> {
        self.entry(b'1', name, target, attributes, 0, None)
    }

    /// A device or a pipe.
    pub fn special(
        &mut self,
        name: &[u8],
        special: Special,
        attributes: &Attributes<'_>,
    ) -> Result<(), MergeError> {
        let (kind, device) = match special {
            Special::CharDevice(device) => (b'3', Some(device)),
            Special::BlockDevice(device) => (b'4', Some(device)),
            Special::Fifo => (b'6', None),
        };
        self.entry(kind, name, b"", attributes, 0, device)
    }

    /// The header of a file; its `size` bytes follow through [`data`](Self::data), then
    /// [`end_data`](Self::end_data).
    pub fn file(&mut self, name: &[u8], attributes: &Attributes<'_>, size: u64) -> Result<(), MergeError> {
        self.entry(b'0', name, b"", attributes, size, None)
    }

    /// Where a file's bytes go.
    pub fn data(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// Pads the data of a file.
    pub fn end_data(&mut self, size: u64) -> Result<(), MergeError> {
        let block = BLOCK as u64;
        let padding = usize::try_from((block - size % block) % block).unwrap_or(0);
        self.write(&vec![0; padding])
    }

    /// The end marker; nothing may follow.
    pub fn finish(mut self) -> Result<(), MergeError> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(|source| MergeError::WriteOutput { source })
    }

    fn entry(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        attributes: &Attributes<'_>,
        size: u64,
        device: Option<Device>,
    ) -> Result<(), MergeError> {
        // A hard link's inode has them already.
        if kind != b'1' && !attributes.xattrs.is_empty() {
            let records: Vec<u8> = attributes.xattrs.iter().flat_map(pax_record).collect();
            self.write(&header(b'x', b"PaxHeaders", b"", &NONE, records.len() as u64, None))?;
            self.write(&records)?;
            self.end_data(records.len() as u64)?;
        }
        self.long(b'L', name)?;
        self.long(b'K', link)?;
        self.write(&header(kind, name, link, attributes, size, device))
    }

    /// A name that does not fit its header, in an entry before it.
    fn long(&mut self, kind: u8, name: &[u8]) -> Result<(), MergeError> {
        if name.len() <= SHORT_NAME {
            return Ok(());
        }
        let size = name.len() as u64 + 1;
        self.write(&header(kind, b"././@LongLink", b"", &NONE, size, None))?;
        self.write(name)?;
        self.write(b"\0")?;
        self.end_data(size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), MergeError> {
        let result: io::Result<()> = self.out.write_all(bytes);
        result.map_err(|source| MergeError::WriteOutput { source })
    }
}

const NONE: Attributes<'static> = Attributes { mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: &[] };

/// An extended attribute as star and GNU tar write it.
fn pax_record((name, value): &Xattr) -> Vec<u8> {
    let body = b" SCHILY.xattr.".len() + name.len() + b"=".len() + value.len() + b"\n".len();
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [format!("{length} SCHILY.xattr.").as_bytes(), name, b"=", value, b"\n"].concat()
}

fn header(
    kind: u8,
    name: &[u8],
    link: &[u8],
    attributes: &Attributes<'_>,
    size: u64,
    device: Option<Device>,
) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, limit: usize, bytes: &[u8]| {
        for (to, from) in header.iter_mut().skip(at).zip(bytes.iter().take(limit)) {
            *to = *from;
        }
    };
    put(0, SHORT_NAME, name);
    put(100, 8, format!("{:07o}\0", attributes.mode).as_bytes());
    for (at, id) in [(108, attributes.uid), (116, attributes.gid)] {
        match id {
            0..OCTAL_IDS => put(at, 8, format!("{id:07o}\0").as_bytes()),
            _ => put(at, 8, &[b"\x80\0\0\0".as_slice(), &id.to_be_bytes()].concat()),
        }
    }
    if size < OCTAL_LIMIT {
        put(124, 12, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, 4, b"\x80\0\0\0");
        put(128, 8, &size.to_be_bytes());
    }
    put(136, 12, format!("{:011o}\0", attributes.mtime).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, SHORT_NAME, link);
    put(257, 8, b"ustar  \0");
    if (attributes.uid, attributes.gid) == (0, 0) {
        put(265, 32, b"root");
        put(297, 32, b"root");
    }
    if let Some(Device { major, minor }) = device {
        put(329, 8, format!("{major:07o}\0").as_bytes());
        put(337, 8, format!("{minor:07o}\0").as_bytes());
    }
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    for (to, from) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *to = from;
    }
    header
}
