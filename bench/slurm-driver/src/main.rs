//! `bench/slurm`'s driver: an empty job on two nodes without the plugin, with it, and with an image, interleaved; and
//! how long each of 64 tasks of a node takes into the job's container, measured inside the task. Tasks that all do it at
//! once measure how long they wait for one of the machine's few processors, so those of one kind of step take turns.
//!
//! Everything lies in the test suite's sandbox and goes with it. It builds nothing (the script does) and judges nothing.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use shifter_tests::fixture::{dir, file};
use shifter_tests::harness::{Cluster, Sandbox, SlurmOptions};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::time::Instant;

const TASKS: u32 = 64;
/// The kinds of steps, each with what its tasks do: take turns or not, into the container or not.
const KINDS: [(&str, &str); 4] = [
    ("in turns, plain exec", "turns $stamp $stamp"),
    ("in turns, exec of shifter to the program", "turns $stamp $shifter /bin/stamp"),
    ("all at once, plain exec", "srun --quiet $stamp $stamp"),
    ("all at once, exec of shifter to the program", "srun --quiet $stamp $shifter /bin/stamp"),
];
const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench/slurm: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rounds = if words.iter().any(|word| word == "--full") { 50 } else { 10 };
    let stamp =
        words.iter().find(|word| !word.starts_with("--")).context("the path of bench-stamp is missing")?;
    let stamp = fs::read(stamp).with_context(|| format!("read {stamp}"))?;
    let mut sandbox = Sandbox::with_own_network()?;
    let outside = sandbox.prefix().join("bin/stamp");
    fs::write(&outside, &stamp)?;
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755))?;
    let entries = [".", "bin", "etc", "usr", "opt", "var"].map(dir);
    let id = sandbox.install_image(&[&entries[..], &[file("bin/stamp", stamp).mode(0o755)]].concat(), "")?;
    let munged = sandbox.munged("site")?;
    let cluster =
        sandbox.slurm(&munged, &SlurmOptions { nodes: 4, cpus: TASKS, ..SlurmOptions::default() })?;
    let plugin = format!("required {}\n", sandbox.program("shifter_slurm.so")?.display());
    let image = format!("--image=id:{id}");
    let [stamp, shifter] = [outside, sandbox.program("shifter")?].map(|path| path.display().to_string());

    let (plugin, none) = (plugin.as_str(), "");
    // A slurmd looks once, when it starts, whether plugins have prologs: two nodes have one that has seen none.
    fs::write(PLUGSTACK, plugin)?;
    for node in [1, 2] {
        cluster.kill_slurmd(&sandbox, node)?;
        cluster.start_slurmd(&sandbox, node)?;
    }
    cluster.wait_until_idle(&sandbox)?;
    let plain = ["-wnode[3-4]", "-N2", "--exclusive"];
    let job = ["-wnode[1-2]", "-N2", "--exclusive"];
    let rows: [(&str, &str, Vec<&str>); 3] = [
        ("plain", none, [&plain[..], &[&stamp]].concat()),
        ("with the plugin", plugin, [&job[..], &[&stamp]].concat()),
        ("with an image", plugin, [&job[..], &[&image, &stamp]].concat()),
    ];
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        for ((_, plugstack, words), times) in rows.iter().zip(&mut times) {
            fs::write(PLUGSTACK, plugstack)?;
            let taken = job_time(&sandbox, words)?;
            // The first of each fills caches.
            if round > 0 {
                times.push(taken);
            }
        }
    }
    fs::write(PLUGSTACK, plugin)?;
    let mut joins = stamps(&sandbox, &image, &[&stamp, &shifter], rounds.min(10) / 2)?;
    finish(sandbox, cluster)?;

    println!("{:<44} {:>8} {:>8} {:>8}", "ms, an empty job on two nodes", "median", "p10", "p90");
    for ((title, _, _), times) in rows.iter().zip(&mut times) {
        line(title, times);
    }
    println!(
        "{:<44} {:>8} {:>8} {:>8}",
        format!("ms, each of {TASKS} tasks of a node"),
        "median",
        "p10",
        "p90"
    );
    for ((title, _), times) in KINDS.iter().zip(&mut joins) {
        line(title, times);
    }
    let median = |times: &[f64]| quantile(times, 0.5);
    let figures = json!({
        "rounds": rounds,
        "task_join_ms": rounded(median(&joins[1])),
        "task_join_p90_ms": rounded(quantile(&joins[1], 0.9)),
        "task_exec_ms": rounded(median(&joins[0])),
        "task_join_crowded_ms": rounded(median(&joins[3])),
        "task_exec_crowded_ms": rounded(median(&joins[2])),
        "job_over_plain": rounded(median(&times[2]) / median(&times[0])),
        "job_plain_ms": rounded(median(&times[0])),
        "job_plugin_added_ms": rounded(median(&times[1]) - median(&times[0])),
        "job_image_added_ms": rounded(median(&times[2]) - median(&times[0])),
    });
    println!("{}", json!({ "bench": "slurm", "figures": figures }));
    Ok(())
}

/// Milliseconds from submission until the job's epilogs are done and its nodes free.
fn job_time(sandbox: &Sandbox, words: &[&str]) -> Result<f64> {
    let alice = sandbox.user("alice")?;
    let started = Instant::now();
    alice.run(&[&["srun", "--quiet"], words].concat())?.success()?;
    while !alice.run(&["squeue", "--noheader"])?.success()?.is_empty() {}
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// What each task measured, in milliseconds, for each kind of steps. All are steps of one job, whose first ones fill
/// caches and do not count.
fn stamps(sandbox: &Sandbox, image: &str, programs: &[&str; 2], rounds: usize) -> Result<[Vec<f64>; 4]> {
    let [stamp, shifter] = programs;
    // The first turn begins when all tasks wait for theirs: Slurm has done its part, and the processors are idle.
    let turns = format!(
        "turns() {{ exec 9<>~/turn; flock 9
            SHIFTER_BENCH_TURN=~/turn srun --quiet \"$@\" 9>&- &
            waiting=\"-> FLOCK .*:$(stat -c %i ~/turn) \"
            until [ \"$(grep -c -e \"$waiting\" /proc/locks)\" = {TASKS} ]; do kill -0 $!; sleep 0.02; done
            flock -u 9; wait $!; }}"
    );
    let steps: Vec<&str> = KINDS.iter().map(|(_, step)| *step).collect();
    let script = format!(
        "stamp={stamp} shifter={shifter}\n{turns}\nfor i in $(seq 0 {rounds}); do\n{}\ndone",
        steps.join("\n")
    );
    let count = format!("-n{TASKS}");
    let words = ["salloc", "--quiet", "-wnode1", &count, "--exclusive", image, "bash", "-ec", &script];
    let said = sandbox.user("alice")?.run(&words)?.success()?;
    let times = said.lines().map(|line| Ok(line.parse::<f64>().context("a task said no number")? / 1e6));
    let times: Vec<f64> = times.collect::<Result<_>>()?;
    let steps: Vec<&[f64]> = times.chunks(TASKS as usize).collect();
    ensure!(times.len() == (rounds + 1) * KINDS.len() * TASKS as usize, "{} times are not all", times.len());
    let kind = |first: usize| {
        let counted = steps.iter().skip(KINDS.len() + first).step_by(KINDS.len());
        counted.copied().collect::<Vec<_>>().concat()
    };
    Ok([kind(0), kind(1), kind(2), kind(3)])
}

fn finish(mut sandbox: Sandbox, cluster: Cluster) -> Result<()> {
    cluster.finish(&mut sandbox)?;
    sandbox.finish()
}

fn line(title: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let [median, low, high] = [0.5, 0.1, 0.9].map(|share| quantile(times, share));
    println!("{title:<44} {median:>8.3} {low:>8.3} {high:>8.3}");
}

/// Of sorted times, by nearest rank.
fn quantile(times: &[f64], share: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
