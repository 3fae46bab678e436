//! What a merge costs in memory. A file of its own, because the measure is of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use common::{dir, file, item_bytes, sha256};
use shifter_layers::{Attributes, Compression, Layer, Limits, Policy, Sink, Special, Tables, read_layers};

/// Keeps nothing; counts names, and the most layers of a folder that are open at once.
#[derive(Default)]
struct Nothing {
    names: u64,
    folder: PathBuf,
    open: usize,
}

impl Sink for Nothing {
    type Data = u32;
    fn begin_segment(&mut self) -> io::Result<()> {
        // Rather than threads, which a busy machine lists for a while after they have ended.
        let files =
            fs::read_dir("/proc/self/fd")?.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        self.open = self.open.max(files.filter(|file| file.starts_with(&self.folder)).count());
        Ok(())
    }
    fn file(&mut self, _: u64, _: bool, data: &mut dyn Read) -> io::Result<u32> {
        io::copy(data, &mut io::sink()).map(|_| 0)
    }
    fn revive(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn kill(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn end_segment(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tables for Nothing {
    type Data = u32;
    type Inode = u32;
    fn file(&mut self, number: u32, _: u32, _: &Attributes<'_>, _: u32) -> io::Result<u32> {
        Ok(number)
    }
    fn symlink(&mut self, number: u32, _: &[u8], _: &Attributes<'_>) -> io::Result<u32> {
        Ok(number)
    }
    fn special(&mut self, number: u32, _: Special, _: &Attributes<'_>) -> io::Result<u32> {
        Ok(number)
    }
    fn directory(
        &mut self,
        number: u32,
        _: u32,
        _: &Attributes<'_>,
        entries: &[(&[u8], u32)],
    ) -> io::Result<u32> {
        self.names += entries.len() as u64;
        Ok(number)
    }
}

/// VmHWM or VmRSS of this process, bytes.
fn memory(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn half_a_million_entries_take_less_than_100_mib() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layer");
    let mut tar = zstd::stream::write::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
    let (directories, files) = (2_500, 199);
    for number in 0..directories {
        let name = format!("opt/packages-{}/package-{number:05}", number % 50);
        let mut bytes = item_bytes(&dir(&name));
        for file_number in 0..files {
            bytes.extend(item_bytes(&file(format!("{name}/module_{number:05}_{file_number:03}.py"), "")));
        }
        tar.write_all(&bytes).unwrap();
    }
    tar.write_all(&[0; 1024]).unwrap();
    tar.finish().unwrap();
    let layer = Layer {
        path,
        digest: sha256(b""),
        diff_id: None,
        compression: Compression::Zstd,
        read: Default::default(),
    };

    let before = memory("VmRSS");
    let mut sink = Nothing::default();
    let limits = Limits::default();
    let image = read_layers(std::slice::from_ref(&layer), &limits, &Policy::default(), &mut sink).unwrap();
    image.write(&mut sink).unwrap();
    let used = memory("VmHWM").saturating_sub(before);
    assert_eq!(sink.names, 500_000 + 50 + 1);
    println!("{} MiB, {} bytes per entry", used >> 20, used / 500_000);
    assert!(used < 100 << 20, "{} MiB", used >> 20);
}

#[test]
fn hundreds_of_layers_do_not_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let layers: Vec<Layer> = (0..500)
        .map(|number| {
            let tar = common::tar_of(&[file(format!("f{number}"), "x"), file("same", format!("{number}"))]);
            common::layer(folder.path(), number, &tar, Compression::None)
        })
        .collect();
    let mut sink = Nothing { folder: folder.path().to_owned(), ..Nothing::default() };
    let image = read_layers(&layers, &Limits::default(), &Policy::default(), &mut sink).unwrap();
    let (_, summary) = image.write(&mut sink).unwrap();
    assert_eq!((summary.files, summary.entries_read), (501, 1000));
    // The layer that is read, and the next one.
    assert!((1..=2).contains(&sink.open), "{} layers", sink.open);
}
