//! Many starts at once: how many in a second, how long the slow ones take, and what is left behind, also when every
//! tenth is killed at some moment by root (its user could not). Kept root for that; the containers are the user's.

use crate::image::FRESH;
use crate::variants::{ENVIRONMENT, PAYLOAD, device_of, of_image, program};
use anyhow::{Context as _, Result, bail};
use bench_layout::{BASE, USER};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const STARTS: usize = 1000;
const PARALLEL: [usize; 4] = [1, 2, 8, 64];
/// Longest wait for loop devices and processes to go.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs everything and prints it.
pub(crate) fn run() -> Result<()> {
    println!("{:<34} {:>10} {:>9} {:>9} {:>9}", "1,000 starts", "starts/s", "p50 ms", "p99 ms", "most ms");
    let mut figures = String::new();
    let mut leaks = 0;
    for kills in [false, true] {
        for parallel in PARALLEL {
            let (mut times, took) = starts(parallel, kills)?;
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize] * 1e3;
            let rate = STARTS as f64 / took.as_secs_f64();
            let title = format!("{parallel} at a time{}", if kills { ", every tenth killed" } else { "" });
            println!("{title:<34} {rate:>10.0} {:>9.2} {:>9.2} {:>9.2}", at(0.5), at(0.99), at(1.0));
            if !kills {
                figures +=
                    &format!(",\"starts_per_s_{parallel}\":{rate:.0},\"p99_ms_{parallel}\":{:.2}", at(0.99));
            }
            leaks += left_behind()?;
        }
    }
    println!("left behind: {leaks}");
    println!("{{\"bench\":\"stress\",\"figures\":{{\"leaks\":{leaks}{figures}}}}}");
    if leaks > 0 { bail!("{leaks} mounts, loop devices or processes were left behind") } else { Ok(()) }
}

/// Seconds of each start that was let run to its end.
fn starts(parallel: usize, kills: bool) -> Result<(Vec<f64>, Duration)> {
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let results: Vec<Result<Vec<f64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel).map(|_| scope.spawn(|| starts_of_one(&next, kills))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread ended"))).collect()
    });
    let took = begin.elapsed();
    Ok((results.into_iter().collect::<Result<Vec<_>>>()?.concat(), took))
}

fn starts_of_one(next: &AtomicUsize, kills: bool) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= STARTS {
            return Ok(times);
        }
        let mut command = Command::new(program("shifter"));
        command
            .args([&of_image(FRESH), PAYLOAD])
            .current_dir("/")
            .env_clear()
            .envs(ENVIRONMENT)
            .uid(USER.1)
            .gid(USER.2);
        let start = Instant::now();
        let mut child = command.spawn().context("start shifter")?;
        if kills && number.is_multiple_of(10) {
            // Spread over the two milliseconds a start takes, without a pattern.
            std::thread::sleep(Duration::from_micros((number as u64 * 7919) % 2000));
            child.kill().context("kill a start")?;
            child.wait().context("wait for a start")?;
            continue;
        }
        let status = child.wait().context("wait for a start")?;
        if !status.success() {
            bail!("a start ended with {status}");
        }
        times.push(start.elapsed().as_secs_f64());
    }
}

/// Mounts, loop devices and processes that stay.
fn left_behind() -> Result<usize> {
    let start = Instant::now();
    loop {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
        let mounts =
            ["udi", "loop"].iter().filter(|name| mounts.contains(&format!(" {BASE}/{name} "))).count();
        let loops = usize::from(device_of(FRESH)?.is_some());
        let processes = processes()?;
        let left = mounts + loops + processes;
        if left == 0 || start.elapsed() > SETTLE {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes() -> Result<usize> {
    let names = std::fs::read_dir("/proc").context("list /proc")?.filter_map(|entry| {
        let path = entry.ok()?.path();
        std::fs::read_to_string(path.join("comm")).ok()
    });
    Ok(names.filter(|name| matches!(name.trim(), "shifter" | "true-static")).count())
}
