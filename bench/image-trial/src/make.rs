//! Making images: by the gateway's own child process, told what `serve` would tell it, and by mksquashfs of the
//! same tree.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Who writes it, and how.
#[derive(Clone, Copy)]
pub(crate) struct Recipe {
    /// Short, for the line of JSON.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) writer: Writer,
    /// In mksquashfs' words.
    pub(crate) options: &'static str,
    /// Also without `--full`.
    pub(crate) is_usual: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Writer {
    Ours,
    Mksquashfs,
}

/// The first is our default, the second what it is compared with.
pub(crate) const RECIPES: [Recipe; 16] = [
    ours("zstd3", "zstd 3, 128 KiB (our default)", "-comp zstd -Xcompression-level 3", true),
    theirs("mksquashfs", "mksquashfs zstd 3, 128 KiB", "-comp zstd -Xcompression-level 3", true),
    theirs(
        "mksquashfs_plain",
        "mksquashfs zstd 3, no fragments",
        "-comp zstd -Xcompression-level 3 -no-fragments",
        false,
    ),
    ours("zstd1", "zstd 1, 128 KiB", "-comp zstd -Xcompression-level 1", false),
    ours("zstd6", "zstd 6, 128 KiB", "-comp zstd -Xcompression-level 6", false),
    ours("zstd9", "zstd 9, 128 KiB", "-comp zstd -Xcompression-level 9", false),
    ours("lz4", "lz4, 128 KiB", "-comp lz4", true),
    ours("gzip6", "gzip 6, 128 KiB", "-comp gzip -Xcompression-level 6", false),
    ours("gzip9", "gzip 9, 128 KiB", "-comp gzip -Xcompression-level 9", false),
    ours("xz", "xz, 128 KiB", "-comp xz", false),
    ours("zstd3_32k", "zstd 3, 32 KiB", "-comp zstd -Xcompression-level 3 -b 32768", false),
    ours("zstd3_64k", "zstd 3, 64 KiB", "-comp zstd -Xcompression-level 3 -b 65536", false),
    ours("zstd3_256k", "zstd 3, 256 KiB", "-comp zstd -Xcompression-level 3 -b 262144", false),
    ours("zstd3_512k", "zstd 3, 512 KiB", "-comp zstd -Xcompression-level 3 -b 524288", false),
    ours("zstd3_1m", "zstd 3, 1 MiB", "-comp zstd -Xcompression-level 3 -b 1048576", false),
    theirs("mksquashfs_1m", "mksquashfs zstd 3, 1 MiB", "-comp zstd -Xcompression-level 3 -b 1048576", false),
];

const fn ours(key: &'static str, title: &'static str, options: &'static str, is_usual: bool) -> Recipe {
    Recipe { key, title, writer: Writer::Ours, options, is_usual }
}

const fn theirs(key: &'static str, title: &'static str, options: &'static str, is_usual: bool) -> Recipe {
    Recipe { key, title, writer: Writer::Mksquashfs, options, is_usual }
}

/// What making an image took.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    /// Seconds of all processors.
    pub(crate) cpu: f64,
    /// Seconds.
    pub(crate) wall: f64,
}

/// Where inputs and images are.
pub(crate) struct Workshop {
    pub(crate) gateway: PathBuf,
    pub(crate) version: String,
    pub(crate) tree: PathBuf,
    pub(crate) layer: PathBuf,
    pub(crate) images: PathBuf,
}

impl Workshop {
    pub(crate) fn image(&self, recipe: &Recipe) -> PathBuf {
        self.images.join(format!("{}.squashfs", recipe.key))
    }

    /// Makes the image anew.
    pub(crate) fn make(&self, recipe: &Recipe) -> Result<Cost> {
        let image = self.image(recipe);
        let _absent_at_first = fs::remove_file(&image);
        let mut words: Vec<String> = Vec::new();
        let mut job = None;
        match recipe.writer {
            Writer::Ours => {
                File::create(&image)?;
                words.extend([self.gateway.display().to_string(), "convert".to_owned()]);
                job = Some(self.job(recipe, &image));
            }
            Writer::Mksquashfs => {
                words.extend([
                    "mksquashfs".to_owned(),
                    self.tree.display().to_string(),
                    image.display().to_string(),
                ]);
                let always = "-noappend -all-root -no-xattrs -quiet -no-progress";
                words.extend(always.split(' ').chain(recipe.options.split(' ')).map(str::to_owned));
            }
        }
        timed(&words, job.as_deref()).with_context(|| format!("make the image {}", recipe.title))
    }

    /// One line, see `convert.rs` of the gateway.
    fn job(&self, recipe: &Recipe, image: &Path) -> String {
        let options: Vec<String> = recipe.options.split(' ').map(|word| format!("{word:?}")).collect();
        let shown = |path: &Path| path.display().to_string();
        let (layer, output, scratch) = (shown(&self.layer), shown(image), shown(&self.images));
        format!(
            "{{\"version\":{:?},\"layers\":[{{\"path\":{layer:?},\"digest\":\"sha256:{}\",\"diff_id\":null,\
             \"compression\":\"none\"}}],\"output\":{output:?},\"image\":{output:?},\"scratch\":{scratch:?},\
             \"converter\":{{\"program\":null,\"options\":[{}]}},\"records\":null,\
             \"reach\":{{\"read\":[{layer:?}],\"write\":[{output:?}],\"make\":[{scratch:?}],\"run\":[],\
             \"links\":false}}}}\n",
            self.version,
            "0".repeat(64),
            options.join(",")
        )
    }
}

/// Runs words under bash, whose `time` knows what all of it took.
fn timed(words: &[String], job: Option<&str>) -> Result<Cost> {
    let script = "TIMEFORMAT='%U %S'; time \"$@\"";
    let start = Instant::now();
    let mut child = Command::new("bash")
        .args(["-c", script, "bash"])
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run bash")?;
    // It stays open: its end would mean that nobody wants the image any more.
    let mut lifeline = child.stdin.take().context("its stdin")?;
    if let Some(job) = job {
        lifeline.write_all(job.as_bytes()).context("write the job")?;
    }
    let answers = BufReader::new(child.stdout.take().context("its stdout")?).lines();
    let last = answers.map_while(Result::ok).last().unwrap_or_default();
    let output = child.wait_with_output().context("wait for it")?;
    drop(lifeline);
    let wall = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} failed: {last} {}", words.join(" "), said.trim());
    }
    let times = said.lines().last().and_then(|line| line.split_once(' ')).context("bash told no times")?;
    Ok(Cost { cpu: times.0.parse::<f64>()? + times.1.parse::<f64>()?, wall })
}
