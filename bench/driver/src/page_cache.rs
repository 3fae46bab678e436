//! What 64 ranks that read the same image at once keep in memory: how much "Cached" of `/proc/meminfo` grows by, and
//! whether all look at one loop device and one file system.
//!
//! One image is what one rank keeps of it: somewhat more than the files' sizes, also where the image is mounted by
//! hand (12 per cent with 128 KiB blocks on Linux 6.18), because the kernel keeps the ends of compressed blocks too.
//! Of a file smaller than a block read-ahead may even keep a whole block, so only large files are read.
//!
//! Every reading is the first after the image was mounted, so nothing of it is in memory before and no caches need to
//! be dropped; what others had in memory and would read again would be counted too. What others do read, write or
//! delete meanwhile is counted: hence the median of several rounds, and "Shmem" is taken off. The image lies in a
//! tmpfs, so its own bytes are in neither difference.

use crate::image::{FRESH, LARGE_FILE, LARGE_FILES};
use crate::report::quantiles;
use crate::variants::{command, devices_of, of_image, program, wait_until_detached};
use anyhow::{Context as _, Result, bail};
use bench_reader::Reader;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const RANKS: usize = 64;
/// Rounds, and the time after which no further one begins.
const ROUNDS: usize = 9;
const LIMIT: Duration = Duration::from_secs(20);
const SIZE: usize = LARGE_FILES * LARGE_FILE;

/// Measures and prints; returns figures, each with a comma before it.
pub(crate) fn measure() -> Result<String> {
    let (mut one, mut all) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while all.len() < ROUNDS && (all.is_empty() || start.elapsed() < LIMIT) {
        one.push(growth(1)?);
        all.push(growth(RANKS)?);
    }
    println!();
    println!("{:<30} {:>8} {:>8} {:>8}", "growth of Cached over sizes", "median", "p10", "p90");
    let mut medians = [0.0; 2];
    for ((title, growths), median) in
        [("one rank", &one), ("64 ranks at once", &all)].into_iter().zip(&mut medians)
    {
        let [middle, p10, p90] = quantiles(growths).context("nothing was measured")?;
        println!("{title:<30} {middle:>8.3} {p10:>8.3} {p90:>8.3}");
        *median = middle;
    }
    println!("{} rounds, {} MiB of files; always one loop device and one file system", all.len(), SIZE >> 20);
    let [one, all] = medians;
    Ok(format!(
        ",\"ranks\":{RANKS},\"loop_devices\":1,\"file_systems\":1,\"cached_growth_over_image\":{:.3},\
         \"cached_growth_over_file_sizes\":{all:.3},\"cached_growth_of_one_rank_over_file_sizes\":{one:.3}",
        all / one
    ))
}

/// By how many times the files' sizes memory grows while so many new ranks read everything at once; fails unless they share one loop
/// device and one file system.
fn growth(ranks: usize) -> Result<f64> {
    wait_until_detached(FRESH)?;
    let argv = ["/usr/bin/bench-reader", "/usr/share/large"].map(str::to_owned);
    let argv = [&[program("shifter"), of_image(FRESH)], &argv[..]].concat();
    let mut readers: Vec<Reader> = (0..ranks)
        .map(|_| Reader::spawn(command(&argv)))
        .collect::<Result<_>>()
        .context("start the ranks")?;
    let file_systems: BTreeSet<u64> =
        readers.iter_mut().map(|reader| reader.ready(LARGE_FILES)).collect::<Result<_>>()?;
    let loops = devices_of(FRESH)?;
    if loops.len() != 1 || file_systems.len() != 1 {
        bail!(
            "{ranks} ranks on one image are on {} loop devices and {} file systems",
            loops.len(),
            file_systems.len()
        );
    }
    let before = cached()?;
    readers.iter_mut().try_for_each(Reader::tell)?;
    for reader in &mut readers {
        reader.answer()?;
    }
    let after = cached()?;
    readers.into_iter().try_for_each(Reader::stop)?;
    Ok((after - before) / SIZE as f64)
}

/// "Cached" without "Shmem" of proc_meminfo(5), in bytes.
fn cached() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let bytes = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        let kibibytes: Option<f64> = line.and_then(|number| number.trim().parse().ok());
        Ok(kibibytes.with_context(|| format!("/proc/meminfo has no line {name}"))? * 1024.0)
    };
    Ok(bytes("Cached:")? - bytes("Shmem:")?)
}
