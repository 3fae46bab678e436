//! Looks at and reads every file below a directory, once for each line on standard input, and prints how many
//! microseconds that took. The first line it prints is the number of files.
//!
//! Paths are relative to the directory, so that a long way to it costs nothing.

use anyhow::{Context as _, Result};
use std::fs;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<()> {
    let directory = std::env::args().nth(1).context("usage: bench-reader DIRECTORY")?;
    std::env::set_current_dir(&directory).with_context(|| format!("enter {directory}"))?;
    let mut files = Vec::new();
    collect(Path::new("."), &mut files)?;
    println!("{}", files.len());
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

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
