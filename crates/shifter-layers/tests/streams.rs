//! Layers as files: compression, truncation, digests, bombs, and what happens when the output or the input
//! changes under way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::{self, Read, Write};
use std::path::PathBuf;

use common::{dir, file, gzip, layer, listing, sha256, tar_of};
use shifter_core::digest::Digest;
use shifter_layers::{
    Compression, Layer, Limits, MergeError, Origin, Policy, Sink, merge, merge_to_tar, read_layers,
};

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

fn sample() -> Vec<u8> {
    tar_of(&[dir("d"), file("d/f", "contents".repeat(5000))])
}

fn merge_one(layer: &Layer, limits: &Limits) -> Result<Vec<String>, MergeError> {
    let mut out = Vec::new();
    merge(std::slice::from_ref(layer), limits, &mut out)?;
    Ok(listing(&out))
}

#[test]
fn every_compression_is_read_to_its_end() {
    let tar = sample();
    let (left, right) = tar.split_at(1000);
    let table = [
        ("plain", Compression::None, tar.clone()),
        ("gzip", Compression::Gzip, gzip(&tar)),
        ("gzip of several members", Compression::Gzip, [gzip(left), gzip(b""), gzip(right)].concat()),
        ("zstd", Compression::Zstd, zstd(&tar)),
        ("zstd of several frames", Compression::Zstd, [zstd(left), zstd(right)].concat()),
        (
            "zstd with a skippable frame",
            Compression::Zstd,
            [zstd(left), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(right)].concat(),
        ),
    ];
    for (name, compression, bytes) in table {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer { diff_id: Some(sha256(&tar)), ..layer(folder.path(), 0, &bytes, compression) };
        let found = merge_one(&layer, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.len(), 3, "{name}");
    }
}

#[test]
fn damaged_compression_is_an_error() {
    let tar = sample();
    let (gz, zst) = (gzip(&tar), zstd(&tar));
    let mut flipped = gz.clone();
    let crc = flipped.len() - 5;
    flipped[crc] ^= 1;
    let table = [
        ("truncated gzip", Compression::Gzip, gz[..gz.len() - 20].to_vec()),
        ("gzip without its trailer", Compression::Gzip, gz[..gz.len() - 8].to_vec()),
        ("gzip with a wrong checksum", Compression::Gzip, flipped),
        ("garbage behind gzip", Compression::Gzip, [gz.clone(), b"garbage".to_vec()].concat()),
        ("zeros behind gzip", Compression::Gzip, [gz.clone(), vec![0; 64]].concat()),
        ("empty gzip file", Compression::Gzip, Vec::new()),
        ("truncated zstd", Compression::Zstd, zst[..zst.len() - 20].to_vec()),
        ("garbage behind zstd", Compression::Zstd, [zst.clone(), b"garbage".to_vec()].concat()),
        ("zstd called gzip", Compression::Gzip, zst),
        ("gzip called zstd", Compression::Zstd, gz.clone()),
        ("gzip called plain", Compression::None, gz),
    ];
    for (name, compression, bytes) in table {
        let folder = tempfile::tempdir().unwrap();
        let layer = layer(folder.path(), 0, &bytes, compression);
        let error = match merge_one(&layer, &Limits::default()) {
            Ok(found) => panic!("{name}: accepted, {found:?}"),
            Err(error) => error,
        };
        let expected = matches!(
            (&error, name),
            (MergeError::ReadLayer { .. }, _)
                | (MergeError::Archive { .. }, "gzip called plain" | "empty gzip file")
        );
        assert!(expected, "{name}: {error}");
        assert!(error.to_string().contains(&layer.digest.to_string()), "{name}: {error}");
    }
}

#[test]
fn the_uncompressed_stream_must_have_its_diff_id() {
    let tar = sample();
    let folder = tempfile::tempdir().unwrap();
    let with =
        |diff_id| Layer { diff_id: Some(diff_id), ..layer(folder.path(), 0, &gzip(&tar), Compression::Gzip) };
    let other = sha256(b"another layer");
    let error = merge_one(&with(other.clone()), &Limits::default()).unwrap_err();
    let expected = format!(
        "layer {} does not match the image configuration: diff_id is {other}, its contents are {}",
        sha256(&gzip(&tar)),
        sha256(&tar)
    );
    assert_eq!(error.to_string(), expected);

    let sha512 = {
        use sha2::Digest as _;
        let hex: String = sha2::Sha512::digest(&tar).iter().map(|byte| format!("{byte:02x}")).collect();
        Digest::parse(&format!("sha512:{hex}")).unwrap()
    };
    assert!(merge_one(&with(sha512), &Limits::default()).is_ok());
}

#[test]
fn a_missing_end_marker_is_forgiven_where_the_diff_id_proves_the_rest() {
    let tar = sample();
    let cut = &tar[..tar.len() - 1024];
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path(), 0, cut, Compression::None);
    assert!(matches!(merge_one(&layer, &Limits::default()), Err(MergeError::Archive { .. })));
    let vouched = Layer { diff_id: Some(sha256(cut)), ..layer };
    assert_eq!(merge_one(&vouched, &Limits::default()).unwrap().len(), 3);
}

#[test]
fn bombs_stop_at_the_ratio() {
    let tar = tar_of(&[file("zeros", vec![0; 2 << 20])]);
    let limits = Limits { ratio: 100, ratio_free_bytes: 1 << 20, ..Limits::default() };
    for (compression, bytes) in [(Compression::Gzip, gzip(&tar)), (Compression::Zstd, zstd(&tar))] {
        let folder = tempfile::tempdir().unwrap();
        let layer = layer(folder.path(), 0, &bytes, compression);
        let error = merge_one(&layer, &limits).unwrap_err();
        let expected = format!(
            "layer {} expands to more than 100 times its compressed size (reached in entry \"zeros\")",
            layer.digest
        );
        assert_eq!(error.to_string(), expected);
        assert!(merge_one(&layer, &Limits::default()).is_ok(), "small layers may shrink as they like");
    }
}

#[test]
fn a_layer_that_is_not_there_is_named() {
    let path = PathBuf::from("/nonexistent/layer");
    let digest = sha256(b"");
    let layer = Layer {
        path,
        digest: digest.clone(),
        diff_id: None,
        compression: Compression::Gzip,
        read: Default::default(),
    };
    let error = merge_one(&layer, &Limits::default()).unwrap_err();
    let expected =
        format!("cannot open layer {digest} at /nonexistent/layer: No such file or directory (os error 2)");
    assert_eq!(error.to_string(), expected);
}

/// Does something at the first write, then takes or refuses everything.
struct Trap<F: FnMut()>(F, bool, io::Result<()>);

impl<F: FnMut()> Write for Trap<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.1, true) {
            (self.0)();
        }
        match &self.2 {
            Ok(()) => Ok(bytes.len()),
            Err(error) => Err(error.kind().into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_layer_that_changes_while_it_is_read_does_not_become_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let tar = tar_of(&[file("f", vec![1; 8 << 20])]);
    let layer = Layer { diff_id: Some(sha256(&tar)), ..layer(folder.path(), 0, &tar, Compression::None) };
    let oldest = common::layer(folder.path(), 1, &sample(), Compression::None);
    // The newest layer is open and a few buffers are read; all the rest of it is still to come.
    struct Changer(PathBuf);
    impl Sink for Changer {
        type Data = ();
        fn begin_segment(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn file(&mut self, _: u64, _: bool, data: &mut dyn Read) -> io::Result<()> {
            let file = std::fs::File::options().write(true).open(&self.0)?;
            std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 7 << 20)?;
            io::copy(data, &mut io::sink()).map(drop)
        }
        fn revive(&mut self, (): ()) -> io::Result<()> {
            Ok(())
        }
        fn kill(&mut self, (): ()) -> io::Result<()> {
            Ok(())
        }
        fn end_segment(&mut self) -> io::Result<()> {
            panic!("a segment ended before its layer was verified")
        }
    }
    let mut sink = Changer(layer.path.clone());
    let read = read_layers(&[oldest, layer], &Limits::default(), &Policy::default(), &mut sink);
    assert!(matches!(read.map(drop), Err(MergeError::DiffId { .. })));
}

#[test]
fn a_temporary_file_that_cannot_be_made_is_named_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path(), 0, &sample(), Compression::None);
    let nowhere = folder.path().join("nowhere");
    let mut out = Vec::new();
    let error = merge_to_tar(
        &[layer],
        vec![Origin::Archive],
        &Limits::default(),
        &Policy::default(),
        &nowhere,
        &mut out,
    );
    let expected = format!(
        "cannot keep file data in a temporary file in {}: No such file or directory (os error 2)",
        nowhere.display()
    );
    assert_eq!(error.unwrap_err().to_string(), expected);
    assert!(out.is_empty());
}

#[test]
fn a_writer_that_fails_is_told_from_a_layer_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path(), 0, &sample(), Compression::None);
    let mut out = Trap(|| (), false, Err(io::ErrorKind::StorageFull.into()));
    let error = merge(&[layer], &Limits::default(), &mut out).unwrap_err();
    assert!(
        matches!(&error, MergeError::WriteOutput { source } if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
    assert_eq!(error.to_string(), "cannot write the merged image: no storage space");
}
