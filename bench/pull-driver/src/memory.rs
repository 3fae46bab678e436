//! `--memory`: the gateway's memory with half a million entries, and with ten gigabytes in one layer.
//!
//! One cold pull each; there is nothing to compare with, only a bound to keep.

use anyhow::Result;

use crate::layer::{Layer, image};
use crate::peers::TAG;
use crate::report::{self, Row};
use crate::shape;
use crate::site::Site;

const ENTRIES: usize = 500_000;
const STREAM: u64 = 10 << 30;

/// Measures both and prints them.
pub(crate) fn run() -> Result<()> {
    let mut site = Site::new()?;
    println!("making an image of {ENTRIES} entries");
    let entries = measure(&mut site, "shifter, 500,000 entries in 7 layers", &shape::many_entries(ENTRIES)?)?;
    println!("making a layer of {} GiB", STREAM >> 30);
    let stream = measure(&mut site, "shifter, 10 GiB in one layer", &[shape::long_stream(STREAM)?])?;
    report::print(&[&entries, &stream], &[]);
    let peak = [&entries, &stream].iter().filter_map(|row| row.resident()).max_by(f64::total_cmp);
    let all = [
        ("peak_rss_mib", peak),
        ("entries_peak_rss_mib", entries.resident()),
        ("entries_peak_hwm_mib", entries.bound()),
        ("entries_wall_s", entries.wall()),
        ("entries_cpu_s", entries.cpu()),
        ("stream_peak_rss_mib", stream.resident()),
        ("stream_peak_hwm_mib", stream.bound()),
        ("stream_wall_s", stream.wall()),
        ("stream_cpu_s", stream.cpu()),
    ];
    println!("{}", report::figures(&all));
    site.finish()
}

fn measure(site: &mut Site, title: &'static str, layers: &[Layer]) -> Result<Row> {
    site.start_afresh()?;
    let built = image(layers)?;
    site.push(&built, TAG)?;
    let mut row = Row::new(title);
    row.costs.push(site.pull(&built, TAG)?);
    Ok(row)
}
