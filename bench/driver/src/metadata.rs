//! What looking at files costs inside: the same ten thousand small files through a container of `shifter` and through
//! the image mounted by hand, in pairs, the first of a pair being now the one and now the other.

use crate::image::{BY_HAND, SHARED, SMALL_FILES};
use crate::report::quantiles;
use crate::variants::{command, of_image, program};
use anyhow::{Context as _, Result};
use bench_reader::Reader;

const PAIRS: usize = 40;
const WARM_UP: usize = 2;

/// Measures and prints; returns figures without a comma before the first.
pub(crate) fn measure() -> Result<String> {
    let reader = "/usr/bin/bench-reader".to_owned();
    let small = "/usr/share/small".to_owned();
    let start = |argv: &[String]| -> Result<Reader> {
        let mut reader = Reader::spawn(command(argv))?;
        reader.ready(SMALL_FILES).with_context(|| argv.join(" "))?;
        Ok(reader)
    };
    let mut container = start(&[program("shifter"), of_image(SHARED), reader, small.clone()])?;
    let mut by_hand = start(&[program("reader"), format!("{BY_HAND}{small}")])?;
    let read = |reader: &mut Reader| -> Result<f64> {
        reader.tell()?;
        reader.answer()
    };
    let (mut inside, mut outside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS + WARM_UP {
        let (one, other);
        if pair % 2 == 0 {
            one = read(&mut container)?;
            other = read(&mut by_hand)?;
        } else {
            other = read(&mut by_hand)?;
            one = read(&mut container)?;
        }
        if pair >= WARM_UP {
            inside.push(one / 1e3);
            outside.push(other / 1e3);
            ratios.push(one / other);
        }
    }
    container.stop()?;
    by_hand.stop()?;
    let mut ratio = 0.0;
    for (title, samples) in [
        ("through the container, ms", &inside),
        ("squashfs mounted by hand, ms", &outside),
        ("container over squashfs", &ratios),
    ] {
        let [median, p10, p90] = quantiles(samples).context("nothing was measured")?;
        println!("{title:<30} median {median:>8.3}   p10 {p10:>8.3}   p90 {p90:>8.3}");
        ratio = median;
    }
    println!("{PAIRS} pairs, {SMALL_FILES} files looked at and read in each");
    Ok(format!("\"container_over_squashfs\":{ratio:.3},\"pairs\":{PAIRS}"))
}
