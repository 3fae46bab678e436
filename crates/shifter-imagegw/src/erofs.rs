//! EROFS images, by `mkfs.erofs` of erofs-utils: of the squashfs image that our own writer made, unpacked by our own
//! reader, because the tool of today's distributions takes a directory only.
//!
//! The tool is C code that sees the tree of an untrusted image, so it runs below a child that is shut in: it reads the
//! tree, writes the image, and what it leaves running is killed before the image is looked at. Equal trees give images
//! that mount equally; the order in which the tool meets files is the file system's, so not always equal bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::confine::Reach;
use crate::convert::{ConvertError, Converter, answer, read_job, shut_in};
use crate::examine::LastWords;
use crate::offspring;
use crate::unpack::{UnpackError, Unpacked};

/// Where the tool is looked for.
pub(crate) const PLACES: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

const PROGRAM: &str = "mkfs.erofs";

/// What sites get that say nothing: every kernel with compressed EROFS reads it.
const DEFAULTS: &[&str] = &["-zlz4hc"];

/// What sites may say; the rest is ours, or makes an image that is not one file.
const ALLOWED: &[&str] = &["-z", "-C", "-E", "-b", "--max-extent-bytes=", "--workers="];

/// Times later than this are set back to it, and it is the file system's own, so that nothing depends on the clock. The
/// last that squashfs can store.
const LATEST: &str = "4294967295";

/// Bytes of files that are unpacked at most.
const MOST_BYTES: u64 = 1 << 40;

/// How long what it said may take to be read to its end when all are gone.
const READING: Duration = Duration::from_secs(10);

/// Why there is no EROFS image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErofsError {
    #[error("the image could not be unpacked for {PROGRAM}: {0}")]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Make(#[from] ConvertError),
}

/// Writes the image of this id to `output`, an empty file, of a squashfs image. Dropping the future ends the work.
pub(crate) async fn make(
    converter: &Converter,
    squashfs: &Path,
    output: &Path,
    (expand, id): (&Path, &str),
    options: &[String],
) -> Result<(), ErofsError> {
    let place = Unpacked::new(converter, squashfs, (expand, id), MOST_BYTES, true).await?;
    let job = ErofsJob {
        tree: place.tree.clone(),
        output: output.to_owned(),
        scratch: place.temporary.clone(),
        uuid: uuid(id),
        options: options.to_vec(),
        reach: Reach {
            read: vec![place.tree.clone()],
            write: vec![output.to_owned()],
            make: vec![place.temporary.clone()],
            ..Reach::default()
        },
    };
    let (_, bytes) = converter.work("erofs", &job, None, &|_, _| {}).await?;
    tracing::info!(id, bytes, "EROFS image made");
    Ok(())
}

/// Whether such images can be made with these options on this machine, found out by making one of nothing.
pub(crate) fn check(options: &[String]) -> Result<(), String> {
    if let Some(refused) = options.iter().find(|option| !is_allowed(option)) {
        return Err(format!(
            "\"{refused}\" is no option for {PROGRAM} that can be used here; there are {}",
            ALLOWED.join(", ")
        ));
    }
    let program = locate()?;
    let place = std::env::temp_dir().join(format!("shifter-imagegw.{:016x}", rand::random::<u64>()));
    let failed =
        |error: io::Error| format!("trying {} in {} failed: {error}", program.display(), place.display());
    std::fs::DirBuilder::new().mode(0o700).create(&place).map_err(failed)?;
    let (tree, output) = (place.join("tree"), place.join("image"));
    let tried = std::fs::create_dir(&tree).and_then(|()| {
        std::fs::write(tree.join("file"), [0; 8192])?;
        let mut command = command(&program, &tree, &output, &uuid(""), &place, options);
        command.stdin(Stdio::null()).output()
    });
    let _leftovers_are_seen = std::fs::remove_dir_all(&place);
    let tried = tried.map_err(failed)?;
    match tried.status.success() {
        true => Ok(()),
        false => Err(refused(&program, tried.status, &crate::examine::last_lines(&tried.stderr))),
    }
}

fn is_allowed(option: &str) -> bool {
    ALLOWED.iter().any(|allowed| option.len() > allowed.len() && option.starts_with(allowed))
}

fn refused(program: &Path, status: ExitStatus, said: &str) -> String {
    format!("{} failed ({status}): {said}", program.display())
}

/// A program of erofs-utils.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    PLACES.iter().map(|place| Path::new(place).join(name)).find(is_program)
}

fn locate() -> Result<PathBuf, String> {
    find_program(PROGRAM).ok_or_else(|| {
        format!(
            "{PROGRAM} is in none of {}; install erofs-utils, or set DefaultImageFormat to \"squashfs\"",
            PLACES.join(", ")
        )
    })
}

fn command(
    program: &Path,
    tree: &Path,
    output: &Path,
    uuid: &str,
    scratch: &Path,
    options: &[String],
) -> Command {
    let mut command = Command::new(program);
    command.args(["--quiet", "--all-root", "-x-1", "-U", uuid]);
    match options.is_empty() {
        true => command.args(DEFAULTS),
        false => command.args(options),
    };
    command.arg(output).arg(tree).env_clear().env("PATH", crate::convert::PATH).env("LC_ALL", "C");
    command.env("SOURCE_DATE_EPOCH", LATEST).env("TMPDIR", scratch).current_dir("/");
    command
}

/// The first half of the image's id, as UUIDs are written.
fn uuid(id: &str) -> String {
    let digits: String = id.chars().chain(std::iter::repeat('0')).take(32).collect();
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct ErofsJob {
    tree: PathBuf,
    /// An empty file.
    output: PathBuf,
    /// For temporary files.
    scratch: PathBuf,
    uuid: String,
    options: Vec<String>,
    /// All that the child may touch, besides the system's programs.
    reach: Reach,
}

/// The child: reads the job, runs the tool, answers. Returns the exit status.
pub(crate) fn child() -> u8 {
    answer(read_job().and_then(|job| run(&job)))
}

fn run(job: &ErofsJob) -> Result<(u64, u64), String> {
    let program = locate()?;
    let mut reach = job.reach.clone();
    reach.add_programs();
    // Where its descendants are looked for.
    reach.read.push(PathBuf::from("/proc"));
    offspring::adopt()?;
    shut_in(&reach)?;
    let mut command = command(&program, &job.tree, &job.output, &job.uuid, &job.scratch, &job.options);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = |error: io::Error| format!("running {} failed: {error}", program.display());
    let mut tool = command.spawn().map_err(start)?;
    let words = LastWords::listen(tool.stderr.take());
    let status = tool.wait().map_err(start)?;
    // Nobody may write to the image once it is looked at.
    offspring::end_all()?;
    if !status.success() {
        return Err(refused(&program, status, &words.text(READING)));
    }
    let bytes = File::open(&job.output).and_then(|image| superblock(&image, &job.uuid));
    let bytes = bytes.map_err(|error| format!("{} made no whole image: {error}", program.display()))?;
    Ok((0, bytes))
}

/// Bytes of an image whose superblock (`struct erofs_super_block`, fs/erofs/erofs_fs.h in the Linux source) has this
/// UUID and speaks of no more than there is.
fn superblock(image: &File, uuid: &str) -> io::Result<u64> {
    let mut bytes = [0; 128];
    image.read_exact_at(&mut bytes, 1024)?;
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let found: String = bytes[48..64].iter().map(|byte| format!("{byte:02x}")).collect();
    let bits = bytes[12];
    let wrong = |why: String| Err(io::Error::other(why));
    if number(0) != 0xE0F5_E1E2 {
        return wrong("it lacks the file system's mark".to_owned());
    }
    if found != uuid.replace('-', "") {
        return wrong(format!("its UUID is {found} and not {uuid}"));
    }
    let present = image.metadata()?.len();
    match u64::from(number(36)).checked_shl(bits.into()).filter(|_| (9..=16).contains(&bits)) {
        Some(needed) if needed <= present => Ok(present),
        Some(needed) => wrong(format!("it has {present} of {needed} bytes")),
        None => wrong(format!("blocks of 2^{bits} bytes")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn words(options: &[&str]) -> Vec<String> {
        options.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn options_that_would_change_more_than_compression_stop_the_gateway() {
        for (options, expected) in [
            (&["-zlz4"][..], None),
            (&["-zlz4hc,12", "-C65536"], None),
            (&["-T0"], Some("\"-T0\" is no option")),
            (&["--blobdev=/dev/sda"], Some("\"--blobdev=/dev/sda\" is no option")),
            (&["-z"], Some("\"-z\" is no option")),
            (&["/etc"], Some("\"/etc\" is no option")),
            (&["-zlzw"], Some("compressor")),
        ] {
            let checked = check(&words(options));
            match expected {
                None => assert_eq!(checked, Ok(()), "{options:?}"),
                Some(part) => assert!(checked.as_ref().is_err_and(|why| why.contains(part)), "{checked:?}"),
            }
        }
    }

    #[test]
    fn an_image_that_is_cut_off_or_not_the_one_asked_for_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, output) = (dir.path().join("tree"), dir.path().join("image"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), (0..=255).cycle().take(100_000).collect::<Vec<u8>>()).unwrap();
        let uuid = uuid(ID);
        assert_eq!(uuid, "00112233-4455-6677-8899-aabbccddeeff");
        let status = command(&locate().unwrap(), &tree, &output, &uuid, dir.path(), &[]).status().unwrap();
        assert!(status.success());
        let bytes = std::fs::read(&output).unwrap();
        let judged = |bytes: &[u8], uuid: &str| {
            std::fs::write(&output, bytes).unwrap();
            superblock(&File::open(&output).unwrap(), uuid).map_err(|error| error.to_string())
        };
        assert_eq!(judged(&bytes, &uuid), Ok(bytes.len() as u64));
        assert!(judged(&bytes[..bytes.len() - 1], &uuid).unwrap_err().starts_with("it has "));
        assert!(judged(&bytes[..1000], &uuid).is_err());
        assert!(judged(&bytes, &super::uuid("")).unwrap_err().starts_with("its UUID is 0011"));
        assert!(judged(&[0; 4096], &uuid).unwrap_err().contains("mark"));
    }
}
