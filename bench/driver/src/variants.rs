//! What is measured against what, and the making sure beforehand that each does what it is measured for.

use crate::image::{FRESH, SHARED};
use crate::root_shell::RootShell;
use crate::{nss, peers, services};
use anyhow::{Context as _, Result, bail};
use bench_layout::{BASE, IMAGES, OTHER_GROUP, USER};
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

/// One row of the table: what is measured, or the title of what is not and why.
pub(crate) enum Row {
    /// Works here.
    Measured(Variant),
    /// Title and reason.
    Absent(&'static str, String),
}

/// What is measured.
pub(crate) struct Variant {
    /// Its name in the figures.
    pub(crate) key: &'static str,
    /// Its name in the table.
    pub(crate) title: &'static str,
    /// It is measured in one of so many rounds.
    pub(crate) every: usize,
    argv: Vec<String>,
    fresh_loop: bool,
    /// Runs the program itself, where only root may.
    by: Option<RootShell>,
    /// What root does before and after each time, not measured.
    around: Option<(RootShell, String, String)>,
    /// It runs once before each time, not measured.
    again: bool,
}

impl Variant {
    pub(crate) fn new(key: &'static str, title: &'static str, argv: &[&str]) -> Self {
        Self {
            key,
            title,
            every: 1,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            fresh_loop: false,
            by: None,
            around: None,
            again: false,
        }
    }

    fn with_fresh_loop(self) -> Self {
        Self { fresh_loop: true, ..self }
    }

    /// Measured in one of `every` rounds, because it is slow.
    pub(crate) fn every(self, every: usize) -> Self {
        Self { every, ..self }
    }

    /// Run by root's shell.
    pub(crate) fn by(self, root: &RootShell) -> Self {
        Self { by: Some(root.clone()), ..self }
    }

    /// With commands of root's before and after each time.
    pub(crate) fn around(self, root: &RootShell, before: &str, after: &str) -> Self {
        Self { around: Some((root.clone(), before.to_owned(), after.to_owned())), ..self }
    }

    /// The second run is measured.
    fn again(self) -> Self {
        Self { again: true, ..self }
    }

    /// The program's name or path.
    pub(crate) fn program(&self) -> &str {
        &self.argv[0]
    }

    /// The same by the program at this path.
    pub(crate) fn with_program(mut self, path: String) -> Self {
        self.argv[0] = path;
        self
    }

    /// Whether it works; what it says then goes to the file `said`.
    pub(crate) fn try_once(&self, said: &str) -> Result<bool> {
        if let Some(root) = &self.by {
            return Ok(root.run(&format!("{} 2>{said}", self.argv.join(" "))).is_ok());
        }
        let file = fs::File::create(said).with_context(|| format!("create {said}"))?;
        let status =
            self.command().stderr(file).status().with_context(|| format!("run {}", self.program()))?;
        Ok(status.success())
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
        if self.again {
            self.command().status().with_context(|| format!("run {}", self.argv[0]))?;
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

/// A container in the background, whose mount keeps its image on a loop device.
pub(crate) struct Keeper {
    child: Child,
    image: String,
    device: String,
}

impl Keeper {
    /// Starts it and waits until its program, which must copy its input to its output, runs.
    pub(crate) fn start(image: &str, words: &[&str]) -> Result<Self> {
        let mut argv = vec![program("shifter"), of_image(image)];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        let mut child =
            command(&argv).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start shifter")?;
        let (Some(to), Some(from)) = (&mut child.stdin, &mut child.stdout) else {
            bail!("shifter has no pipes")
        };
        to.write_all(b"?").context("write to the container")?;
        from.read_exact(&mut [0]).context("the first container did not start")?;
        let device = device_of(image)?.context("the first container has no loop device")?;
        Ok(Self { child, image: image.to_owned(), device })
    }

    /// Its image's loop device.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Ends it, and waits until nothing is left.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().context("wait for the first container")?;
        if !status.success() {
            bail!("the first container ended with {status}");
        }
        wait_until_detached(&self.image)?;
        wait_until_detached(FRESH)
    }
}

/// The loop device that carries an image, or one of several.
pub(crate) fn device_of(id: &str) -> Result<Option<String>> {
    Ok(devices_of(id)?.pop())
}

/// All loop devices that carry an image.
pub(crate) fn devices_of(id: &str) -> Result<Vec<String>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir("/sys/block").context("list /sys/block")? {
        let entry = entry.context("list /sys/block")?;
        // A device that is not in use, or just being cleared, has no such file.
        if fs::read_to_string(entry.path().join("loop/backing_file")).is_ok_and(|file| file.contains(id)) {
            devices.push(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(devices)
}

/// Waits until no loop device carries an image.
pub(crate) fn wait_until_detached(id: &str) -> Result<()> {
    let start = Instant::now();
    while let Some(device) = device_of(id)? {
        if start.elapsed() > SETTLE {
            bail!("{device} still carries the image after its last container ended");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The rows, of which those that are not the peers' are seen to work once, and the containers that keep loop devices.
pub(crate) fn rows(
    keeper: &Keeper,
    with_glibc: bool,
    root: &RootShell,
    no_gateway: Option<String>,
) -> Result<(Vec<Row>, Option<Keeper>)> {
    let mut variants = starts(keeper);
    variants.extend(prepared(root)?);
    let mut rows: Vec<Row> = Vec::new();
    let title = "shifter built with glibc, further container";
    if with_glibc {
        let glibc = program("shifter-glibc");
        variants.push(Variant::new("private_glibc", title, &[&glibc, &of_image(SHARED), PAYLOAD]));
    } else {
        rows.push(Row::Absent(title, "not built here; --full builds it".to_owned()));
    }
    rows.push(nss::row(root)?);
    let mut other_keeper = None;
    match no_gateway {
        Some(reason) => rows.push(Row::Absent("shifter, image by name, looked up", reason)),
        None => {
            let (keeper, by_name) = services::rows()?;
            other_keeper = Some(keeper);
            rows.extend(by_name);
        }
    }
    rows.splice(0..0, variants.into_iter().map(Row::Measured));
    for row in &rows {
        if let Row::Measured(variant) = row {
            variant.time()?;
        }
    }
    rows.extend(peers::rows(root)?);
    Ok((rows, other_keeper))
}

fn starts(keeper: &Keeper) -> Vec<Variant> {
    let (shifter, floor, plain) = (program("shifter"), program("floor"), program("true-static"));
    let fresh = format!("{IMAGES}/{FRESH}.squashfs");
    vec![
        Variant::new("exec", "plain exec", &[&plain]),
        Variant::new("floor", "floor, further container", &[&floor, &keeper.device, PAYLOAD]),
        Variant::new("private", "shifter, further container", &[&shifter, &of_image(SHARED), PAYLOAD]),
        // The floor attaches what its caller may not read: it is setuid root.
        Variant::new("floor_first", "floor, first container", &[&floor, &fresh, PAYLOAD]).with_fresh_loop(),
        Variant::new("first", "shifter, first container", &[&shifter, &of_image(FRESH), PAYLOAD])
            .with_fresh_loop(),
        Variant::new(
            "module",
            "shifter, further, with a 50 MB module",
            &[&shifter, &of_image(SHARED), "--module=big", PAYLOAD],
        ),
    ]
}

/// Rows with `setupRoot` in them, once it was seen that what it prepares is joined.
fn prepared(root: &RootShell) -> Result<[Variant; 4]> {
    let (shifter, image) = (program("shifter"), of_image(SHARED));
    let (user, uid, gid) = USER;
    let set_up = format!(
        "{} -U {uid} -G {gid} -u {user} --groups={} id {SHARED}",
        program("setupRoot"),
        OTHER_GROUP.1
    );
    let take_down = program("unsetupRoot");
    root.run(&set_up)?;
    let words = [&shifter, "-v", &image, PAYLOAD].map(str::to_owned);
    let said = command(&words).output().context("run shifter")?;
    root.run(&take_down)?;
    if !String::from_utf8_lossy(&said.stderr).contains("joined ") {
        bail!("the prepared container was not joined");
    }
    let words: Vec<&str> = set_up.split(' ').collect();
    let with_module = [&words[..], &["-m", "big"]].concat();
    Ok([
        // A job prepares once and starts many programs.
        Variant::new("prepared", "shifter, into a prepared container", &[&shifter, &image, PAYLOAD])
            .around(root, &set_up, &take_down)
            .again(),
        Variant::new("root_exec", "plain exec by root's shell", &[&program("true-static")]).by(root),
        Variant::new("setuproot", "setupRoot by root's shell", &words)
            .by(root)
            .around(root, "true", &take_down),
        Variant::new("setuproot_module", "the same, with a 50 MB module", &with_module)
            .by(root)
            .around(root, "true", &take_down),
    ])
}
