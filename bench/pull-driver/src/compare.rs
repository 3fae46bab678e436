//! The comparison: all sides in every round, as far as there is time.
//!
//! The first round measures every side that has not run out of time; further rounds take those that still fit.
//! What a pull of an unchanged tag and of one with a changed last layer costs is measured in between.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ring::digest::{Context as Hash, SHA256};
use rustix::time::{ClockId, clock_gettime};
use shifter_tests::fixture::Built;

use crate::layer::{Layer, image};
use crate::peers::{Peers, TAG, sum};
use crate::report::{self, Row, cpu_ratios, median, spread};
use crate::shape::Shape;
use crate::site::Site;
use crate::{Effort, corpus};

/// Pulls of the unchanged tag.
const UNCHANGED: usize = 25;
/// Tags with a changed last layer, at most.
const CHANGED: u32 = 3;
/// The share of the time that may have passed when a side is measured for the first time, and when the last pull
/// of a changed tag begins.
const FIRST: f64 = 0.7;
const LAST_CHANGED: f64 = 0.55;

/// The sides, one row each; `delta` and `alone` are of the same layer's change.
struct Rows {
    cold: Row,
    cached: Row,
    unchanged: Row,
    floor: Row,
    sha2_floor: Row,
    gzip: Row,
    zstd: Row,
    warm: Row,
    skopeo: Row,
    podman: Row,
    podman_again: Row,
    charliecloud: Row,
    charliecloud_again: Row,
    delta: Row,
    alone: Row,
}

/// Runs the rounds and prints what was seen.
pub(crate) fn run(floor: &[u8], effort: &Effort) -> Result<()> {
    let shape = Shape::new(corpus::choose(Path::new("/usr"), effort.files, effort.bytes)?);
    let mut comparison = Comparison::new(floor, effort, &shape)?;
    for round in 0..effort.rounds {
        if !comparison.round(round)? {
            break;
        }
    }
    comparison.report();
    comparison.site.finish()
}

struct Comparison<'a> {
    effort: &'a Effort,
    site: Site,
    peers: Peers,
    base: Built,
    deltas: Vec<Built>,
    alones: Vec<Built>,
    floor: PathBuf,
    floor_arguments: Vec<String>,
    rows: Rows,
    absent: Vec<String>,
    /// Processor seconds of one copy and one sha256 of a result, per changed tag.
    copies: Vec<f64>,
    unpacked: u64,
    blobs: u64,
    entries: u64,
}

impl<'a> Comparison<'a> {
    fn new(program: &[u8], effort: &'a Effort, shape: &Shape) -> Result<Self> {
        let mut site = Site::new()?;
        let registry = site.registry.clone();
        let peers = Peers::new(&mut site.sandbox, &registry)?;
        let layers = shape.layers()?;
        let base = image(&layers)?;
        site.push(&base, TAG)?;
        let floor = site.sandbox.new_directory("floor")?.join("bench-floor-pull");
        fs::write(&floor, program).context("install the floor program")?;
        fs::set_permissions(&floor, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let floor_arguments = Peers::floor_arguments(&mut site.sandbox, &layers)?;
        let sum = |of: fn(&Layer) -> u64| layers.iter().map(of).sum();
        let (unpacked, entries) = (sum(|layer| layer.unpacked), sum(|layer| layer.entries));
        let blobs = sum(|layer| layer.blob.len() as u64);
        let (mut deltas, mut alones) = (Vec::new(), Vec::new());
        for version in 1..=CHANGED {
            let changed = [&layers[..layers.len() - 1], &[shape.last_layer(version)?]].concat();
            let delta = image(&changed)?;
            // A layer of its own, since the gateway has cached the delta's.
            let alone = image(&[shape.last_layer(CHANGED + version)?])?;
            site.push(&delta, &format!("delta-{version}"))?;
            site.push(&alone, &format!("alone-{version}"))?;
            deltas.push(without_blobs(delta));
            alones.push(without_blobs(alone));
        }
        let absent = if effort.peers { Vec::new() } else { vec!["other tools, as asked".to_owned()] };
        Ok(Self {
            effort,
            site,
            peers,
            base,
            deltas,
            alones,
            floor,
            floor_arguments,
            rows: Rows::new(),
            absent,
            copies: Vec::new(),
            unpacked,
            blobs,
            entries,
        })
    }

    /// One round; false once the time is over.
    fn round(&mut self, round: usize) -> Result<bool> {
        let ours = [&self.rows.cold, &self.rows.cached, &self.rows.floor, &self.rows.sha2_floor]
            .map(last_wall)
            .iter()
            .sum();
        if round > 0 && !self.fits(ours) {
            return Ok(false);
        }
        self.site.start_afresh()?;
        self.rows.cold.costs.push(self.site.pull(&self.base, TAG)?);
        self.rows.floor.costs.push(self.peers.floor(&self.floor, "ring", &self.floor_arguments)?);
        self.rows.sha2_floor.costs.push(self.peers.floor(&self.floor, "sha2", &self.floor_arguments)?);
        self.chain(round)?;
        if round == 0 {
            for _ in 0..UNCHANGED {
                self.rows.unchanged.costs.push(self.site.pull(&self.base, TAG)?);
            }
            self.changed()?;
        }
        self.site.remove_image(&self.base)?;
        self.rows.cached.costs.push(self.site.pull(&self.base, TAG)?);
        self.podman(round)?;
        self.charliecloud(round)?;
        Ok(true)
    }

    /// Pulls of tags that share all but the last layer, each beside the same layer alone.
    fn changed(&mut self) -> Result<()> {
        for (index, (delta, alone)) in self.deltas.iter().zip(&self.alones).enumerate() {
            if index > 0 && self.passed() > LAST_CHANGED {
                break;
            }
            let number = index + 1;
            self.rows.delta.costs.push(self.site.pull(delta, &format!("delta-{number}"))?);
            self.rows.alone.costs.push(self.site.pull(alone, &format!("alone-{number}"))?);
            self.copies.push(copy_and_hash(&self.site.image(delta))?);
        }
        Ok(())
    }

    fn chain(&mut self, round: usize) -> Result<()> {
        let programs = ["skopeo", "umoci", "mksquashfs"];
        let name = "skopeo, umoci and mksquashfs";
        if !self.may_run(round, name, &programs, last_wall(&self.rows.gzip) + last_wall(&self.rows.zstd)) {
            return Ok(());
        }
        self.peers.clear()?;
        let tried = self.peers.chain();
        let Some(chain) = self.worked(name, tried) else { return Ok(()) };
        self.rows.gzip.costs.push(sum(&[chain.copy, chain.unpack, chain.gzip]));
        self.rows.zstd.costs.push(sum(&[chain.copy, chain.unpack, chain.zstd]));
        self.rows.warm.costs.push(sum(&[chain.again, chain.unpack, chain.gzip]));
        self.rows.skopeo.costs.push(chain.again);
        // A side that makes another image is no side of a comparison.
        let counts = [self.site.image(&self.base), self.peers.image()].map(|path| inodes(&path));
        let [ours, theirs] = counts;
        let (ours, theirs) = (ours?, theirs?);
        ensure!(ours == theirs, "the gateway's image has {ours} inodes, that of {name} {theirs}");
        self.peers.clear()
    }

    fn podman(&mut self, round: usize) -> Result<()> {
        if !self.may_run(round, "podman", &["podman"], last_wall(&self.rows.podman)) {
            return Ok(());
        }
        self.peers.clear()?;
        let tried = self.peers.podman();
        let Some((first, again)) = self.worked("podman", tried) else { return Ok(()) };
        self.rows.podman.costs.push(first);
        self.rows.podman_again.costs.push(again);
        self.peers.clear()
    }

    fn charliecloud(&mut self, round: usize) -> Result<()> {
        let programs = ["ch-image", "ch-convert", "mksquashfs"];
        if !self.may_run(round, "Charliecloud", &programs, last_wall(&self.rows.charliecloud)) {
            return Ok(());
        }
        self.peers.offer_tls(&mut self.site.sandbox, &self.base)?;
        self.peers.clear()?;
        let tried = self.peers.charliecloud();
        let Some((first, again)) = self.worked("Charliecloud", tried) else { return Ok(()) };
        self.rows.charliecloud.costs.push(first);
        self.rows.charliecloud_again.costs.push(again);
        self.peers.clear()
    }

    /// Whether a side is there and has time; in the first round it is said why not.
    fn may_run(&mut self, round: usize, name: &str, programs: &[&str], last: f64) -> bool {
        if !self.effort.peers || self.absent.iter().any(|reason| reason.starts_with(name)) {
            return false;
        }
        let found = match Peers::find(programs) {
            Ok(()) if last > 0.0 && self.fits(last) => return true,
            Ok(()) if last == 0.0 && self.passed() < FIRST => return true,
            Ok(()) => "there was no time left; --full takes it".to_owned(),
            Err(why) => why,
        };
        if round == 0 {
            self.absent.push(format!("{name}: {found}"));
        }
        false
    }

    /// What was measured, unless the tool does not work here; then that is said, and it is not tried again.
    fn worked<T>(&mut self, name: &str, tried: Result<T>) -> Option<T> {
        let why = match tried {
            Ok(measured) => return Some(measured),
            Err(why) => format!("{name}: {why:#}"),
        };
        self.absent.push(why.split_whitespace().collect::<Vec<_>>().join(" "));
        None
    }

    fn passed(&self) -> f64 {
        self.effort.begun.elapsed().as_secs_f64() / self.effort.limit.as_secs_f64()
    }

    fn fits(&self, seconds: f64) -> bool {
        self.effort.begun.elapsed() + Duration::from_secs_f64(seconds * 1.2) < self.effort.limit
    }

    fn report(&self) {
        let rows = &self.rows;
        println!(
            "an image of {} entries in {} layers, {:.1} MB, {:.1} MB compressed",
            self.entries,
            self.floor_arguments.len() / 3,
            self.unpacked as f64 / 1e6,
            self.blobs as f64 / 1e6,
        );
        report::print(&rows.all(), &self.absent);
        if let Some(copy) = median(&self.copies) {
            println!("one copy and one sha256 of the result: {copy:.3} CPU s");
        }
        println!("{}", report::figures(&self.figures()));
    }

    fn figures(&self) -> Vec<(&'static str, Option<f64>)> {
        let rows = &self.rows;
        let wall = |other: &Row| Some(other.wall()? / rows.cold.wall()?);
        let cpu = |other: &Row| Some(other.cpu()? / rows.cold.cpu()?);
        // Ticks are coarse for a small layer, so sums are divided, not each pair.
        let total = |row: &Row| row.costs.iter().map(|cost| cost.cpu.as_secs_f64()).sum::<f64>();
        let changed_part = total(&rows.alone) + self.copies.iter().sum::<f64>();
        let over_floor = cpu_ratios(&rows.cold, &rows.floor);
        let unchanged: Vec<f64> =
            rows.unchanged.costs.iter().map(|cost| cost.wall.as_secs_f64() * 1e3).collect();
        vec![
            ("cpu_over_floor", median(&over_floor)),
            ("cpu_over_floor_spread_percent", spread(&over_floor)),
            ("cpu_over_sha2_floor", median(&cpu_ratios(&rows.cold, &rows.sha2_floor))),
            ("wall_s", rows.cold.wall()),
            ("cpu_s", rows.cold.cpu()),
            ("floor_cpu_s", rows.floor.cpu()),
            ("peak_rss_mib", rows.cold.resident()),
            ("peak_hwm_mib", rows.cold.bound()),
            ("original_chain_over_ours", wall(&rows.gzip)),
            ("original_chain_cpu_over_ours", cpu(&rows.gzip)),
            ("zstd_chain_over_ours", wall(&rows.zstd)),
            ("zstd_chain_cpu_over_ours", cpu(&rows.zstd)),
            ("charliecloud_over_ours", wall(&rows.charliecloud)),
            ("charliecloud_cpu_over_ours", cpu(&rows.charliecloud)),
            ("podman_over_ours", wall(&rows.podman)),
            ("podman_cpu_over_ours", cpu(&rows.podman)),
            ("cached_wall_s", rows.cached.wall()),
            ("unchanged_ms", median(&unchanged)),
            ("skopeo_unchanged_ms", rows.skopeo.wall().map(|seconds| seconds * 1e3)),
            ("podman_unchanged_ms", rows.podman_again.wall().map(|seconds| seconds * 1e3)),
            ("delta_over_changed", Some(total(&rows.delta) / changed_part)),
            ("delta_cpu_s", rows.delta.cpu()),
            ("changed_cpu_s", rows.alone.cpu()),
            ("copy_and_sha256_cpu_s", median(&self.copies)),
            ("rounds", Some(rows.cold.costs.len() as f64)),
        ]
    }
}

impl Rows {
    fn new() -> Self {
        Self {
            cold: Row::new("shifter, cold"),
            floor: Row::new("floor: gunzip, sha256 twice, zstd-3"),
            sha2_floor: Row::new("floor, sha256 by the crate sha2"),
            gzip: Row::new("skopeo + umoci + mksquashfs gzip, cold"),
            zstd: Row::new("skopeo + umoci + mksquashfs zstd-3, cold"),
            charliecloud: Row::new("ch-image (no build cache) + ch-convert, cold"),
            podman: Row::new("podman pull, cold (makes no image file)"),
            cached: Row::new("shifter, layers cached"),
            warm: Row::new("skopeo + umoci + mksquashfs gzip, layers cached"),
            unchanged: Row::new("shifter, unchanged tag"),
            skopeo: Row::new("skopeo alone, unchanged tag"),
            charliecloud_again: Row::new("ch-image alone, unchanged tag"),
            podman_again: Row::new("podman pull, unchanged tag"),
            delta: Row::new("shifter, last layer (5 %) changed"),
            alone: Row::new("shifter, that layer as an image of its own"),
        }
    }

    fn all(&self) -> [&Row; 15] {
        [
            &self.cold,
            &self.floor,
            &self.sha2_floor,
            &self.gzip,
            &self.zstd,
            &self.charliecloud,
            &self.podman,
            &self.cached,
            &self.warm,
            &self.unchanged,
            &self.skopeo,
            &self.charliecloud_again,
            &self.podman_again,
            &self.delta,
            &self.alone,
        ]
    }
}

fn last_wall(row: &Row) -> f64 {
    row.costs.last().map_or(0.0, |cost| cost.wall.as_secs_f64())
}

/// What is left to compare with after the push; the registry has the rest.
fn without_blobs(mut built: Built) -> Built {
    built.blobs.clear();
    built
}

/// Inodes of a squashfs image: the second word of its superblock (squashfs 4.0, Documentation/filesystems).
fn inodes(path: &Path) -> Result<u32> {
    let mut words = [0; 8];
    let mut file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.read_exact(&mut words).with_context(|| format!("read {}", path.display()))?;
    let [_, _, _, _, count @ ..] = words;
    Ok(u32::from_le_bytes(count))
}

/// Processor seconds of copying a file beside itself and hashing it, on this thread.
fn copy_and_hash(path: &Path) -> Result<f64> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let copy = path.with_extension("copy");
    let begun = now();
    fs::copy(path, &copy).with_context(|| format!("copy {}", path.display()))?;
    let mut hash = Hash::new(&SHA256);
    let mut file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("read {}", path.display()))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    // The digest is of no use here, but must not be left out by the compiler.
    std::hint::black_box(hash.finish());
    let seconds = now() - begun;
    fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?;
    Ok(seconds)
}
