//! What each spoiled field is answered: fields of [`Craft`](crate::craft::Craft), their bytes, and the sentence.
//! tidy: data table

use crate::hostile::check;

#[test]
fn superblocks_that_lie_are_refused() {
    check(&[
        (
            &[("super.magic", b"hsqt")],
            "superblock at byte 0: the file does not begin as a squashfs image does (\"hsqs\")",
        ),
        (
            &[("super.inode_count", &[0, 0, 0, 0])],
            "superblock at byte 4: the number of inodes is 0, but there is at least the root",
        ),
        (
            &[("super.inode_count", &[0xff, 0xff, 0xff, 0xff])],
            "superblock at byte 4: inodes that the superblock counts: 4294967295, more than the 100 allowed",
        ),
        (
            &[("super.inode_count", &[7, 0, 0, 0])],
            "tree: the tree's number of inodes is 6, but the superblock's is 7",
        ),
        (
            &[("super.inode_count", &[5, 0, 0, 0])],
            "inode table, block at byte 944, its byte 184, for \"/\": the inode's number is 6, but inodes are numbered from 1 to the superblock's count",
        ),
        (
            &[("super.block_size", &[0, 0, 0, 0])],
            "superblock at byte 12: the block size is 0, but it must be a power of two from 4096 to 1048576",
        ),
        (
            &[("super.block_size", &[1, 16, 0, 0])],
            "superblock at byte 12: the block size is 4097, but it must be a power of two from 4096 to 1048576",
        ),
        (
            &[("super.block_size", &[0, 0, 32, 0]), ("super.block_log", &[21, 0])],
            "superblock at byte 12: the block size is 2097152, but it must be a power of two from 4096 to 1048576",
        ),
        (
            &[("super.block_log", &[13, 0])],
            "superblock at byte 22: the block size's logarithm is 13, but that of the block size itself is 12",
        ),
        (
            &[("super.block_size", &[0, 32, 0, 0]), ("super.block_log", &[13, 0])],
            "file data at byte 96, for \"/a\": the block's length is 4096, but what the file needs of it is 8192",
        ),
        (
            &[("super.fragment_count", &[0, 0, 0, 0])],
            "inode table, block at byte 944, its byte 64, for \"/a\": the fragment's number is 0, but the number of fragments is 0",
        ),
        (
            &[("super.fragment_count", &[0xff, 0xff, 0xff, 0xff])],
            "superblock at byte 16: fragments that the superblock counts: 4294967295, more than the 100 allowed",
        ),
        (
            &[("super.compressor", &[0, 0])],
            "superblock at byte 20: the compressor is 0, but squashfs 4.0 knows 1 to 6",
        ),
        (
            &[("super.compressor", &[2, 0])],
            "superblock at byte 20: the image is compressed with lzma, which is not read here: write it anew with zstd, gzip, lz4 or xz",
        ),
        (
            &[("super.compressor", &[6, 0])],
            "file data at byte 96, for \"/a\": the block is no valid zstd data of at most 4096 bytes",
        ),
        (
            &[("super.id_count", &[0, 0])],
            "superblock at byte 26: the number of ids is 0, but there is at least the root's owner",
        ),
        (
            &[("super.id_count", &[1, 0])],
            "inode table, block at byte 944, its byte 6, for \"/a\": the owner's place in the table of ids is 1, but the number of ids is 1",
        ),
        (
            &[("super.id_count", &[0xff, 0xff])],
            "id table at byte 1286: the list of the table's blocks takes bytes 1286 to 1542 of the file, but must lie within 1170 to 1294",
        ),
        (&[("super.major", &[3, 0])], "superblock at byte 28: the format is version 3.0; only 4.0 is read"),
        (&[("super.minor", &[1, 0])], "superblock at byte 28: the format is version 4.1; only 4.0 is read"),
        (&[("super.root", &[0; 8])], "superblock at byte 32, for \"/\": the root is not a directory"),
        (
            &[("super.root", &[0xff; 8])],
            "inode table at byte 281474976711599, for \"/\": a metadata block takes bytes 281474976711599 to 281474976711601 of the file, but must lie within 944 to 1170",
        ),
        (
            &[("super.root", &[0xff, 0xff, 0, 0, 0, 0, 0, 0])],
            "inode table, block at byte 944, its byte 65535, for \"/\": a byte referred to in the block is 65535, but the block's length is 224",
        ),
        (
            &[("super.length", &[0; 8])],
            "superblock at byte 40: the image's length is 0, but the superblock alone has 96 bytes",
        ),
        (
            &[("super.length", &[0xff; 8])],
            "superblock at byte 40: the image ends at byte 18446744073709551615, but the file has 1369: it is cut off or was not copied whole",
        ),
        (
            &[("super.ids", &[0; 8])],
            "id table at byte 0: the list of the table's blocks takes bytes 0 to 8 of the file, but must lie within 1170 to 1294",
        ),
        (
            &[("super.ids", &[0xff; 8])],
            "id table at byte 18446744073709551615: the list of the table's blocks takes bytes 18446744073709551615 to 18446744073709551615 of the file, but must lie within 1170 to 1294",
        ),
        (
            &[("super.xattrs", &[0xff; 8])],
            "inode table, block at byte 944, its byte 156, for \"/n\": the number of the inode's xattrs is 0, but the number of xattr sets is 0",
        ),
        (
            &[("super.xattrs", &[0xfe; 8])],
            "xattr table at byte 18374403900871474942: the table's header takes bytes 18374403900871474942 to 18374403900871474958 of the file, but must lie within 1170 to 1369",
        ),
        (
            &[("super.xattrs", &[96, 0])],
            "xattr table at byte 96: the table's header takes bytes 96 to 112 of the file, but must lie within 1170 to 1369",
        ),
        (
            &[("super.inodes", &[0; 8])],
            "superblock at byte 64: the inode table takes bytes 0 to 1170 of the file, but must lie within 96 to 1369",
        ),
        (
            &[("super.inodes", &[0xff; 8])],
            "superblock at byte 64: the inode table takes bytes 18446744073709551615 to 1170 of the file, but must lie within 96 to 1369",
        ),
        (
            &[("super.directories", &[0; 8])],
            "superblock at byte 64: the inode table takes bytes 944 to 0 of the file, but must lie within 96 to 1369",
        ),
        (
            &[("super.directories", &[0xff; 8])],
            "superblock at byte 64: the inode table takes bytes 944 to 18446744073709551615 of the file, but must lie within 96 to 1369",
        ),
        (
            &[("super.fragments", &[0xff; 8])],
            "fragment table at byte 18446744073709551615: the list of the table's blocks takes bytes 18446744073709551615 to 18446744073709551615 of the file, but must lie within 1170 to 1276",
        ),
        (
            &[("super.fragments", &[96, 0])],
            "fragment table at byte 96: the list of the table's blocks takes bytes 96 to 104 of the file, but must lie within 1170 to 1276",
        ),
        (
            &[("super.export", &[96, 0, 0, 0, 0, 0, 0, 0])],
            "export table at byte 96: the list of the table's blocks takes bytes 96 to 104 of the file, but must lie within 1170 to 1276",
        ),
    ]);
}

#[test]
fn tables_that_lead_elsewhere_are_refused() {
    check(&[
        (
            &[("inodes", &[0, 0x80])],
            "inode table at byte 944, for \"/\": its stored size is 0, but metadata blocks hold 1 to 8192 bytes",
        ),
        (
            &[("inodes", &[0xff, 0xff])],
            "inode table at byte 944, for \"/\": a metadata block takes bytes 944 to 33713 of the file, but must lie within 944 to 1170",
        ),
        (
            &[("inodes", &[10, 0x80])],
            "inode table, block at byte 944, its byte 184, for \"/\": a byte referred to in the block is 184, but the block's length is 10",
        ),
        (
            &[("inodes", &[200, 0])],
            "inode table at byte 946, for \"/\": the block is no valid gzip data of at most 8192 bytes",
        ),
        (
            &[("directories", &[0xff, 0x1f])],
            "directory table at byte 1170, for \"/\": a metadata block takes bytes 1170 to 9363 of the file, but must lie within 1170 to 1250",
        ),
        (
            &[("fragments.list", &[0; 8])],
            "fragment table at byte 1268: a block of the table takes bytes 0 to 3 of the file, but must lie within 1170 to 1268",
        ),
        (
            &[("fragments.list", &[0xff; 8])],
            "fragment table at byte 1268: a block of the table takes bytes 18446744073709551615 to 18446744073709551615 of the file, but must lie within 1170 to 1268",
        ),
        (
            &[("fragments", &[8, 0x80])],
            "fragment table at byte 1260: a metadata block takes bytes 1260 to 2082 of the file, but must lie within 1250 to 1268",
        ),
        (
            &[("ids.list", &[0; 8])],
            "id table at byte 1286: a block of the table takes bytes 0 to 3 of the file, but must lie within 1170 to 1286",
        ),
        (
            &[("ids", &[4, 0x80])],
            "id table at byte 1282: a metadata block takes bytes 1282 to 2284 of the file, but must lie within 1276 to 1286",
        ),
        (
            &[("xattrs.values", &[0; 8])],
            "xattr table at byte 1345: the part with names and values takes bytes 0 to 1327 of the file, but must lie within 1170 to 1327",
        ),
        (
            &[("xattrs.values", &[0xff; 8])],
            "xattr table at byte 1345: the part with names and values takes bytes 18446744073709551615 to 1327 of the file, but must lie within 1170 to 1327",
        ),
        (
            &[("xattrs.count", &[0xff; 4])],
            "xattr table at byte 1345: sets of extended attributes: 4294967295, more than the 100 allowed",
        ),
        (
            &[("xattrs.count", &[0; 4])],
            "inode table, block at byte 944, its byte 156, for \"/n\": the number of the inode's xattrs is 0, but the number of xattr sets is 0",
        ),
        (
            &[("xattrs.list", &[0xff; 8])],
            "xattr table at byte 1361: a block of the table takes bytes 18446744073709551615 to 18446744073709551615 of the file, but must lie within 1170 to 1361",
        ),
        (
            &[("set.reference", &[0xff; 8])],
            "xattr table at byte 281474976711949, for \"/n\": a metadata block takes bytes 281474976711949 to 281474976711951 of the file, but must lie within 1294 to 1327",
        ),
        (
            &[("set.count", &[0xff; 4])],
            "xattr table at byte 1327, for \"/n\": a metadata block takes bytes 1327 to 1329 of the file, but must lie within 1294 to 1327",
        ),
        (
            &[("value.0.kind", &[3, 0])],
            "xattr table, block at byte 1294, its byte 4, for \"/n\": an xattr's type is 3, but squashfs 4.0 knows 0 to 2, and 256 more for values elsewhere",
        ),
        (
            &[("value.0.length", &[0xff, 0xff])],
            "xattr table, block at byte 1294, its byte 4, for \"/n\": bytes of an inode's extended attributes: 101, more than the 100 allowed",
        ),
        (
            &[("value.0.name", &[0])],
            "xattr table, block at byte 1294, its byte 5, for \"/n\": the xattr name \"user.\\x00\" holds a NUL byte",
        ),
        (
            &[("value.0.size", &[0xff; 4])],
            "xattr table, block at byte 1294, its byte 9, for \"/n\": bytes of an inode's extended attributes: 101, more than the 100 allowed",
        ),
        (
            &[("value.1.kind", &[0, 1]), ("value.1.name", b"k")],
            "xattr table, block at byte 1294, its byte 31, for \"/n\": the xattr name \"user.k\" comes twice",
        ),
        (
            &[("value.1.size", &[9, 0, 0, 0])],
            "xattr table, block at byte 1294, its byte 23, for \"/n\": the size of a reference to an xattr's value is 9, but it has 8 bytes",
        ),
        (
            &[("value.1", &[0xff; 8])],
            "xattr table at byte 281474976711949, for \"/n\": a metadata block takes bytes 281474976711949 to 281474976711951 of the file, but must lie within 1294 to 1327",
        ),
        (
            &[("value.1", &[0; 8])],
            "xattr table, block at byte 1294, its byte 4, for \"/n\": bytes of an inode's extended attributes: 101, more than the 100 allowed",
        ),
    ]);
}

#[test]
fn inodes_that_lie_are_refused() {
    check(&[
        (
            &[("a", &[0, 0])],
            "inode table, block at byte 944, its byte 0, for \"/a\": the inode's type is 0, but squashfs 4.0 knows 1 to 14",
        ),
        (
            &[("a", &[15, 0])],
            "inode table, block at byte 944, its byte 0, for \"/a\": the inode's type is 15, but squashfs 4.0 knows 1 to 14",
        ),
        (
            &[("a", &[9, 0, 0, 0, 2, 0])],
            "inode table, block at byte 944, its byte 6, for \"/a\": the owner's place in the table of ids is 2, but the number of ids is 2",
        ),
        (
            &[("s", &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
            "inode table, block at byte 944, its byte 64, for \"/d/s\": the inode's number is 0, but inodes are numbered from 1 to the superblock's count",
        ),
        (
            &[("s", &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]), ("d.list.s", &[64, 0, 0, 0])],
            "tree, for \"/d/x\": the inode has the number of another one",
        ),
        (
            &[("a.start", &[0; 8])],
            "inode table, block at byte 944, its byte 60, for \"/a\": a data block takes bytes 0 to 28 of the file, but must lie within 96 to 944",
        ),
        (
            &[("a.start", &[0xff; 8])],
            "inode table, block at byte 944, its byte 60, for \"/a\": a data block takes bytes 18446744073709551615 to 18446744073709551615 of the file, but must lie within 96 to 944",
        ),
        (
            &[("a.size", &[0xff; 8])],
            "inode table, block at byte 944, its byte 56, for \"/a\": bytes of the file: 18446744073709551615, more than the 100000 allowed",
        ),
        (
            &[("a.size", &[0, 64, 1, 0])],
            "inode table, block at byte 944, its byte 68, for \"/a\": a data block's stored size is 16711683, but it must not be more than the image's block size, nor none if stored as it is",
        ),
        (
            &[("a.links", &[1, 0, 0, 0])],
            "tree, for \"/b\": the inode's count of links is 1, but it has more names than that",
        ),
        (
            &[("s.links", &[0; 4])],
            "tree, for \"/d/s\": the inode's count of links is 0, but it has more names than that",
        ),
        (
            &[("a.fragment", &[1, 0, 0, 0])],
            "inode table, block at byte 944, its byte 64, for \"/a\": the fragment's number is 1, but the number of fragments is 1",
        ),
        (
            &[("a.within", &[0, 16, 0, 0])],
            "inode table, block at byte 944, its byte 64, for \"/a\": the end of the file's tail in its fragment is 4904, but the most a fragment holds is 4096",
        ),
        (
            &[("a.within", &[0xff; 4])],
            "inode table, block at byte 944, its byte 64, for \"/a\": the end of the file's tail in its fragment is 4294968103, but the most a fragment holds is 4096",
        ),
        (
            &[("x.within", &[45, 3, 0, 0])],
            "fragment at byte 124, for \"/d/x\": the block's length is 820, but what the file needs of it is 825",
        ),
        (
            &[("a.xattrs", &[1, 0, 0, 0])],
            "inode table, block at byte 944, its byte 0, for \"/a\": the number of the inode's xattrs is 1, but the number of xattr sets is 1",
        ),
        (
            &[("a.block.0", &[0, 0, 0, 2])],
            "inode table, block at byte 944, its byte 60, for \"/a\": a data block's stored size is 33554432, but it must not be more than the image's block size, nor none if stored as it is",
        ),
        (
            &[("a.block.0", &[0, 0, 0, 1])],
            "inode table, block at byte 944, its byte 60, for \"/a\": a data block's stored size is 0, but it must not be more than the image's block size, nor none if stored as it is",
        ),
        (
            &[("a.block.0", &[1, 16, 0, 0])],
            "inode table, block at byte 944, its byte 60, for \"/a\": a data block's stored size is 4097, but it must not be more than the image's block size, nor none if stored as it is",
        ),
        (
            &[("a.block.0", &[10, 0, 0, 0])],
            "file data at byte 96, for \"/a\": the block is no valid gzip data of at most 4096 bytes",
        ),
        (
            &[("a.block.0", &[23, 0, 0, 1])],
            "file data at byte 96, for \"/a\": the block's length is 23, but what the file needs of it is 4096",
        ),
        (
            &[("a.block.1", &[0, 4, 0, 1])],
            "inode table, block at byte 944, its byte 64, for \"/a\": a data block takes bytes 124 to 1148 of the file, but must lie within 96 to 944",
        ),
        (
            &[("data", &[0xff])],
            "file data at byte 96, for \"/a\": the block is no valid gzip data of at most 4096 bytes",
        ),
        (
            &[("fragment.start", &[0xff; 8])],
            "fragment table, block at byte 1250, its byte 16: a data block takes bytes 18446744073709551615 to 18446744073709551615 of the file, but must lie within 96 to 944",
        ),
        (
            &[("fragment.size", &[0; 4])],
            "fragment table, block at byte 1250, its byte 16: a fragment's stored size is 0, but a fragment holds something",
        ),
        (
            &[("fragment.size", &[100, 0, 0, 1])],
            "fragment at byte 124, for \"/a\": the block's length is 100, but what the file needs of it is 808",
        ),
        (
            &[("fragment.size", &[100, 0, 0, 0])],
            "fragment at byte 124, for \"/a\": the block is no valid gzip data of at most 4096 bytes",
        ),
        (
            &[("s.size", &[0; 4])],
            "inode table, block at byte 944, its byte 88, for \"/d/s\": the symlink target \"\" is empty",
        ),
        (
            &[("s.size", &[0xff; 4])],
            "inode table, block at byte 944, its byte 88, for \"/d/s\": bytes of the symlink's target: 4294967295, more than the 100 allowed",
        ),
        (
            &[("s.target", &[0])],
            "inode table, block at byte 944, its byte 92, for \"/d/s\": the symlink target \"\\x00./a\" holds a NUL byte",
        ),
        (
            &[("d.size", &[2, 0])],
            "inode table, block at byte 944, its byte 156, for \"/d\": the directory's size is 2, but an empty one has 3",
        ),
        (
            &[("d.size", &[0xff, 0xff])],
            "directory table, block at byte 1170, its byte 51, for \"/d\": the name \"a\" comes behind a greater one: listings are sorted",
        ),
        (
            &[("d.size", &[32, 0])],
            "directory table, block at byte 1170, its byte 29, for \"/d\": the next part of the directory is 1, but what its size leaves for it is 0",
        ),
        (
            &[("d.size", &[24, 0])],
            "directory table, block at byte 1170, its byte 21, for \"/d\": the next part of the directory is 8, but what its size leaves for it is 0",
        ),
        (
            &[("d.start", &[1, 0, 0, 0])],
            "directory table at byte 1171, for \"/d\": a metadata block takes bytes 1171 to 1557 of the file, but must lie within 1170 to 1250",
        ),
        (
            &[("d.start", &[0xff; 4])],
            "directory table at byte 4294968465, for \"/d\": a metadata block takes bytes 4294968465 to 4294968467 of the file, but must lie within 1170 to 1250",
        ),
        (
            &[("d.within", &[0xff, 0xff])],
            "directory table, block at byte 1170, its byte 65535, for \"/d\": a byte referred to in the block is 65535, but the block's length is 78",
        ),
    ]);
}

#[test]
fn trees_that_are_none_are_refused() {
    // Within the block of inodes: /d is at 124, the root at 184.
    let (d, root) = ([124, 0], [184, 0]);
    check(&[
        // The root in itself, /d in itself, /d twice.
        (
            &[("root.list.n", &[root[0], 0, 5, 0, 1, 0]), ("root.parent", &[6, 0])],
            "tree, for \"/n\": the directory is reached twice: a loop, or a hard link to a directory",
        ),
        (
            &[("d.list.x", &[d[0], 0, 1, 0, 1, 0]), ("d.parent", &[4, 0])],
            "tree, for \"/d\": the directory's number for its parent is 4, but the number of the one that holds it is 6",
        ),
        (
            &[("root.list.n", &[d[0], 0, 3, 0, 1, 0])],
            "tree, for \"/n\": the directory is reached twice: a loop, or a hard link to a directory",
        ),
        (
            &[("d.parent", &[5, 0, 0, 0])],
            "tree, for \"/d\": the directory's number for its parent is 5, but the number of the one that holds it is 6",
        ),
        (
            &[("d", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]), ("root.list.d", &[124, 0, 2, 0])],
            "tree, for \"/d/x\": the inode has the number of another one",
        ),
        (
            &[("d.list", &[0xff; 4])],
            "directory table, block at byte 1170, its byte 4, for \"/d\": names behind one header: 4294967295, more than the 256 allowed",
        ),
        (
            &[("d.list", &[2, 0, 0, 0])],
            "directory table, block at byte 1170, its byte 30, for \"/d\": the next part of the directory is 8, but what its size leaves for it is 0",
        ),
        (
            &[("d.list", &[0, 1, 0, 0])],
            "directory table, block at byte 1170, its byte 4, for \"/d\": names behind one header: 257, more than the 256 allowed",
        ),
        (
            &[("d.list", &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])],
            "inode table at byte 4294968239, for \"/d/s\": a metadata block takes bytes 4294968239 to 4294968241 of the file, but must lie within 944 to 1170",
        ),
        (
            &[("d.list", &[1, 0, 0, 0, 0, 0, 0, 0, 9])],
            "tree, for \"/d/s\": the inode's number is 2, but its directory's number for it is 8",
        ),
        (
            &[("d.list.s", &[0xff, 0xff])],
            "inode table, block at byte 944, its byte 65535, for \"/d/s\": a byte referred to in the block is 65535, but the block's length is 224",
        ),
        (
            &[("d.list.s", &[64, 0, 0, 0])],
            "tree, for \"/d/s\": the inode's number is 2, but its directory's number for it is 3",
        ),
        (
            &[("d.list.s", &[64, 0, 0xff, 0xff, 2, 0])],
            "tree, for \"/d/s\": the inode's type is 3, but its directory's type for it is 2",
        ),
        (
            &[("d.list.s", &[92, 0])],
            "tree, for \"/d/s\": the inode's number is 3, but its directory's number for it is 2",
        ),
        (
            &[("d.list.x", &[92, 0, 0, 0, 2, 0, 0xff, 0xff])],
            "directory table, block at byte 1170, its byte 29, for \"/d\": bytes of a name: 65536, more than the 20 allowed",
        ),
        (
            &[("d.list.x", &[92, 0, 0, 0, 2, 0, 5, 0])],
            "directory table, block at byte 1170, its byte 29, for \"/d\": the next part of the directory is 6, but what its size leaves for it is 1",
        ),
        (
            &[("d.list.s.name", b"/")],
            "directory table, block at byte 1170, its byte 21, for \"/d\": the name \"/\" holds a slash",
        ),
        (
            &[("d.list.s.name", b".")],
            "directory table, block at byte 1170, its byte 21, for \"/d\": the name \".\" is the directory itself or the one above",
        ),
        (
            &[("d.list.s.name", b"\0")],
            "directory table, block at byte 1170, its byte 21, for \"/d\": the name \"\\x00\" holds a NUL byte",
        ),
        (
            &[("d.list.s.name", b"x")],
            "directory table, block at byte 1170, its byte 30, for \"/d\": the name \"x\" comes twice",
        ),
        (
            &[("d.list.s.name", b"y")],
            "directory table, block at byte 1170, its byte 30, for \"/d\": the name \"x\" comes behind a greater one: listings are sorted",
        ),
    ]);
}
