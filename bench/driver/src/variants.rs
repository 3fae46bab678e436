//! What is measured against what, and the making sure beforehand that each does what it is measured for.

use crate::image::{FRESH, SHARED, tree};
use crate::mountinfo;
use crate::root_shell::RootShell;
use anyhow::{Context as _, Result, bail};
use bench_layout::{BASE, ETC, IMAGES, OTHER_GROUP, USER};
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program in the image.
pub(crate) const PAYLOAD: &str = "/bin/true-static";
/// A usual login's variables; every program gets these and no others.
pub(crate) const ENVIRONMENT: [(&str, &str); 8] = [
    ("HOME", "/home/bench"),
    ("LANG", "C.UTF-8"),
    ("LOGNAME", "bench"),
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("PWD", "/"),
    ("SHELL", "/bin/sh"),
    ("TERM", "dumb"),
    ("USER", "bench"),
];
/// Longest wait for a loop device to clear itself.
const SETTLE: Duration = Duration::from_secs(10);

/// One row of the table.
pub(crate) struct Variant {
    /// Its name in the figures.
    pub(crate) key: &'static str,
    /// Its name in the table.
    pub(crate) title: &'static str,
    argv: Vec<String>,
    fresh_loop: bool,
    /// Runs the program itself, where only root may.
    by: Option<RootShell>,
    /// What root does before and after each time, not measured.
    around: Option<(RootShell, String, String)>,
}

impl Variant {
    fn new(key: &'static str, title: &'static str, argv: &[&str]) -> Self {
        Self {
            key,
            title,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            fresh_loop: false,
            by: None,
            around: None,
        }
    }

    fn with_fresh_loop(self) -> Self {
        Self { fresh_loop: true, ..self }
    }

    fn command(&self) -> Command {
        command(&self.argv)
    }

    /// Time from before the start to after the end, in microseconds.
    pub(crate) fn time(&self) -> Result<f64> {
        if self.fresh_loop {
            wait_until_detached(FRESH)?;
        }
        if let Some((root, before, _)) = &self.around {
            root.run(before)?;
        }
        let mut command = self.command();
        let start = Instant::now();
        let took = match &self.by {
            Some(root) => {
                root.run(&self.argv.join(" "))?;
                start.elapsed()
            }
            None => {
                let status = command.status().with_context(|| format!("run {}", self.argv[0]))?;
                let took = start.elapsed();
                if !status.success() {
                    bail!("{}: {status}: {}", self.title, self.argv.join(" "));
                }
                took
            }
        };
        if let Some((root, _, after)) = &self.around {
            root.run(after)?;
        }
        Ok(took.as_secs_f64() * 1e6)
    }
}

pub(crate) fn command(argv: &[String]) -> Command {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env_clear().envs(ENVIRONMENT);
    command
}

pub(crate) fn program(name: &str) -> String {
    format!("{BASE}/bin/{name}")
}

pub(crate) fn of_image(id: &str) -> String {
    format!("--image=id:{id}")
}

/// A container in the background, whose mount keeps the shared image on its loop device.
pub(crate) struct Keeper {
    child: Child,
    device: String,
}

impl Keeper {
    /// Starts it and waits until its program runs.
    pub(crate) fn start() -> Result<Self> {
        let argv = [program("shifter"), of_image(SHARED), PAYLOAD.to_owned(), "-".to_owned()];
        let mut child =
            command(&argv).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start shifter")?;
        let (Some(to), Some(from)) = (&mut child.stdin, &mut child.stdout) else {
            bail!("shifter has no pipes")
        };
        to.write_all(b"?").context("write to the container")?;
        from.read_exact(&mut [0]).context("the first container did not start")?;
        let device = device_of(SHARED)?.context("the first container has no loop device")?;
        Ok(Self { child, device })
    }

    /// Ends it, and waits until nothing is left.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().context("wait for the first container")?;
        if !status.success() {
            bail!("the first container ended with {status}");
        }
        wait_until_detached(SHARED)?;
        wait_until_detached(FRESH)
    }
}

/// The loop device that carries an image.
pub(crate) fn device_of(id: &str) -> Result<Option<String>> {
    for entry in fs::read_dir("/sys/block").context("list /sys/block")? {
        let entry = entry.context("list /sys/block")?;
        // A device that is not in use, or just being cleared, has no such file.
        if fs::read_to_string(entry.path().join("loop/backing_file")).is_ok_and(|file| file.contains(id)) {
            return Ok(Some(format!("/dev/{}", entry.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}

fn wait_until_detached(id: &str) -> Result<()> {
    let start = Instant::now();
    while let Some(device) = device_of(id)? {
        if start.elapsed() > SETTLE {
            bail!("{device} still carries the image after its last container ended");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Fails unless floor and shifter show the program the same mounts, the same site files and the same rights.
pub(crate) fn compare_containers(keeper: &Keeper) -> Result<()> {
    let shifter = [program("shifter"), of_image(SHARED), PAYLOAD.to_owned()];
    let floor = [program("floor"), keeper.device.clone(), PAYLOAD.to_owned()];
    let both = |path: &str| Ok::<_, anyhow::Error>((shown(&shifter, path)?, shown(&floor, path)?));
    let (ours, floors) = both("/proc/self/mountinfo")?;
    mountinfo::compare(&mountinfo::parse(&ours)?, &mountinfo::parse(&floors)?)?;
    for (name, _) in ETC {
        let path = format!("/etc/{}", name.to_string_lossy());
        let (ours, floors) = both(&path)?;
        if ours != floors {
            bail!("{path} differs: shifter has {ours:?}, the floor program {floors:?}");
        }
    }
    let (ours, floors) = both("/proc/self/status")?;
    if credentials(&ours) != credentials(&floors) {
        bail!(
            "credentials differ: shifter has {:?}, the floor {:?}",
            credentials(&ours),
            credentials(&floors)
        );
    }
    let (ours, floors) = both("/var/shifterConfig.json")?;
    if ours.len() != floors.len() {
        bail!("shifterConfig.json has {} bytes, the floor program's {}", ours.len(), floors.len());
    }
    Ok(())
}

/// The lines of /proc/PID/status that say what a process may do.
fn credentials(status: &str) -> Vec<&str> {
    let names = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:"];
    status.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect()
}

/// The content of a file as a container shows it.
fn shown(start: &[String], path: &str) -> Result<String> {
    let argv = [start, &[path.to_owned()]].concat();
    let output = command(&argv).output().with_context(|| format!("run {}", argv[0]))?;
    if !output.status.success() {
        bail!("{}: {}: {}", argv.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{path} is not UTF-8"))
}

/// The rows that can be measured here, and why others cannot.
pub(crate) fn usable(
    keeper: &Keeper,
    with_glibc: bool,
    root: &RootShell,
) -> Result<(Vec<Variant>, Vec<String>)> {
    let (shifter, floor, plain, tree) =
        (program("shifter"), program("floor"), program("true-static"), tree());
    let fresh = format!("{IMAGES}/{FRESH}.squashfs");
    let peers = [
        Variant::new(
            "bwrap",
            "bubblewrap, unpacked directory",
            &[
                "bwrap",
                "--ro-bind",
                &tree,
                "/",
                "--dev-bind",
                "/dev",
                "/dev",
                "--bind",
                "/proc",
                "/proc",
                "--bind",
                "/sys",
                "/sys",
                "--bind",
                "/tmp",
                "/tmp",
                "--bind",
                "/home",
                "/home",
                PAYLOAD,
            ],
        ),
        Variant::new("charliecloud", "Charliecloud, unpacked directory", &["ch-run", &tree, "--", PAYLOAD]),
    ];
    let mut variants = vec![
        Variant::new("exec", "plain exec", &[&plain]),
        Variant::new("floor", "floor, further container", &[&floor, &keeper.device, PAYLOAD]),
        Variant::new("private", "shifter, further container", &[&shifter, &of_image(SHARED), PAYLOAD]),
        // The floor attaches what its caller may not read: it is setuid root.
        Variant::new("floor_first", "floor, first container", &[&floor, &fresh, PAYLOAD]).with_fresh_loop(),
        Variant::new("first", "shifter, first container", &[&shifter, &of_image(FRESH), PAYLOAD])
            .with_fresh_loop(),
    ];
    let (user, uid, gid) = USER;
    let set_up = format!(
        "{} -U {uid} -G {gid} -u {user} --groups={} id {SHARED}",
        program("setupRoot"),
        OTHER_GROUP.1
    );
    let (take_down, nothing) = (program("unsetupRoot"), "true".to_owned());
    let private = [&shifter, &of_image(SHARED), "--module=big", PAYLOAD];
    variants.push(Variant::new("module", "shifter, further, with a 50 MB module", &private));
    let joined = Variant::new(
        "prepared",
        "shifter, into a prepared container",
        &[&shifter, &of_image(SHARED), PAYLOAD],
    );
    let by_root =
        |key, title, argv: &[&str]| Variant { by: Some(root.clone()), ..Variant::new(key, title, argv) };
    let words = [&shifter, "-v", &of_image(SHARED), PAYLOAD].map(str::to_owned);
    root.run(&set_up)?;
    let said = command(&words).output().context("run shifter")?;
    root.run(&take_down)?;
    if !String::from_utf8_lossy(&said.stderr).contains("joined ") {
        bail!("the prepared container was not joined");
    }
    variants.extend([
        Variant { around: Some((root.clone(), set_up.clone(), take_down.clone())), ..joined },
        by_root("root_exec", "plain exec by root's shell", &[&plain]),
        Variant {
            around: Some((root.clone(), nothing, take_down)),
            ..by_root("setuproot", "setupRoot by root's shell", &set_up.split(' ').collect::<Vec<_>>())
        },
        Variant {
            around: Some((root.clone(), "true".to_owned(), program("unsetupRoot"))),
            ..by_root(
                "setuproot_module",
                "the same, with a 50 MB module",
                &[&set_up.split(' ').collect::<Vec<_>>()[..], &["-m", "big"]].concat(),
            )
        },
    ]);
    let mut absent = Vec::new();
    if with_glibc {
        let glibc = program("shifter-glibc");
        let title = "shifter built with glibc, further container";
        variants.push(Variant::new("private_glibc", title, &[&glibc, &of_image(SHARED), PAYLOAD]));
    } else {
        absent.push("shifter built with glibc: not built here; --full builds it".to_owned());
    }
    for variant in &variants {
        variant.time()?;
    }
    for peer in peers {
        match peer.command().output() {
            Ok(output) if output.status.success() => variants.push(peer),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
                absent.push(format!("{}: {}: {said}", peer.title, output.status));
            }
            Err(_) => absent.push(format!("{}: {} is not installed", peer.title, peer.argv[0])),
        }
    }
    Ok((variants, absent))
}
