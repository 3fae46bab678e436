//! What looking at files costs inside: the same ten thousand small files through a container of `shifter` and through
//! the image mounted by hand, in pairs, the first of a pair being now the one and now the other.

use crate::image::{SHARED, SMALL_FILES};
use crate::variants::{command, of_image, program};
use anyhow::{Context as _, Result, bail};
use std::io::{BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// Where the image is mounted by hand.
pub(crate) const BY_HAND: &str = "/opt/shifter-bench/by-hand";
const PAIRS: usize = 40;
const WARM_UP: usize = 2;

struct Reader {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Reader {
    fn start(argv: &[String]) -> Result<Self> {
        let mut child =
            command(argv).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a reader")?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let mut from = BufReader::new(from.context("its stdout")?);
        let files = number(&mut from)? as usize;
        if files != SMALL_FILES {
            bail!("{} shows {files} files instead of {SMALL_FILES}", argv.join(" "));
        }
        Ok(Self { child, to: to.context("its stdin")?, from })
    }

    fn read(&mut self) -> Result<f64> {
        writeln!(self.to)?;
        number(&mut self.from)
    }

    fn stop(self) -> Result<()> {
        let Self { mut child, to, .. } = self;
        drop(to);
        child.wait()?;
        Ok(())
    }
}

fn number(from: &mut impl std::io::BufRead) -> Result<f64> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    line.trim().parse().with_context(|| format!("a reader said {line:?}"))
}

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let reader = "/usr/bin/bench-reader".to_owned();
    let small = "/usr/share/small".to_owned();
    let mut container = Reader::start(&[program("shifter"), of_image(SHARED), reader, small.clone()])?;
    let mut by_hand = Reader::start(&[program("reader"), format!("{BY_HAND}{small}")])?;
    let (mut inside, mut outside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS + WARM_UP {
        let (one, other);
        if pair % 2 == 0 {
            one = container.read()?;
            other = by_hand.read()?;
        } else {
            other = by_hand.read()?;
            one = container.read()?;
        }
        if pair >= WARM_UP {
            inside.push(one / 1e3);
            outside.push(other / 1e3);
            ratios.push(one / other);
        }
    }
    container.stop()?;
    by_hand.stop()?;
    let mut median = 0.0;
    for (title, samples) in [
        ("through the container, ms", &mut inside),
        ("squashfs mounted by hand, ms", &mut outside),
        ("container over squashfs", &mut ratios),
    ] {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        median = at(0.5);
        println!("{title:<30} median {median:>8.3}   p10 {:>8.3}   p90 {:>8.3}", at(0.1), at(0.9));
    }
    println!("{PAIRS} pairs, {SMALL_FILES} files looked at and read in each");
    println!(
        "{{\"bench\":\"metadata\",\"figures\":{{\"container_over_squashfs\":{median:.3},\"pairs\":{PAIRS}}}}}"
    );
    Ok(())
}
