//! Medians, the table for people and the last line for programs.

use std::fmt::Write as _;

use crate::site::Cost;

/// What one side has cost, once per round.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) costs: Vec<Cost>,
}

impl Row {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, costs: Vec::new() }
    }

    /// Median seconds of processor time.
    pub(crate) fn cpu(&self) -> Option<f64> {
        median(&self.costs.iter().map(|cost| cost.cpu.as_secs_f64()).collect::<Vec<_>>())
    }

    /// Median seconds from start to end.
    pub(crate) fn wall(&self) -> Option<f64> {
        median(&self.costs.iter().map(|cost| cost.wall.as_secs_f64()).collect::<Vec<_>>())
    }

    /// The largest memory seen, MiB.
    pub(crate) fn resident(&self) -> Option<f64> {
        self.costs.iter().map(|cost| cost.peak.resident).max().map(mib)
    }

    /// The bound on memory that may not have been seen, MiB.
    pub(crate) fn bound(&self) -> Option<f64> {
        self.costs.iter().map(|cost| cost.peak.bound).max().map(mib)
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((lower + upper) / 2.0)
}

/// `(largest - smallest) / median`, in percent.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let largest = values.iter().copied().max_by(f64::total_cmp)?;
    let smallest = values.iter().copied().min_by(f64::total_cmp)?;
    Some((largest - smallest) / median(values)? * 100.0)
}

/// How many times the processor time of `other` each cost of `row` is, round by round.
pub(crate) fn cpu_ratios(row: &Row, other: &Row) -> Vec<f64> {
    let pairs = row.costs.iter().zip(&other.costs);
    pairs.map(|(cost, other)| cost.cpu.as_secs_f64() / other.cpu.as_secs_f64()).collect()
}

/// Prints the rows that have costs.
pub(crate) fn print(rows: &[&Row], absent: &[String]) {
    println!();
    println!(
        "{:<46} {:>2} {:>8} {:>6} {:>8} {:>6} {:>9} {:>9}",
        "", "n", "wall s", "spread", "CPU s", "spread", "RSS MiB", "HWM MiB"
    );
    for row in rows {
        let of = |value: fn(&Cost) -> f64| row.costs.iter().map(value).collect::<Vec<_>>();
        let walls = of(|cost| cost.wall.as_secs_f64());
        let cpus = of(|cost| cost.cpu.as_secs_f64());
        let (Some(wall), Some(cpu), Some(resident), Some(bound)) =
            (row.wall(), row.cpu(), row.resident(), row.bound())
        else {
            continue;
        };
        println!(
            "{:<46} {:>2} {wall:>8.3} {:>5.0}% {cpu:>8.3} {:>5.0}% {resident:>9.1} {bound:>9.1}",
            row.title,
            row.costs.len(),
            spread(&walls).unwrap_or(0.0),
            spread(&cpus).unwrap_or(0.0),
        );
    }
    absent.iter().for_each(|reason| println!("not measured: {reason}"));
    println!(
        "medians of n rounds, the rows of a round one after another; spread is (largest - smallest) / median; RSS and \
         HWM are the largest sums\nover all processes of a side: of VmRSS looked at every 10 ms, and of the high-water \
         marks of those alive at one time"
    );
}

/// One line of JSON; what was not measured is left out.
pub(crate) fn figures(all: &[(&str, Option<f64>)]) -> String {
    let mut line = "{\"bench\":\"pull\",\"figures\":{".to_owned();
    let mut joint = "";
    for (name, value) in all {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{joint}\"{name}\":{value:.3}");
            joint = ",";
        }
    }
    line + "}}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_are_of_the_sorted_values() {
        for (values, middle, wide) in [
            (&[3.0, 1.0, 2.0][..], Some(2.0), Some(100.0)),
            (&[4.0, 1.0, 2.0, 3.0], Some(2.5), Some(120.0)),
            (&[7.0], Some(7.0), Some(0.0)),
            (&[], None, None),
        ] {
            assert_eq!((median(values), spread(values)), (middle, wide), "{values:?}");
        }
    }

    #[test]
    fn the_last_line_is_json_without_what_was_not_measured() {
        let line = figures(&[("a", Some(1.0)), ("b", None), ("c", Some(f64::NAN)), ("d", Some(0.25))]);
        assert_eq!(line, "{\"bench\":\"pull\",\"figures\":{\"a\":1.000,\"d\":0.250}}");
        assert_eq!(figures(&[]), "{\"bench\":\"pull\",\"figures\":{}}");
    }
}
