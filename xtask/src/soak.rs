//! `cargo xtask soak`: many more random trees through the squashfs writer than `./test` has time for.
//!
//! It runs the writer's own test of random trees (`crates/shifter-squashfs/tests/writer/random.rs`) with another number
//! and another first seed, so there is one generator and one comparison. Every tree is read by a mount, by
//! `unsquashfs` and by our reader. Needs root, as that test does.

use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// Trees, where no number is given.
const TREES: u64 = 10_000;

/// Runs so many trees (default 10,000) from a seed on (default: the time of day), and says which and what came of it.
pub(super) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let number = |place: usize, what: &str| {
        words
            .get(place)
            .map(|word| word.parse::<u64>().with_context(|| format!("{what} is a number, not {word:?}")))
    };
    let trees = number(0, "how many trees").transpose()?.unwrap_or(TREES);
    let seed = match number(1, "the seed").transpose()? {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs(),
    };
    println!("soak: {trees} random trees, seeds {seed} to {}", seed.saturating_add(trees).saturating_sub(1));
    let start = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["test", "--locked", "--quiet", "--package", "shifter-squashfs", "--test", "writer"])
        .args(["--", "--exact", "random::random_trees_read_back", "--nocapture"])
        .env("SHIFTER_TEST_TREES", trees.to_string())
        .env("SHIFTER_TEST_SEED", seed.to_string())
        .current_dir(root)
        .status()
        .context("run cargo test")?;
    let result = if status.success() { "all read back" } else { "FAILED; the seeds are named above" };
    println!("soak: {trees} random trees from seed {seed}: {result} ({} s)", start.elapsed().as_secs());
    Ok(status.success())
}
