//! Reading through the kernel: cold, which is the first time after the image was mounted and its own pages were given
//! up, and warm, which is the same again.
//!
//! Only this image's pages are given up, so other work on the machine is left alone. The processor time is the reader's
//! own, in which the kernel decompresses; it says more than the clock where the machine is busy or the disk is in the
//! host's memory.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};

use crate::tree::{MANY_FILES, SMALL_FILES, next, run};

/// What is done with each image, in this order.
pub(crate) const WORKLOADS: [(&str, &str); 5] = [
    ("ordered", "3,000 small files, in order"),
    ("storm", "3,000 small files, in no order"),
    ("list", "directory of 20,000, stat each"),
    ("stream", "one file of 48 MiB"),
    ("import", "python -c 'import ...'"),
];

/// Modules of the standard library that bring many others.
const IMPORTS: &str = "asyncio, json, email.mime.multipart, http.client, xml.dom.minidom, unittest.mock, \
    multiprocessing.pool, concurrent.futures, ctypes.util, logging.config, sqlite3, decimal, tarfile, zipfile, \
    difflib, argparse, configparser, csv, doctest, pydoc, ssl, statistics, typing, urllib.request, wsgiref.validate";

/// Milliseconds of the reader's processor, and of the clock.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) cpu: f64,
    pub(crate) wall: f64,
}

/// None where it cannot be done here.
pub(crate) type Times = [Option<Took>; WORKLOADS.len()];

/// Cold and warm times of an image.
pub(crate) fn measure(image: &Path, place: &Path) -> Result<[Times; 2]> {
    let mut times = [[None; WORKLOADS.len()]; 2];
    // Each has a mount of its own, so that the ones before it have brought nothing in.
    for workload in 0..WORKLOADS.len() {
        forget(image)?;
        run(Command::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).arg(image).arg(place))?;
        let both = once(workload, place).and_then(|cold| Ok([cold, once(workload, place)?]));
        run(Command::new("umount").arg(place))?;
        for (times, took) in times.iter_mut().zip(both?) {
            times[workload] = took;
        }
    }
    Ok(times)
}

/// Has the image written to disk, and its pages given up.
fn forget(image: &Path) -> Result<()> {
    let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed).context("give up an image's pages")
}

fn once(workload: usize, place: &Path) -> Result<Option<Took>> {
    let key = WORKLOADS[workload].0;
    if key == "import" {
        return import(place);
    }
    let work: fn(&Path) -> Result<()> = match key {
        "ordered" => |place| small_files(place, false),
        "storm" => |place| small_files(place, true),
        "list" => list,
        _ => stream,
    };
    let (start, before) = (Instant::now(), own_time());
    work(place)?;
    let cpu = milliseconds(own_time().saturating_sub(before));
    Ok(Some(Took { cpu, wall: milliseconds(start.elapsed()) }))
}

/// What this process, which has one thread, has had of a processor.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn small_files(place: &Path, is_mixed: bool) -> Result<()> {
    let mut names: Vec<PathBuf> = (0..SMALL_FILES)
        .map(|number| place.join(format!("small/part-{}/file-{number}", number / 100)))
        .collect();
    // As the archive and mksquashfs order them.
    names.sort();
    if is_mixed {
        let mut noise = 5;
        for at in (1..names.len()).rev() {
            names.swap(at, next(&mut noise) as usize % (at + 1));
        }
    }
    let mut buffer = [0; 16_384];
    for name in &names {
        fs::metadata(name)?;
        let mut file = File::open(name)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

fn list(place: &Path) -> Result<()> {
    let mut count = 0;
    for entry in fs::read_dir(place.join("many"))? {
        entry?.metadata()?;
        count += 1;
    }
    if count != MANY_FILES {
        bail!("the directory has {count} names instead of {MANY_FILES}");
    }
    Ok(())
}

fn stream(place: &Path) -> Result<()> {
    let mut file = File::open(place.join("large"))?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// A program of its own, which says what it had of a processor.
fn import(place: &Path) -> Result<Option<Took>> {
    let library = place.join("python");
    if !library.exists() {
        return Ok(None);
    }
    let library = library.display();
    let script = format!(
        "import sys; sys.path[:] = ['{library}', '{library}/lib-dynload']\nimport {IMPORTS}\n\
         import time; print(time.process_time())"
    );
    let start = Instant::now();
    let mut command = Command::new("python3");
    let output = command
        .args(["-I", "-S", "-B", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .context("run python3")?;
    let wall = milliseconds(start.elapsed());
    if !output.status.success() {
        bail!("python3 cannot import from {library}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let seconds: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("what python3 said")?;
    Ok(Some(Took { cpu: seconds * 1e3, wall }))
}
