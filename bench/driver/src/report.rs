//! Quantiles, the table for people and the last line for programs.

use crate::measure::Samples;
use crate::variants::Variant;
use anyhow::{Context as _, Result};

/// A variant's times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    median: f64,
    p10: f64,
    p90: f64,
}

fn summary(samples: &[f64]) -> Option<Summary> {
    let [median, p10, p90] = quantiles(samples)?;
    Some(Summary { median, p10, p90 })
}

/// Median, first and last decile by nearest rank; nothing of nothing.
pub(crate) fn quantiles(samples: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some([0.5, 0.1, 0.9].map(|share| sorted[(last as f64 * share).round() as usize]))
}

/// Prints table, remarks and figures.
pub(crate) fn print(variants: &[Variant], samples: &Samples, absent: &[(&str, String)]) -> Result<()> {
    let rows: Vec<(&Variant, Summary, usize)> = variants
        .iter()
        .zip(samples)
        .map(|(variant, samples)| Some((variant, summary(samples)?, samples.len())))
        .collect::<Option<_>>()
        .context("nothing was measured")?;
    let of = |key: &str| rows.iter().find(|row| row.0.key == key).map(|row| row.1);
    let exec = of("exec").context("plain exec was not measured")?;
    println!();
    println!(
        "{:<44} {:>8} {:>8} {:>8} {:>7} {:>10} {:>6}",
        "ms, start to end", "median", "p10", "p90", "spread", "over exec", "times"
    );
    for (variant, row, times) in &rows {
        println!(
            "{:<44} {:>8.3} {:>8.3} {:>8.3} {:>6.0}% {:>10.3} {times:>6}",
            variant.title,
            row.median / 1e3,
            row.p10 / 1e3,
            row.p90 / 1e3,
            (row.p90 - row.p10) / row.median * 100.0,
            (row.median - exec.median) / 1e3,
        );
    }
    absent.iter().for_each(|(title, reason)| println!("{title:<44} {reason}"));
    let rounds = rows.iter().map(|row| row.2).max().unwrap_or(0);
    println!("{rounds} rounds, all rows of a round one after the other; spread is (p90 - p10) / median");
    println!("{}", figures(&|key| of(key).map(|row| row.median), &|key| of(key).map(|row| row.p10), rounds));
    Ok(())
}

type Figure<'a> = &'a dyn Fn(&str) -> Option<f64>;

/// One line of JSON. A ratio's name says of what to what; what was not measured is left out.
fn figures(median: Figure<'_>, p10: Figure<'_>, rounds: usize) -> String {
    let over = |a: &str, b: &str, of: Figure<'_>| Some(of(a)? / of(b)?);
    let above = |a: &str, b: &str| Some((median(a)? - median(b)?) / 1e3);
    // What a quiet machine would show: a busy one's medians are mostly waiting for a processor.
    let lucky = |key: &str| Some((p10(key)? - p10("exec")?) / 1e3);
    let net = |a: &str, b: &str| Some(above(a, "exec")? / above(b, "exec")?);
    let ms = |key: &str| Some(median(key)? / 1e3);
    let all = [
        ("private_over_floor", over("private", "floor", median)),
        ("private_over_floor_p10", over("private", "floor", p10)),
        ("private_over_floor_above_exec", net("private", "floor")),
        ("private_over_exec_ms", above("private", "exec")),
        ("private_over_exec_p10_ms", lucky("private")),
        ("first_over_exec_ms", above("first", "exec")),
        ("first_over_exec_p10_ms", lucky("first")),
        ("first_over_floor", over("first", "floor_first", median)),
        ("shared_over_exec_ms", above("private", "exec")),
        ("prepared_over_exec_ms", above("prepared", "exec")),
        ("prepared_over_exec_p10_ms", lucky("prepared")),
        ("setuproot_ms", above("setuproot", "root_exec")),
        ("setuproot_module_ms", above("setuproot_module", "root_exec")),
        ("module_over_exec_ms", above("module", "exec")),
        // A user whom only a directory service knows, and an image named by its tag.
        ("nss_ms", above("nss", "private")),
        ("lookup_ms", above("lookup", "lookup_id")),
        ("exec_ms", ms("exec")),
        ("floor_ms", ms("floor")),
        ("private_ms", ms("private")),
        ("floor_first_ms", ms("floor_first")),
        ("first_ms", ms("first")),
        ("private_glibc_ms", ms("private_glibc")),
        ("bwrap_ms", ms("bwrap")),
        ("charliecloud_ms", ms("charliecloud")),
        ("crun_ms", ms("crun")),
        ("podman_ms", ms("podman")),
        ("bwrap_over_private", over("bwrap", "private", median)),
        ("charliecloud_over_private", over("charliecloud", "private", median)),
        ("crun_over_private", over("crun", "private", median)),
        ("podman_over_private", over("podman", "private", median)),
    ];
    let mut line = format!("{{\"bench\":\"start\",\"figures\":{{\"rounds\":{rounds}");
    for (name, value) in all.iter().filter_map(|(name, value)| Some((name, value.filter(|v| v.is_finite())?)))
    {
        line += &format!(",\"{name}\":{value:.3}");
    }
    line + "}}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let backwards: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        for (samples, expected) in [
            (&backwards[..], Some(Summary { median: 50.0, p10: 10.0, p90: 90.0 })),
            (&[7.0], Some(Summary { median: 7.0, p10: 7.0, p90: 7.0 })),
            (&[], None),
        ] {
            assert_eq!(summary(samples), expected);
        }
    }

    #[test]
    fn the_last_line_is_json_without_what_was_not_measured() {
        let times = |key: &str| match key {
            "exec" => Some(100.0),
            "floor" => Some(300.0),
            "private" => Some(360.0),
            "nss" => Some(2360.0),
            "lookup" => Some(4000.0), // and no "lookup_id" to compare it with
            _ => None,
        };
        assert_eq!(
            figures(&times, &times, 3),
            "{\"bench\":\"start\",\"figures\":{\"rounds\":3,\"private_over_floor\":1.200,\
             \"private_over_floor_p10\":1.200,\"private_over_floor_above_exec\":1.300,\
             \"private_over_exec_ms\":0.260,\"private_over_exec_p10_ms\":0.260,\"shared_over_exec_ms\":0.260,\"nss_ms\":2.000,\
             \"exec_ms\":0.100,\"floor_ms\":0.300,\"private_ms\":0.360}}"
        );
    }
}
