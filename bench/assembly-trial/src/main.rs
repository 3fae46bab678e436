//! Ways to assemble a container's root, compared: what each costs at the start, and what it costs to look at and
//! read ten thousand files through it. The decision and its figures are in docs/decisions.md.
//!
//! Without arguments it is the driver, which `bench/assembly` runs as root in a mount namespace of its own; with
//! `start WAY DEVICE` or `read WAY DEVICE` it is one container. It is no runtime: nothing is checked or dropped.

#[path = "../../floor/src/kernel.rs"]
#[allow(dead_code)] // the floor program uses the rest
mod kernel;
mod tree;

use anyhow::{Context as _, Result, bail};
use bench_layout::{ETC, ETC_LAYERS, Entry, IMAGE, ROOT, TOP, VAR};
use bench_reader::{Reader, read_when_told};
use kernel::{AT_FDCWD, Flags, copy, create_file, detached, directory, link, open_directory, place};
use libc::c_int;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The ways. The first is what the others are compared with when reading: the image, mounted by hand.
const WAYS: [&str; 4] = ["squashfs", "binds", "overlay", "overlay-usr"];
const TITLES: [&str; 4] = [
    "the image itself, mounted",
    "tmpfs, an image entry bound on each name",
    "one overlay of a tmpfs over the image",
    "the same, and the image's /usr bound on it",
];
const STARTS: usize = 300;
const READS: usize = 24;
const SAFE: Flags =
    Flags { set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, propagation: libc::MS_PRIVATE };

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_] => drive(),
        [_, what @ ("start" | "read"), way, device] => {
            assemble(way, &CString::new(*device)?);
            if *what == "read" { read_when_told(Path::new("/usr/lib")) } else { Ok(()) }
        }
        _ => bail!("usage: bench-assembly [start|read WAY DEVICE]"),
    }
}

fn assemble(way: &str, device: &CStr) {
    kernel::enter_new_namespace();
    let read_only = SAFE.set | libc::MOUNT_ATTR_RDONLY;
    let image = detached(c"squashfs", &[(c"source", device)], true, read_only);
    place(image, AT_FDCWD, IMAGE);
    if way == "squashfs" {
        return kernel::pivot_into(image);
    }
    kernel::set_flags(image, Flags { set: 0, ..SAFE });
    let mut root = detached(c"tmpfs", &[(c"source", c"bench"), (c"mode", c"0755")], false, SAFE.set);
    place(root, AT_FDCWD, ROOT);
    site_layer(root);
    if way == "binds" {
        mount_host(root);
        show(image, root, &TOP);
        show(open_directory(image, c"var"), open_directory(root, c"var"), &VAR);
        place(detached(c"overlay", &[(c"lowerdir", ETC_LAYERS)], true, read_only), root, c"etc");
    } else {
        let layers = CString::new([ROOT.to_bytes(), b":", IMAGE.to_bytes()].concat()).unwrap_or_default();
        root = detached(c"overlay", &[(c"lowerdir", &layers)], true, read_only);
        place(root, AT_FDCWD, ROOT);
        mount_host(root);
        if way == "overlay-usr" {
            place(copy(image, c"usr", None, false), root, c"usr");
        }
    }
    kernel::pivot_into(root);
}

/// Directories and files of the site, as every container has them.
fn site_layer(root: c_int) {
    for path in
        [c"etc", c"etc/udiImage", c"etc/ssh", c"opt", c"opt/udiImage", c"opt/udiImage/modules", c"var"]
    {
        directory(root, path, 0o755);
    }
    for path in [c"var/spool", c"var/run", c"var/tmp", c"var/empty", c"proc", c"sys", c"dev", c"tmp", c"home"]
    {
        directory(root, path, 0o755);
    }
    let etc = open_directory(root, c"etc");
    link(etc, c"mtab", c"/proc/mounts");
    for (name, content) in ETC {
        create_file(etc, name, content.as_bytes());
    }
}

fn mount_host(root: c_int) {
    for (from, to) in [
        (c"/home", c"home"),
        (c"/proc", c"proc"),
        (c"/sys", c"sys"),
        (c"/tmp", c"tmp"),
        (c"/var/tmp", c"var/tmp"),
    ] {
        place(copy(AT_FDCWD, from, Some(SAFE), false), root, to);
    }
    place(copy(AT_FDCWD, c"/dev", Some(SAFE), true), root, c"dev");
}

fn show(from: c_int, to: c_int, entries: &[(&CStr, Entry)]) {
    for (name, entry) in entries {
        match entry {
            Entry::Shown => {
                directory(to, name, 0o755);
                place(copy(from, name, None, false), to, name);
            }
            Entry::Link(target) => link(to, name, target),
            Entry::Hidden | Entry::HiddenLink(_) => {}
        }
    }
}

fn drive() -> Result<()> {
    let image = tree::image()?;
    let mut path = [0; 32];
    let device = kernel::attach(&image, &mut path).path.to_str()?.to_owned();
    let itself = std::env::current_exe()?;
    let child = |what: &str, way: &str| {
        let mut command = Command::new(&itself);
        command.args([what, way, device.as_str()]).env_clear();
        command
    };
    // Its mount keeps the image's superblock, as other containers of the node would.
    let mut readers = Vec::new();
    for way in WAYS {
        let mut reader = Reader::spawn(child("read", way))?;
        reader.ready(tree::FILES).with_context(|| format!("root assembled as {way}"))?;
        readers.push(reader);
    }
    let mut starts = WAYS.map(|_| Vec::new());
    for round in 0..STARTS + 10 {
        for turn in 0..WAYS.len() {
            let index = (turn + round) % WAYS.len();
            let mut command = child("start", WAYS[index]);
            let start = Instant::now();
            let status = command.status()?;
            let took = start.elapsed().as_secs_f64() * 1e6;
            if !status.success() {
                bail!("{} could not be assembled", WAYS[index]);
            }
            if round >= 10 {
                starts[index].push(took);
            }
        }
    }
    let mut ratios = WAYS.map(|_| Vec::new());
    for round in 0..READS + 2 {
        let mut took = [0.0; WAYS.len()];
        for turn in 0..WAYS.len() {
            let index = (turn + round) % WAYS.len();
            readers[index].tell()?;
            took[index] = readers[index].answer()?;
        }
        if round >= 2 {
            took.iter().zip(&mut ratios).for_each(|(time, ratios)| ratios.push(time / took[0]));
        }
    }
    for reader in readers {
        reader.stop()?;
    }
    report(&mut starts, &mut ratios);
    Ok(())
}

fn report(starts: &mut [Vec<f64>], ratios: &mut [Vec<f64>]) {
    let at = |samples: &mut Vec<f64>, share: f64| {
        samples.sort_by(f64::total_cmp);
        samples[((samples.len() - 1) as f64 * share).round() as usize]
    };
    println!("{:<46} {:>22}   {:>22}", "", "start, ms (p10-p90)", "reading, ratio (p10-p90)");
    let mut figures = String::new();
    for (index, title) in TITLES.iter().enumerate() {
        let start = [0.5, 0.1, 0.9].map(|share| at(&mut starts[index], share) / 1e3);
        let ratio = [0.5, 0.1, 0.9].map(|share| at(&mut ratios[index], share));
        println!(
            "{title:<46} {:>8.3} ({:.3}-{:.3})   {:>8.3} ({:.3}-{:.3})",
            start[0], start[1], start[2], ratio[0], ratio[1], ratio[2]
        );
        let key = WAYS[index].replace('-', "_");
        figures += &format!(",\"{key}_start_ms\":{:.3},\"{key}_reading\":{:.3}", start[0], ratio[0]);
    }
    println!("{STARTS} starts and {READS} readings of {} files, interleaved", tree::FILES);
    println!("{{\"bench\":\"assembly\",\"figures\":{{{}}}}}", figures.trim_start_matches(','));
}
