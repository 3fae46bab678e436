//! Lookups while the same gateway converts an image of real files.
//!
//! The image is of whatever lies below `/usr`, so its size is said and its content is not. The registry is the test
//! suite's, on the same machine and its processors, and so are the clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use shifter_tests::fixture::{Built, Entry, Image, Layer, file};
use shifter_tests::harness::Gateway;

use crate::munge::Munge;
use crate::{CLIENTS, answer, ask, lookup};

/// The image's name in the registry.
pub(crate) const REPOSITORY: &str = "bench/big";
pub(crate) const TAG: &str = "1";

/// Bytes of files in a layer.
const LAYER: usize = 64 << 20;
/// Files beyond this many bytes are left out.
const LARGEST: u64 = 8 << 20;
/// Longest wait for the image.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was seen while the image was made.
pub(crate) struct Seen {
    /// Milliseconds that 99 of 100 lookups took at most.
    pub(crate) p99: f64,
    /// From the request to READY.
    pub(crate) seconds: f64,
}

/// An image of `layers` layers of 64 MiB.
pub(crate) fn image(layers: usize) -> Result<Built> {
    let mut files = Vec::new();
    for directory in ["/usr/bin", "/usr/lib"] {
        collect(Path::new(directory), layers * LAYER, &mut files)?;
    }
    ensure!(!files.is_empty(), "there are no files in /usr/bin and /usr/lib");
    // Where /usr is smaller than the image, its files come again with every byte changed.
    let mut source = (0..=u8::MAX).flat_map(|change| files.iter().map(move |path| (change, path)));
    let mut made = Vec::new();
    for number in 0..layers {
        let (mut entries, mut size): (Vec<Entry>, usize) = (Vec::new(), 0);
        while size < LAYER {
            let (change, path) = source.next().context("/usr is too small for this image")?;
            let mut content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            content.iter_mut().for_each(|byte| *byte ^= change);
            size += content.len();
            entries.push(file(format!("data/{number}/{}", entries.len()), content));
        }
        made.push(Layer::new(entries));
    }
    Image::new(made).build()
}

/// Regular files below a directory, at least `enough` bytes of them if there are.
fn collect(directory: &Path, enough: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let (mut waiting, mut size) = (vec![directory.to_owned()], 0);
    while let Some(directory) = waiting.pop() {
        let listed = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in listed {
            let entry = entry?;
            let kind = entry.file_type()?;
            let length = entry.metadata()?.len();
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() && (1..=LARGEST).contains(&length) {
                files.push(entry.path());
                size += length as usize;
            }
        }
        if size >= enough {
            break;
        }
    }
    Ok(())
}

/// Pulls the image once, and looks up others with all clients until it is ready.
pub(crate) fn measure(
    gateway: &Gateway,
    munge: &Munge,
    next: impl Fn(usize) -> usize + Sync,
) -> Result<Seen> {
    let over = AtomicBool::new(false);
    let (over, next) = (&over, &next);
    let client = move |client: usize| -> Result<Vec<f64>> {
        let mut times = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            ask(gateway, munge, "GET", &lookup(next(client * 1_000_003 + times.len())))?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let pulled = pull(gateway, munge);
        over.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        times.sort_by(f64::total_cmp);
        let p99 = times.get(times.len() * 99 / 100).copied().context("nothing was looked up")?;
        Ok(Seen { p99, seconds: pulled? })
    })
}

/// Seconds until the image is ready.
fn pull(gateway: &Gateway, munge: &Munge) -> Result<f64> {
    let target = format!("/api/pull/testsystem/docker/local%2F{}%3A{TAG}/", REPOSITORY.replace('/', "%2F"));
    let begun = Instant::now();
    loop {
        let said = answer(gateway, munge, "POST", &target)?;
        if said.contains("\"READY\"") {
            return Ok(begun.elapsed().as_secs_f64());
        }
        if said.contains("\"FAILURE\"") || begun.elapsed() > PATIENCE {
            bail!("the image was not made within {PATIENCE:?}: {said}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
