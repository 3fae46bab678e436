//! `cargo xtask soak`: many more random trees through the squashfs writer than `./test` has time for;
//! `cargo xtask soak gateway`: two hundred clients of a gateway whose parts are killed, for longer;
//! `cargo xtask soak large`: the images that are too large for `./test`; and
//! `cargo xtask soak openssh`: whether two builds of containers' OpenSSH are equal (`soak/openssh.rs`).
//!
//! The first runs the writer's own test of random trees (`crates/shifter-squashfs/tests/writer/random.rs`) with another number
//! and another first seed, so there is one generator and one comparison. Every tree is read by a mount, by
//! `unsquashfs` and by our reader. The second runs `tests/tests/crowd.rs` with the programs that `./test` built last, or
//! those in `SHIFTER_BIN_DIR`; so does the third with all ignored tests of `tests/tests/umoci`, after those of the
//! writer's own that are about size. All need root, as those tests do.

mod openssh;

use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// Trees, where no number is given.
const TREES: u64 = 10_000;

/// Seconds of the gateway's soak on each database, where no number is given.
const SECONDS: u64 = 600;

/// The writer's tests that `./test` leaves out.
const LARGE: &str = "large::data_beyond_four_gibibytes_of_image_reads_back";

/// Runs what `./test` leaves out because of its size: 20 GB of disk, a quarter of an hour.
fn run_large(root: &Path) -> Result<bool> {
    println!("soak: an image of more than 4 GiB, files of more than 8 GiB, 500,000 entries");
    let mut writer = cargo();
    writer.args(["test", "--locked", "--quiet", "--package", "shifter-squashfs", "--test", "writer"]);
    writer.args(["--", "--ignored", "--exact", LARGE]).current_dir(root);
    let mut umoci = cargo();
    umoci.args(["test", "--locked", "--quiet", "--test", "umoci", "--", "--ignored", "--test-threads=1"]);
    umoci.env("SHIFTER_BIN_DIR", programs(root)).env("CARGO_TARGET_DIR", tests_target(root));
    umoci.current_dir(root.join("tests"));
    for command in [&mut writer, &mut umoci] {
        let start = Instant::now();
        let status = command.status().context("run cargo test")?;
        println!(
            "soak: {} ({} s)",
            if status.success() { "passed" } else { "FAILED" },
            start.elapsed().as_secs()
        );
        if !status.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where the programs are that `./test` built last, unless others are named.
fn programs(root: &Path) -> std::path::PathBuf {
    std::env::var_os("SHIFTER_BIN_DIR")
        .map(Into::into)
        .or_else(|| Some(Path::new(&std::env::var_os("CARGO_TARGET_DIR")?).join("programs")))
        .unwrap_or_else(|| root.join("target/programs"))
}

/// Runs the gateway's crowd for so many seconds (default 600) with a seed (default: the time of day).
fn run_gateway(root: &Path, seconds: u64, seed: u64) -> Result<bool> {
    println!("soak: 200 clients for {seconds} s on each database, seed {seed}");
    let status = cargo()
        .args(["test", "--locked", "--quiet", "--test", "crowd", "--", "--nocapture", "--test-threads=1"])
        .env("SHIFTER_TEST_SECONDS", seconds.to_string())
        .env("SHIFTER_TEST_SEED", seed.to_string())
        .env("SHIFTER_BIN_DIR", programs(root))
        .env("CARGO_TARGET_DIR", tests_target(root))
        .current_dir(root.join("tests"))
        .status()
        .context("run cargo test")?;
    Ok(status.success())
}

/// Where `./test` builds the workspace of tests.
fn tests_target(root: &Path) -> std::path::PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => Path::new(&target).join("tests"),
        None => root.join("tests/target"),
    }
}

/// Runs so many trees (default 10,000) from a seed on (default: the time of day), and says which and what came of it.
pub(super) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let number = |place: usize, what: &str| {
        words
            .get(place)
            .map(|word| word.parse::<u64>().with_context(|| format!("{what} is a number, not {word:?}")))
    };
    let by_clock = || -> Result<u64> {
        Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs())
    };
    if words.first() == Some(&"gateway") {
        let seconds = number(1, "how many seconds").transpose()?.unwrap_or(SECONDS);
        let seed = number(2, "the seed").transpose()?;
        return run_gateway(root, seconds, seed.map_or_else(by_clock, Ok)?);
    }
    if words == ["openssh"] {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
        return openssh::run(root, &target.join(format!("soak-openssh-{}", std::process::id())));
    }
    if words == ["large"] {
        return run_large(root);
    }
    let trees = number(0, "how many trees").transpose()?.unwrap_or(TREES);
    let seed = number(1, "the seed").transpose()?.map_or_else(by_clock, Ok)?;
    println!("soak: {trees} random trees, seeds {seed} to {}", seed.saturating_add(trees).saturating_sub(1));
    let start = Instant::now();
    let status = cargo()
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
