//! Writes a directory as an image, to compare our writer with other tools on real trees:
//! `directory DIRECTORY IMAGE [CODEC LEVEL BLOCK-SIZE [WORKERS]]`. Hard links become files, which are then
//! found to be duplicates; what is neither file, directory nor symbolic link is left out.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shifter_squashfs::writer::{
    Attributes, Codec, Data, Encoder, Inode, Settings, SpoolDir, Tables, WriteError, Writer,
};

/// A directory's entry with what was written of it.
enum Node {
    File(Data),
    Symlink(Vec<u8>),
    Directory(Vec<Entry>),
}

struct Entry {
    name: Vec<u8>,
    mode: u32,
    mtime: i64,
    node: Node,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, image, encoding @ ..] = arguments.as_slice() else {
        return Err("usage: directory DIRECTORY IMAGE [CODEC LEVEL BLOCK-SIZE [WORKERS]]".into());
    };
    let mut settings = Settings::default();
    if let [codec, level, block_size, workers @ ..] = encoding {
        let codecs = [Codec::Zstd, Codec::Gzip, Codec::Lz4, Codec::Xz, Codec::None];
        let codec = codecs.into_iter().find(|it| it.to_string() == *codec).ok_or("no such codec")?;
        settings.encoder = Encoder { codec, level: level.parse()?, block_size: block_size.parse()? };
        settings.workers = workers.first().map_or(Ok(0), |workers| workers.parse())?;
    }
    let file = File::options().read(true).write(true).create_new(true).open(image)?;
    let place = Path::new(image).parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let mut writer = Writer::create(file, SpoolDir::new(place, u64::MAX), &settings)?;
    writer.begin_segment()?;
    let entries = read(&mut writer, Path::new(directory))?;
    writer.end_segment()?;
    let mut tables = writer.tables()?;
    let root = write(&mut tables, &entries, &mut 1, 1, &Attributes { mode: 0o755, ..Attributes::default() })?;
    println!("{:?}", tables.finish(root)?);
    Ok(())
}

fn read(writer: &mut Writer, directory: &Path) -> Result<Vec<Entry>, Box<dyn Error>> {
    let paths: Result<Vec<PathBuf>, _> = fs::read_dir(directory)?.map(|it| it.map(|it| it.path())).collect();
    let mut paths = paths?;
    paths.sort();
    let mut entries = Vec::new();
    for path in paths {
        let meta = fs::symlink_metadata(&path)?;
        let node = if meta.is_dir() {
            Node::Directory(read(writer, &path)?)
        } else if meta.is_file() {
            Node::File(writer.file(meta.len(), true, &mut File::open(&path)?)?)
        } else if meta.is_symlink() {
            Node::Symlink(fs::read_link(&path)?.into_os_string().into_vec())
        } else {
            continue;
        };
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        entries.push(Entry { name, mode: meta.mode(), mtime: meta.mtime(), node });
    }
    Ok(entries)
}

fn write(
    tables: &mut Tables,
    entries: &[Entry],
    next: &mut u32,
    parent: u32,
    attributes: &Attributes<'_>,
) -> Result<Inode, WriteError> {
    let number = *next;
    *next += 1;
    let mut written = Vec::with_capacity(entries.len());
    for Entry { name, mode, mtime, node } in entries {
        let mtime = u32::try_from(*mtime).unwrap_or(0);
        let attributes = Attributes { mode: (mode & 0o7777) as u16, mtime, ..Attributes::default() };
        let inode = if let Node::Directory(entries) = node {
            write(tables, entries, next, number, &attributes)?
        } else {
            *next += 1;
            match node {
                Node::Symlink(target) => tables.symlink(*next - 1, target, &attributes, 1)?,
                Node::File(data) => tables.file(*next - 1, *data, &attributes, 1)?,
                Node::Directory(_) => continue,
            }
        };
        written.push((name, inode));
    }
    tables.directory(number, parent, attributes, written)
}
