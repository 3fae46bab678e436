//! Reads everything that an image holds, as an import would, and adds it up.

use std::collections::BTreeMap;

use shifter_squashfs::reader::{Chunk, Entry, Event, Image, Kind, Limits, ReadError, Source, Xattr};

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// By path.
    pub(crate) entries: BTreeMap<Vec<u8>, (Entry, Vec<Xattr>)>,
    /// Content's bytes without holes.
    pub(crate) held: u64,
    /// Content's bytes.
    pub(crate) bytes: u64,
}

/// Opens, walks, reads all data and attributes; `limits` must hold of what comes out.
pub(crate) fn read_whole<S: Source>(source: S, limits: &Limits) -> Result<Whole, ReadError> {
    let image = Image::open(source, limits)?;
    let mut whole = Whole::default();
    let mut walk = image.walk()?;
    let mut open = Vec::new();
    while let Some(event) = walk.next()? {
        let entry = match event {
            Event::Leave(entry) => {
                assert_eq!(open.pop(), Some(entry.path));
                continue;
            }
            Event::Enter(entry) => {
                open.push(entry.path.clone());
                entry
            }
            Event::Leaf(entry) => entry,
        };
        if let (Kind::File(layout), true) = (&entry.inode.kind, entry.first) {
            let mut data = image.data(&entry)?;
            let mut bytes = 0;
            while let Some(chunk) = data.next_chunk()? {
                bytes += match chunk {
                    Chunk::Hole(length) => length,
                    Chunk::Data(data) => {
                        whole.held += data.len() as u64;
                        data.len() as u64
                    }
                };
            }
            assert_eq!(bytes, layout.size, "{}", entry.path.escape_ascii());
            whole.bytes += bytes;
        }
        for name in entry.components() {
            assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&0));
            assert!(name.len() <= limits.name_bytes);
        }
        assert!(entry.path.len() <= limits.path_bytes && entry.components().count() <= limits.depth);
        let xattrs = image.xattrs(&entry)?;
        let twice = whole.entries.insert(entry.path.clone(), (entry, xattrs));
        assert!(twice.is_none());
    }
    assert!(open.is_empty());
    // The root has no name.
    assert!(whole.entries.len() as u64 <= limits.entries + 1);
    assert!(whole.bytes <= limits.uncompressed_bytes);
    Ok(whole)
}
