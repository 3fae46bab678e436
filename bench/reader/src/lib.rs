//! Both ends of a pipe to a process that looks at and reads every file below a directory when told, and says how
//! long that took: [`read_when_told`] in the process that reads, [`Reader`] in the one that tells.
//!
//! The first line is `FILES DEVICE`: how many files there are, and the `st_dev` of the directory. Every further one
//! is a reading's microseconds. It judges nothing.

use anyhow::{Context as _, Result, bail};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Reads every file below `directory` once for each line on standard input. It goes there first, so that a long way
/// to it costs nothing.
pub fn read_when_told(directory: &Path) -> Result<()> {
    std::env::set_current_dir(directory).with_context(|| format!("enter {}", directory.display()))?;
    let files = files_below(Path::new("."))?;
    println!("{} {}", files.len(), fs::metadata(".")?.dev());
    let mut buffer = [0; 4096];
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        for file in &files {
            fs::metadata(file)?;
            let mut open = fs::File::open(file)?;
            while open.read(&mut buffer)? > 0 {}
        }
        println!("{}", start.elapsed().as_secs_f64() * 1e6);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The regular files below a directory; links and others are left out.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let entry = entry.with_context(|| format!("list {}", directory.display()))?;
            let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// A process that runs [`read_when_told`].
pub struct Reader {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Reader {
    /// Starts it, and does not wait until it is ready: [`Reader::ready`] does.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a reader")?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (to, from) = (to.context("its stdin")?, from.context("its stdout")?);
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    /// Waits until it has found its files, which must be so many; returns the `st_dev` they are on.
    pub fn ready(&mut self, expected: usize) -> Result<u64> {
        let line = self.line()?;
        let (files, device) = line.split_once(' ').with_context(|| format!("a reader said {line:?}"))?;
        if files.parse() != Ok(expected) {
            bail!("a reader sees {files} files instead of {expected}");
        }
        device.parse().with_context(|| format!("a reader said {line:?}"))
    }

    /// Tells it to read everything once.
    pub fn tell(&mut self) -> Result<()> {
        writeln!(self.to).context("tell a reader to read")
    }

    /// Waits for the end of what it was told; returns the microseconds it took.
    pub fn answer(&mut self) -> Result<f64> {
        let line = self.line()?;
        line.parse().with_context(|| format!("a reader said {line:?}"))
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        let Self { mut child, to, .. } = self;
        drop(to);
        let status = child.wait().context("wait for a reader")?;
        if status.success() { Ok(()) } else { bail!("a reader ended with {status}") }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line).context("read what a reader says")?;
        Ok(line.trim().to_owned())
    }
}
