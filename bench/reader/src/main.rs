//! Looks at and reads every file below a directory, once for each line on standard input; the library says how.

use anyhow::{Context as _, Result};
use std::path::Path;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: bench-reader DIRECTORY")?;
    bench_reader::read_when_told(Path::new(&directory))
}
