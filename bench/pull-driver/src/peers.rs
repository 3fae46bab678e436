//! The other sides: the floor program and the tools that make an image today, each run as its manual says.
//!
//! A tool that is not installed, or does not work here, is a row that says so. All tools' files lie on the same
//! kind of file system as the gateway's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use shifter_tests::fixture::Built;
use shifter_tests::harness::{Registry, RegistryOptions, Sandbox};

use crate::layer::Layer;
use crate::process::{self, Watch};
use crate::site::{Cost, REPOSITORY};

/// The system's directories first: tools of Debian written in Python want Debian's Python.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// The tag that all tools pull.
pub(crate) const TAG: &str = "1";

/// Runs tools in a directory of their own.
pub(crate) struct Peers {
    directory: PathBuf,
    /// podman takes no name of more than 50 characters.
    podman_run: PathBuf,
    registry: Registry,
    tls: Option<Registry>,
}

/// `Err` with the reason where a tool is missing.
pub(crate) type Found = std::result::Result<(), String>;

/// The parts of the chain of skopeo, umoci and mksquashfs; the two conversions start from the same tree.
pub(crate) struct Chain {
    pub(crate) copy: Cost,
    pub(crate) unpack: Cost,
    pub(crate) gzip: Cost,
    pub(crate) zstd: Cost,
    /// Copying the same tag once more.
    pub(crate) again: Cost,
}

impl Peers {
    pub(crate) fn new(sandbox: &mut Sandbox, registry: &Registry) -> Result<Self> {
        let directory = sandbox.new_directory("peers")?;
        let podman_run = sandbox.prefix().join("podman-run");
        Ok(Self { directory, podman_run, registry: registry.clone(), tls: None })
    }

    /// Whether these programs are there and can say their version.
    pub(crate) fn find(programs: &[&str]) -> Found {
        for program in programs {
            let option = if *program == "mksquashfs" { "-version" } else { "--version" };
            let tried = command(program).arg(option).output();
            match tried {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stderr).into_owned();
                    let why = text.lines().last().unwrap_or_default();
                    return Err(format!("{program} does not work here: {why}"));
                }
                Err(_) => return Err(format!("{program} is not installed")),
            }
        }
        Ok(())
    }

    /// Empties what all tools have kept.
    pub(crate) fn clear(&self) -> Result<()> {
        // podman's storage mounts its own directory.
        let _not_mounted =
            rustix::mount::unmount(self.path("podman/overlay"), rustix::mount::UnmountFlags::DETACH);
        for entry in fs::read_dir(&self.directory).context("list the tools' directory")? {
            let path = entry?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Where a conversion has written its image.
    pub(crate) fn image(&self) -> PathBuf {
        self.path("zstd.squashfs")
    }

    /// Writes the layers for the floor program, outside of what [`Peers::clear`] empties; returns its arguments.
    pub(crate) fn floor_arguments(sandbox: &mut Sandbox, layers: &[Layer]) -> Result<Vec<String>> {
        let directory = sandbox.new_directory("floor")?;
        let mut arguments = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let path = directory.join(format!("{number}.tar.gz"));
            fs::write(&path, &layer.blob).with_context(|| format!("write {}", path.display()))?;
            arguments.push(path.display().to_string());
            for digest in [&layer.digest, &layer.diff_id] {
                arguments.push(digest.trim_start_matches("sha256:").to_owned());
            }
        }
        Ok(arguments)
    }

    /// Runs the floor program with the priority that the gateway's conversions have, so that other work on the
    /// machine is in the way of both alike. `hash` is whose sha256 it uses.
    pub(crate) fn floor(&self, program: &Path, hash: &str, arguments: &[String]) -> Result<Cost> {
        let mut floor = command("nice");
        floor.args(["-n", "10"]).arg(program).arg(hash).args(arguments);
        self.run(floor)
    }

    pub(crate) fn chain(&self) -> Result<Chain> {
        let layout = format!("{}:{TAG}", self.path("oci").display());
        let source = format!("docker://{}/{REPOSITORY}:{TAG}", self.registry.authority);
        let copy = || {
            let mut copy = command("skopeo");
            copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &source]);
            copy.arg(format!("oci:{layout}"));
            self.run(copy)
        };
        let first = copy()?;
        let mut unpack = command("umoci");
        unpack.args(["unpack", "--image", &layout]).arg(self.path("bundle"));
        let unpack = self.run(unpack)?;
        let convert = |compression: &[&str], output: &str| {
            let mut convert = command("mksquashfs");
            convert.arg(self.path("bundle/rootfs")).arg(self.path(output));
            convert.args(["-noappend", "-quiet", "-no-progress", "-comp"]).args(compression);
            self.run(convert)
        };
        Ok(Chain {
            copy: first,
            unpack,
            gzip: convert(&["gzip"], "gzip.squashfs")?,
            zstd: convert(&["zstd", "-Xcompression-level", "3"], "zstd.squashfs")?,
            again: copy()?,
        })
    }

    /// Charliecloud pulls by TLS only: it gets a registry of its own with the same image, once.
    pub(crate) fn offer_tls(&mut self, sandbox: &mut Sandbox, built: &Built) -> Result<()> {
        if self.tls.is_some() {
            return Ok(());
        }
        let registry = sandbox.registry(RegistryOptions { tls: true, ..RegistryOptions::default() })?;
        sandbox.push(&registry, built, REPOSITORY, TAG)?;
        self.tls = Some(registry);
        Ok(())
    }

    /// Pull and conversion as one, and pulling the same tag again.
    pub(crate) fn charliecloud(&self) -> Result<(Cost, Cost)> {
        let registry = self.tls.as_ref().context("the registry with TLS was not started")?;
        let reference = format!("{}/{REPOSITORY}:{TAG}", registry.authority);
        let program = |name: &str| {
            let mut program = command(name);
            program.env("CH_IMAGE_STORAGE", self.path("charliecloud"));
            program
        };
        let pull = || {
            let mut pull = program("ch-image");
            pull.args(["pull", "--no-cache", "--tls-no-verify", &reference]);
            self.run(pull)
        };
        let first = pull()?;
        let mut convert = program("ch-convert");
        convert.args(["-i", "ch-image", "-o", "squash", &reference]).arg(self.path("charliecloud.sqfs"));
        let converted = self.run(convert)?;
        Ok((sum(&[first, converted]), pull()?))
    }

    /// Pulling into podman's storage, which makes no image file, and pulling the same tag again.
    pub(crate) fn podman(&self) -> Result<(Cost, Cost)> {
        let pull = || {
            let mut pull = command("podman");
            pull.arg("--root").arg(self.path("podman")).arg("--runroot").arg(&self.podman_run);
            pull.args(["--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false"]);
            pull.arg(format!("{}/{REPOSITORY}:{TAG}", self.registry.authority));
            self.run(pull)
        };
        let pulled = pull().and_then(|first| Ok((first, pull()?)));
        // podman's locks; where none was pulled, it may have made none.
        let _not_there = fs::remove_file("/dev/shm/libpod_lock");
        pulled
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn run(&self, mut command: Command) -> Result<Cost> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = self.path("log");
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).current_dir("/");
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let watch = Watch::start(child.id());
        let (status, cpu) = process::wait(child)?;
        let wall = begun.elapsed();
        let peak = watch.stop()?;
        if !status.success() {
            bail!("{name} failed ({status}):\n{}", fs::read_to_string(&log).unwrap_or_default());
        }
        Ok(Cost { wall, cpu, peak })
    }
}

/// Steps one after another.
pub(crate) fn sum(steps: &[Cost]) -> Cost {
    let zero = Cost { wall: Duration::ZERO, cpu: Duration::ZERO, peak: process::Peak::default() };
    steps.iter().fold(zero, |all, step| Cost {
        wall: all.wall + step.wall,
        cpu: all.cpu + step.cpu,
        peak: all.peak.max(step.peak),
    })
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs([("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8")]);
    command
}
