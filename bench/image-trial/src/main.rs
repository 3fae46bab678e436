//! Codecs, block sizes and writers of images, compared by what conversion costs, how large images are, and how fast the
//! kernel reads them. The decision and its figures are in ARCHITECTURE.md.
//!
//! `bench/image` runs it as root in a mount namespace of its own. All images take turns within each round, so that a
//! busy minute falls on all of them alike, and what counts are ratios to the default's image in the same round.

mod make;
mod read;
mod tree;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use make::{Cost, RECIPES, Recipe, Workshop};
use read::{Times, Took, WORKLOADS};

/// Times after which no further round begins.
const USUAL: Duration = Duration::from_secs(30);
const FULL: Duration = Duration::from_secs(400);
/// Rounds before that.
const LEAST_ROUNDS: usize = 1;

struct Samples {
    recipe: Recipe,
    costs: Vec<Cost>,
    size: u64,
    /// By round: cold and warm.
    times: Vec<[Times; 2]>,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (gateway, folder, is_full) = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [gateway, folder] => (*gateway, *folder, false),
        [gateway, folder, "--full"] => (*gateway, *folder, true),
        _ => bail!("usage: bench-image GATEWAY FOLDER [--full]"),
    };
    let folder = PathBuf::from(folder);
    let version =
        Command::new(gateway).arg("--version").output().with_context(|| format!("run {gateway}"))?;
    let version = String::from_utf8_lossy(&version.stdout).split_whitespace().last().unwrap_or("").to_owned();
    let workshop = Workshop {
        gateway: PathBuf::from(gateway),
        version,
        tree: folder.join("tree"),
        layer: folder.join("layer.tar"),
        images: folder.join("images"),
    };
    std::fs::create_dir(&workshop.images)?;
    let place = folder.join("mount");
    std::fs::create_dir(&place)?;
    tree::grow(&workshop.tree, &workshop.gateway)?;
    tree::archive(&workshop.tree, &workshop.layer)?;

    let mut all: Vec<Samples> = RECIPES
        .into_iter()
        .filter(|recipe| is_full || recipe.is_usual)
        .map(|recipe| Samples { recipe, costs: Vec::new(), size: 0, times: Vec::new() })
        .collect();
    let start = Instant::now();
    for samples in &mut all {
        samples.costs.push(workshop.make(&samples.recipe)?);
        samples.size = std::fs::metadata(workshop.image(&samples.recipe))?.len();
    }
    let limit = if is_full { FULL } else { USUAL };
    for round in 0.. {
        if round >= LEAST_ROUNDS && start.elapsed() > limit {
            break;
        }
        let count = all.len();
        for turn in 0..count {
            let samples = &mut all[(turn + round) % count];
            samples.times.push(read::measure(&workshop.image(&samples.recipe), &place)?);
        }
        // Those that are compared are made again; once is enough for the others.
        for samples in &mut all[..2] {
            samples.costs.push(workshop.make(&samples.recipe)?);
        }
    }
    report(&all);
    Ok(())
}

/// Median, p10 and p90; nothing of nothing.
fn quantiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values.get(((values.len().checked_sub(1)?) as f64 * part).round() as usize).copied();
    Some([at(0.5)?, at(0.1)?, at(0.9)?])
}

/// A recipe's times over the default's in the same round, and its least over the default's least: what else goes on
/// in the machine only ever adds.
fn ratios(
    samples: &Samples,
    base: &Samples,
    warm: usize,
    workload: usize,
    of: Part,
) -> Option<([f64; 3], f64)> {
    let pairs = samples.times.iter().zip(&base.times);
    let ratio =
        |(one, two): (&[Times; 2], &[Times; 2])| Some(of(&one[warm][workload]?) / of(&two[warm][workload]?));
    let least = |samples: &Samples| {
        let times = samples.times.iter().filter_map(|times| times[warm][workload]);
        times.map(|took| of(&took)).fold(f64::INFINITY, f64::min)
    };
    Some((quantiles(pairs.filter_map(ratio).collect())?, least(samples) / least(base)))
}

/// Which of the two times.
type Part = fn(&Took) -> f64;
const PARTS: [(&str, Part); 2] = [("cpu", |took| took.cpu), ("wall", |took| took.wall)];

fn report(all: &[Samples]) {
    let Some(base) = all.first() else { return };
    println!("{:<34} {:>7} {:>7} {:>9}", "making the image", "CPU s", "wall s", "size MiB");
    let mut figures = format!("\"rounds\":{}", base.times.len());
    for Samples { recipe, costs, size, .. } in all {
        let median = |of: fn(&Cost) -> f64| {
            quantiles(costs.iter().map(of).collect()).map_or(f64::NAN, |[median, ..]| median)
        };
        let (cpu, wall, mib) =
            (median(|cost| cost.cpu), median(|cost| cost.wall), *size as f64 / f64::from(1 << 20));
        println!("{:<34} {cpu:>7.2} {wall:>7.2} {mib:>9.1}", recipe.title);
        figures += &format!(",\"{0}_cpu_s\":{cpu:.2},\"{0}_mib\":{mib:.1}", recipe.key);
    }
    for (warm, state) in ["cold", "warm"].into_iter().enumerate() {
        for (workload, (key, title)) in WORKLOADS.iter().enumerate() {
            let own = |of: Part| {
                let times = base.times.iter().filter_map(|times| times[warm][workload]);
                quantiles(times.map(|took| of(&took)).collect())
            };
            let [Some([cpu, ..]), Some([wall, ..])] = PARTS.map(|(_, of)| own(of)) else {
                println!("\n{state}: {title}: not measured, there is no Python here");
                continue;
            };
            println!(
                "\n{state}: {title}; the default takes {cpu:.1} ms of a processor, {wall:.1} ms by the clock"
            );
            println!("    {:<34} {:<36} by the clock", "over the default (p10 to p90), least", "processor");
            figures += &format!(",\"{state}_{key}_cpu_ms\":{cpu:.2},\"{state}_{key}_wall_ms\":{wall:.2}");
            for samples in &all[1..] {
                let mut line = format!("    {:<34}", samples.recipe.title);
                for (part, of) in PARTS {
                    let Some(([median, p10, p90], least)) = ratios(samples, base, warm, workload, of) else {
                        continue;
                    };
                    line += &format!(" {median:>6.3} ({p10:.3} to {p90:.3}), {least:.3}     ");
                    figures += &format!(",\"{}_{state}_{key}_{part}\":{median:.3}", samples.recipe.key);
                    figures += &format!(",\"{}_{state}_{key}_{part}_least\":{least:.3}", samples.recipe.key);
                }
                println!("{line}");
            }
        }
    }
    println!("\n{} rounds", base.times.len());
    println!("{{\"bench\":\"image\",\"figures\":{{{figures}}}}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let backwards: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        for (values, expected) in
            [(backwards, Some([50.0, 10.0, 90.0])), (vec![7.0], Some([7.0; 3])), (Vec::new(), None)]
        {
            assert_eq!(quantiles(values), expected);
        }
    }
}
