//! One conversion: the tool as a child, the stream into its pipe, and either a complete image or nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::converter::SEARCH_PATH;
use crate::error::ConvertError;
use crate::options::Options;
use crate::superblock::Superblock;

/// What is kept of the beginning and of the end of a tool's standard error. mksquashfs names a wrong option
/// first and then prints pages of help; on other failures the last words count.
const MESSAGE_BYTES: usize = 600;
/// How long after a tool's end its standard error may stay open: something that it started may have it.
const READING: Duration = Duration::from_millis(500);
/// More than any tool writes at once: when this does not fit, the disk was what it failed on.
const SPACE_PROBE_BYTES: usize = 2 << 20;

/// Makes the image `output`, which must not exist or be an empty file, of the tar stream that `feed` writes.
///
/// The image is private to the caller (mode 0600), complete, synced and has a valid superblock when this
/// returns successfully; on any failure the file is removed. The name itself is not synced: publishing is
/// the caller's.
pub fn convert<T, E>(
    options: &Options,
    output: &Path,
    feed: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, ConvertError<E>> {
    let program = options.converter.locate()?;
    let path = std::path::absolute(output).map_err(|source| output_error("name", output, source))?;
    let arguments = options.arguments(&path)?;
    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| output_error("create", &path, source))?;
    if image.metadata().map_err(|source| output_error("examine", &path, source))?.len() != 0 {
        return Err(output_error("create", &path, io::ErrorKind::AlreadyExists.into()));
    }
    let unfinished = RemovedUnlessKept { path: path.clone(), kept: false };

    let mut command = Command::new(&program);
    command.args(&arguments).env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|source| ConvertError::Start { program, source })?;

    let fed = run(child, feed).map_err(|source| output_error("convert to", &path, source))?;
    if !fed.status.success() || fed.pipe_broke {
        // A tool that fails because the stream stopped halfway is no news; why it stopped is.
        if let (Err(error), false) = (fed.result, fed.pipe_broke) {
            return Err(ConvertError::Feed(error));
        }
        if is_full(&image) {
            return Err(ConvertError::NoSpace { path });
        }
        let (converter, status, message) = (options.converter, fed.status, fed.message);
        return Err(ConvertError::Tool { converter, path, status, message });
    }
    let value = fed.result.map_err(ConvertError::Feed)?;
    check(options, &path)?;
    unfinished.keep();
    Ok(value)
}

/// What is left when the child is gone.
struct Fed<T, E> {
    result: Result<T, E>,
    pipe_broke: bool,
    status: std::process::ExitStatus,
    message: String,
}

fn run<T, E>(mut child: Child, feed: impl FnOnce(&mut dyn Write) -> Result<T, E>) -> io::Result<Fed<T, E>> {
    let (Some(stdin), Some(mut stderr)) = (child.stdin.take(), child.stderr.take()) else {
        end(&mut child);
        return Err(io::Error::other("the converter has no pipes"));
    };
    let listener = thread::Builder::new()
        .name("converter-stderr".into())
        .spawn(move || first_and_last_words(&mut stderr));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            end(&mut child);
            return Err(error);
        }
    };
    let mut pipe = Pipe { stdin, broke: false };
    let result = feed(&mut pipe);
    let pipe_broke = pipe.broke;
    if result.is_err() && !pipe_broke {
        // Before the pipe closes, so that the tool cannot take what it has for a whole image.
        end(&mut child);
    }
    drop(pipe);
    let status = child.wait()?;
    let message = end_of_words(listener);
    Ok(Fed { result, pipe_broke, status, message })
}

/// What was said, unless somebody may yet say more.
fn end_of_words(listener: JoinHandle<String>) -> String {
    let begun = Instant::now();
    while !listener.is_finished() {
        if begun.elapsed() > READING {
            return "what it said is not known, because something that it started still runs".to_owned();
        }
        thread::sleep(Duration::from_millis(2));
    }
    listener.join().unwrap_or_default()
}

/// Kills and reaps; both can only fail when the child is gone already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The child's standard input; remembers that the child stopped reading, whatever the feeder makes of it.
struct Pipe {
    stdin: ChildStdin,
    broke: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.stdin.write(bytes);
        if let Err(error) = &result {
            self.broke |= error.kind() == io::ErrorKind::BrokenPipe;
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

/// Reads to the end, keeps the first and last bytes, and makes them one line without control characters.
fn first_and_last_words(stderr: &mut dyn Read) -> String {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut left_out = false;
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let fresh = buffer.get(..count).unwrap_or_default();
        let (head, tail) = fresh.split_at(count.min(MESSAGE_BYTES - first.len()));
        first.extend_from_slice(head);
        last.extend_from_slice(tail);
        let surplus = last.len().saturating_sub(MESSAGE_BYTES);
        last.drain(..surplus);
        left_out |= surplus > 0;
    }
    if left_out {
        first.extend_from_slice(b"\n...\n");
    }
    first.extend_from_slice(&last);
    let lines: Vec<String> = String::from_utf8_lossy(&first)
        .lines()
        .map(|line| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() { "it gave no reason".to_owned() } else { lines.join("; ") }
}

/// Whether the output's file system takes no more. tar2sqfs only says "I/O error" then. Our descriptor keeps
/// what was written allocated even when the tool has removed the name, so the answer is still the tool's.
fn is_full(image: &File) -> bool {
    let end = image.metadata().map_or(0, |status| status.len());
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    image.write_all_at(&vec![1; SPACE_PROBE_BYTES], end).is_err_and(|error| full.contains(&error.kind()))
}

fn check<E>(options: &Options, path: &Path) -> Result<(), ConvertError<E>> {
    let image = File::open(path).map_err(|source| output_error("open", path, source))?;
    let converter = options.converter;
    Superblock::read(&image).map_err(|source| ConvertError::Invalid {
        converter,
        path: path.to_owned(),
        source,
    })?;
    image.sync_all().map_err(|source| output_error("sync", path, source))
}

fn output_error<E>(operation: &'static str, path: &Path, source: io::Error) -> ConvertError<E> {
    if source.kind() == io::ErrorKind::StorageFull {
        return ConvertError::NoSpace { path: path.to_owned() };
    }
    ConvertError::Output { operation, path: path.to_owned(), source }
}

/// Removes the file when dropped; also when the feeder panics.
struct RemovedUnlessKept {
    path: PathBuf,
    kept: bool,
}

impl RemovedUnlessKept {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for RemovedUnlessKept {
    fn drop(&mut self) {
        if !self.kept {
            // The tools remove their output on some failures themselves.
            let _ = fs::remove_file(&self.path);
        }
    }
}
