//! The measuring: every variant once in each round (slow ones in some), so that a busy minute falls on all of them alike, and the order
//! turned by one from round to round, so that none always follows the same other.

use crate::variants::Variant;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Rounds before those that count.
const WARM_UP: usize = 10;

/// Microseconds, by variant and round.
pub(crate) type Samples = Vec<Vec<f64>>;

/// Measures `rounds` rounds, or as many as begin within `limit`.
pub(crate) fn interleaved(variants: &[Variant], rounds: usize, limit: Duration) -> Result<Samples> {
    let mut samples: Samples = variants.iter().map(|_| Vec::with_capacity(rounds)).collect();
    let start = Instant::now();
    for round in 0..rounds + WARM_UP {
        if round > WARM_UP && start.elapsed() > limit {
            break;
        }
        for turn in 0..variants.len() {
            let index = (turn + round) % variants.len();
            if !round.is_multiple_of(variants[index].every) {
                continue;
            }
            let took = variants[index].time()?;
            if round >= WARM_UP {
                samples[index].push(took);
            }
        }
    }
    Ok(samples)
}
