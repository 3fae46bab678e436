//! Layers built from tables, and merged streams read back by the `tar` crate, which shares no code with
//! what is tested. Not a test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

pub mod memory;
pub mod reference;

use std::io::{Read, Write};
use std::path::Path;

use shifter_core::digest::Digest;
use shifter_layers::{Compression, Layer, Limits, MergeError, Summary, merge};
use tar::{EntryType, Header};

/// One archived entry; names are written as given, however wrong.
#[derive(Clone, Debug)]
pub struct Item {
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub data: Vec<u8>,
}

pub fn item(
    kind: u8,
    name: impl AsRef<[u8]>,
    link: impl AsRef<[u8]>,
    mode: u32,
    data: impl AsRef<[u8]>,
) -> Item {
    Item {
        kind,
        name: name.as_ref().to_vec(),
        link: link.as_ref().to_vec(),
        mode,
        data: data.as_ref().to_vec(),
    }
}

pub fn dir(name: impl AsRef<[u8]>) -> Item {
    item(b'5', name, "", 0o755, "")
}
pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Item {
    item(b'0', name, "", 0o644, data)
}
pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    item(b'2', name, target, 0o777, "")
}
pub fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    item(b'1', name, target, 0o644, "")
}
pub fn mode(item: Item, mode: u32) -> Item {
    Item { mode, ..item }
}

/// A GNU header with these fields, checksum right.
pub fn header(kind: u8, name: &[u8], link: &[u8], mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    header.as_old_mut().linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(mode);
    header.set_mtime(1_600_000_000);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Header, data and padding.
pub fn block(header: &Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn item_bytes(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, long) in [(b'L', &item.name), (b'K', &item.link)] {
        if long.len() > 100 {
            let data = [long.as_slice(), b"\0"].concat();
            bytes.extend(block(&header(kind, b"././@LongLink", b"", 0, data.len() as u64), &data));
        }
    }
    let head = header(item.kind, &item.name, &item.link, item.mode, item.data.len() as u64);
    bytes.extend(block(&head, &item.data));
    bytes
}

pub fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(item_bytes).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A pax header with `records` in front of `item`, whose own header may say otherwise.
pub fn with_pax(records: &[(&str, &[u8])], item: &Item) -> Vec<u8> {
    let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
    [block(&header(b'x', b"PaxHeaders/x", b"", 0o644, data.len() as u64), &data), item_bytes(item)].concat()
}

pub fn sha256(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::sha256_from_hex(&hex).unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes `bytes`, the (compressed) layer, below `folder`.
pub fn layer(folder: &Path, number: usize, bytes: &[u8], compression: Compression) -> Layer {
    let path = folder.join(format!("layer{number}"));
    std::fs::write(&path, bytes).unwrap();
    Layer { path, digest: sha256(bytes), diff_id: None, compression, read: Default::default() }
}

/// Merges plain tars.
pub fn merge_tars(tars: &[Vec<u8>], limits: &Limits) -> Result<(Vec<u8>, Summary), MergeError> {
    let folder = tempfile::tempdir().unwrap();
    let layers: Vec<Layer> = tars
        .iter()
        .enumerate()
        .map(|(number, tar)| layer(folder.path(), number, tar, Compression::None))
        .collect();
    let mut out = Vec::new();
    let summary = merge(&layers, limits, &mut out)?;
    Ok((out, summary))
}

/// One line per entry: `d 755 name`, `f 644 name = content`, `l name -> target`, `h name => target`; asserts
/// what holds for every merged stream.
pub fn listing(stream: &[u8]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let mut lines = Vec::new();
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().escape_ascii().to_string();
        let name = name.trim_end_matches('/').to_owned();
        assert!(seen.insert(name.clone()), "{name} appears twice");
        let parent = name.rsplit_once('/').map_or(".", |(parent, _)| parent);
        assert!(seen.contains(parent), "{name} comes before its parent");
        let head = entry.header();
        assert_eq!((head.uid().unwrap(), head.gid().unwrap()), (0, 0), "{name}");
        let bits = head.mode().unwrap();
        let target = entry.link_name_bytes().map(|link| link.escape_ascii().to_string()).unwrap_or_default();
        lines.push(match entry.header().entry_type() {
            EntryType::Directory => format!("d {bits:o} {name}"),
            EntryType::Symlink => format!("l {name} -> {target}"),
            EntryType::Link => {
                assert!(seen.contains(&target), "{name} links forward to {target}");
                format!("h {name} => {target}")
            }
            EntryType::Regular => {
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                format!("f {bits:o} {name} = {}", data.escape_ascii())
            }
            other => panic!("{name} has type {other:?}"),
        });
    }
    lines
}

/// Knuth's 64-bit linear congruential generator.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
