//! A small squashfs image written byte by byte, every field's place known by a name, so that tests can spoil any
//! one of them. Tables are stored as they are; one data block is compressed. Not a writer: the tree is fixed.
//!
//! ```text
//! /a  9000 bytes: a block of 'A', a hole, a tail      inode 1, also named /b
//! /d/s  a symlink to "../a"                           inode 2
//! /d/x  "content of x"                                inode 3
//! /d                                                  inode 4
//! /n  a device, with extended attributes              inode 5
//! /                                                   inode 6
//! ```

use std::collections::BTreeMap;

/// Bytes of a block of this image.
pub(crate) const BLOCK: usize = 4096;

/// An image and the places of its fields.
#[derive(Clone, Default)]
pub(crate) struct Craft {
    /// The file's bytes.
    pub(crate) bytes: Vec<u8>,
    places: BTreeMap<&'static str, usize>,
}

impl Craft {
    /// The image as it should be.
    pub(crate) fn good() -> Self {
        let mut image = Self::default();
        image.superblock();
        let (data_start, fragment_start) = image.data();
        let inode_table = image.table("inodes", |image, at| image.inodes(at, data_start));
        let directory_table = image.table("directories", Self::directories);
        let fragments = image.table("fragments", |image, _| {
            image.field("fragment.start", &u64::from(fragment_start).to_le_bytes());
            image.field("fragment.size", &(FRAGMENT.len() as u32 | 1 << 24).to_le_bytes());
            image.field("fragment.unused", &[0; 4]);
        });
        let fragment_table = image.list("fragments.list", &[fragments]);
        let ids = image.table("ids", |image, _| {
            image.field("ids.0", &0_u32.to_le_bytes());
            image.field("ids.1", &1000_u32.to_le_bytes());
        });
        let id_table = image.list("ids.list", &[ids]);
        let values = image.table("values", Self::values);
        let sets = image.table("sets", |image, _| {
            image.field("set.reference", &0_u64.to_le_bytes());
            image.field("set.count", &2_u32.to_le_bytes());
            image.field("set.size", &40_u32.to_le_bytes());
        });
        let xattr_table = image.bytes.len() as u64;
        image.field("xattrs.values", &values.to_le_bytes());
        image.field("xattrs.count", &1_u32.to_le_bytes());
        image.field("xattrs.unused", &[0; 4]);
        image.list("xattrs.list", &[sets]);
        for (field, value) in [
            ("super.length", image.bytes.len() as u64),
            ("super.ids", id_table),
            ("super.xattrs", xattr_table),
            ("super.inodes", inode_table),
            ("super.directories", directory_table),
            ("super.fragments", fragment_table),
        ] {
            image.set(field, &value.to_le_bytes());
        }
        image
    }

    /// The same with other bytes at a field's place.
    pub(crate) fn with(mut self, field: &str, bytes: &[u8]) -> Self {
        self.set(field, bytes);
        self
    }

    /// Where a field is in the file.
    pub(crate) fn place(&self, field: &str) -> usize {
        *self.places.get(field).unwrap_or_else(|| panic!("there is no field {field}"))
    }

    fn set(&mut self, field: &str, bytes: &[u8]) {
        let place = self.place(field);
        self.bytes[place..place + bytes.len()].copy_from_slice(bytes);
    }

    fn field(&mut self, name: &'static str, bytes: &[u8]) {
        assert_eq!(self.places.insert(name, self.bytes.len()), None, "{name}");
        self.bytes.extend_from_slice(bytes);
    }

    fn superblock(&mut self) {
        self.field("super.magic", b"hsqs");
        self.field("super.inode_count", &6_u32.to_le_bytes());
        self.field("super.modified", &[0; 4]);
        self.field("super.block_size", &(BLOCK as u32).to_le_bytes());
        self.field("super.fragment_count", &1_u32.to_le_bytes());
        self.field("super.compressor", &1_u16.to_le_bytes());
        self.field("super.block_log", &12_u16.to_le_bytes());
        self.field("super.flags", &0_u16.to_le_bytes());
        self.field("super.id_count", &2_u16.to_le_bytes());
        self.field("super.major", &4_u16.to_le_bytes());
        self.field("super.minor", &0_u16.to_le_bytes());
        self.field("super.root", &u64::from(ROOT).to_le_bytes());
        for name in ["super.length", "super.ids", "super.xattrs", "super.inodes", "super.directories"] {
            self.field(name, &[0; 8]);
        }
        self.field("super.fragments", &[0; 8]);
        self.field("super.export", &[0xff; 8]);
        assert_eq!(self.bytes.len(), 96);
    }

    fn data(&mut self) -> (u32, u32) {
        let start = self.bytes.len() as u32;
        self.field("data", &BLOCK_OF_A);
        let fragment = self.bytes.len() as u32;
        self.field("data.fragment", FRAGMENT);
        (start, fragment)
    }

    /// A metadata block around what `fill` adds; gives the block's place to it, and back.
    fn table(&mut self, name: &'static str, fill: impl FnOnce(&mut Self, usize)) -> u64 {
        let start = self.bytes.len();
        self.field(name, &[0; 2]);
        fill(self, start + 2);
        let length = (self.bytes.len() - start - 2) as u16;
        self.set(name, &(length | 0x8000).to_le_bytes());
        start as u64
    }

    fn list(&mut self, name: &'static str, blocks: &[u64]) -> u64 {
        let start = self.bytes.len() as u64;
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
        self.field(name, &bytes);
        start
    }

    fn inodes(&mut self, at: usize, data_start: u32) {
        let common = |kind: u16, mode: u16, uid: u16, number: u32| {
            let mut bytes = Vec::new();
            for value in [kind, mode, uid, 0] {
                bytes.extend(value.to_le_bytes());
            }
            bytes.extend(1_600_000_000_u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
            bytes
        };
        self.field("a", &common(9, 0o4755, 1, 1));
        self.field("a.start", &u64::from(data_start).to_le_bytes());
        self.field("a.size", &9000_u64.to_le_bytes());
        self.field("a.sparse", &4096_u64.to_le_bytes());
        self.field("a.links", &2_u32.to_le_bytes());
        self.field("a.fragment", &0_u32.to_le_bytes());
        self.field("a.within", &0_u32.to_le_bytes());
        self.field("a.xattrs", &u32::MAX.to_le_bytes());
        self.field("a.block.0", &(BLOCK_OF_A.len() as u32).to_le_bytes());
        self.field("a.block.1", &0_u32.to_le_bytes());
        assert_eq!(self.bytes.len() - at, usize::from(S));
        self.field("s", &common(3, 0o777, 0, 2));
        self.field("s.links", &1_u32.to_le_bytes());
        self.field("s.size", &4_u32.to_le_bytes());
        self.field("s.target", b"../a");
        assert_eq!(self.bytes.len() - at, usize::from(X));
        self.field("x", &common(2, 0o640, 0, 3));
        self.field("x.start", &0_u32.to_le_bytes());
        self.field("x.fragment", &0_u32.to_le_bytes());
        self.field("x.within", &(9000 - 2 * BLOCK as u32).to_le_bytes());
        self.field("x.size", &12_u32.to_le_bytes());
        assert_eq!(self.bytes.len() - at, usize::from(D));
        self.field("d", &common(1, 0o1777, 0, 4));
        self.field("d.start", &0_u32.to_le_bytes());
        self.field("d.links", &2_u32.to_le_bytes());
        self.field("d.size", &(12 + 9 + 9 + 3_u16).to_le_bytes());
        self.field("d.within", &0_u16.to_le_bytes());
        self.field("d.parent", &6_u32.to_le_bytes());
        assert_eq!(self.bytes.len() - at, usize::from(N));
        self.field("n", &common(12, 0o666, 0, 5));
        self.field("n.links", &1_u32.to_le_bytes());
        self.field("n.device", &0x0103_u32.to_le_bytes());
        self.field("n.xattrs", &0_u32.to_le_bytes());
        assert_eq!(self.bytes.len() - at, usize::from(ROOT));
        self.field("root", &common(8, 0o755, 0, 6));
        self.field("root.links", &3_u32.to_le_bytes());
        self.field("root.size", &(12 + 4 * 9 + 3_u32).to_le_bytes());
        self.field("root.start", &0_u32.to_le_bytes());
        self.field("root.parent", &7_u32.to_le_bytes());
        self.field("root.indexes", &0_u16.to_le_bytes());
        self.field("root.within", &30_u16.to_le_bytes());
        self.field("root.xattrs", &u32::MAX.to_le_bytes());
    }

    fn directories(&mut self, _at: usize) {
        let header = |count: u32, number: u32| {
            [count - 1, 0, number].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()
        };
        let entry = |within: u16, delta: i16, kind: u16| {
            let mut bytes = within.to_le_bytes().to_vec();
            bytes.extend(delta.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0_u16.to_le_bytes());
            bytes
        };
        self.field("d.list", &header(2, 3));
        self.field("d.list.s", &entry(S, -1, 3));
        self.field("d.list.s.name", b"s");
        self.field("d.list.x", &entry(X, 0, 2));
        self.field("d.list.x.name", b"x");
        self.field("root.list", &header(4, 1));
        self.field("root.list.a", &entry(0, 0, 2));
        self.field("root.list.a.name", b"a");
        self.field("root.list.b", &entry(0, 0, 2));
        self.field("root.list.b.name", b"b");
        self.field("root.list.d", &entry(D, 3, 1));
        self.field("root.list.d.name", b"d");
        self.field("root.list.n", &entry(N, 4, 5));
        self.field("root.list.n.name", b"n");
    }

    fn values(&mut self, at: usize) {
        self.field("value.0.kind", &0_u16.to_le_bytes());
        self.field("value.0.length", &1_u16.to_le_bytes());
        self.field("value.0.name", b"k");
        self.field("value.0.size", &5_u32.to_le_bytes());
        let elsewhere = self.bytes.len() - at - 4;
        self.field("value.0", b"value");
        self.field("value.1.kind", &0x102_u16.to_le_bytes());
        self.field("value.1.length", &1_u16.to_le_bytes());
        self.field("value.1.name", b"s");
        self.field("value.1.size", &8_u32.to_le_bytes());
        self.field("value.1", &(elsewhere as u64).to_le_bytes());
    }
}

/// 4096 times 'A', as zlib 1.3 compresses it.
const BLOCK_OF_A: [u8; 28] = [
    0x78, 0xda, 0xed, 0xc1, 0x01, 0x0d, 0x00, 0x00, 0x00, 0xc2, 0xa0, 0x6c, 0xef, 0x5f, 0xca, 0x1e, 0x0e,
    0x28, 0x00, 0x00, 0x00, 0xe0, 0xdd, 0x00, 0xff, 0xad, 0x10, 0x3d,
];

/// Tails of `a` and `x`.
const FRAGMENT: &[u8] = &{
    let mut bytes = [b't'; 9000 - 2 * BLOCK + 12];
    let content = b"content of x";
    let mut index = 0;
    while index < content.len() {
        bytes[9000 - 2 * BLOCK + index] = content[index];
        index += 1;
    }
    bytes
};

// Where inodes are in their block.
const S: u16 = 64;
const X: u16 = S + 28;
const D: u16 = X + 32;
const N: u16 = D + 32;
const ROOT: u16 = N + 28;
