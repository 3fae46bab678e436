//! One OCI layout, unpacked by `umoci` and converted by the product: both sides listed, the documented policy applied
//! to umoci's, and compared name by name and byte by byte.
//!
//! The policy stands here a second time, as `docs/administrator.md` tells it, because a test that took it from the
//! product could not find it wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use shifter_tests::fixture::{Built, Compression, Image, Layer, write_oci_layout};
use shifter_tests::harness::Sandbox;

/// A name's time is not compared: no entry says it.
const ANY_TIME: i64 = i64::MIN;

/// What stands at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Bytes, and all names of the file.
    File(u64, BTreeSet<Vec<u8>>),
    Symlink(Vec<u8>),
    /// Never in an image.
    Special,
}

pub type Listing = BTreeMap<Vec<u8>, Thing>;

/// Where umoci and we differ, and why we are right: the name, what stands there in our image, the reason.
pub type Differs<'a> = &'a [(&'a str, &'a str, &'a str)];

/// An image's layers, oldest first, and what is known to differ.
pub struct Case<'a> {
    pub name: &'a str,
    pub layers: Vec<Layer>,
    pub differs: Differs<'a>,
    /// Directories that entries imply and no entry describes: what mode is theirs, and what time, nobody says.
    pub implied: &'a [&'a str],
}

/// A sandbox, and where layouts, bundles and images are put.
pub struct Bench {
    sandbox: Sandbox,
    folder: PathBuf,
    version: String,
    cases: usize,
}

impl Bench {
    pub fn new() -> Self {
        let mut sandbox = Sandbox::new().unwrap();
        let folder = sandbox.new_directory("compared").unwrap();
        let program = sandbox.program("shifter-imagegw").unwrap();
        let said =
            sandbox.root().run(&[&program.display().to_string(), "--version"]).unwrap().success().unwrap();
        let version = said.split_whitespace().last().unwrap().to_owned();
        Self { sandbox, folder, version, cases: 0 }
    }

    /// Puts everything on a disk of the host instead of in memory; the caller removes the folder.
    pub fn on_disk(mut self, folder: &Path) -> Self {
        self.folder = folder.to_owned();
        self
    }

    pub fn finish(self) {
        self.sandbox.finish().unwrap();
    }

    /// Fails unless both agree in all but the differences told.
    pub fn check(&mut self, case: Case<'_>) {
        let built = Image::new(case.layers).build().unwrap();
        self.check_built(case.name, &built, &built, case.differs, case.implied);
    }

    /// As [`Bench::check`], with layers of these compressions in our image; umoci gets the gzip twin, and its diff_ids
    /// are ours.
    pub fn check_twin(&mut self, name: &str, layers: &[Layer], compressions: &[Compression]) {
        let plain = Image::new(layers.to_vec()).build().unwrap();
        let other = layers.iter().zip(compressions).map(|(layer, kind)| layer.clone().compressed(*kind));
        let other = Image::new(other.collect()).build().unwrap();
        self.check_built(name, &plain, &other, &[], &[]);
    }

    /// As [`Bench::check`], with images that were built elsewhere: what umoci is given, and what the product is.
    pub fn check_images(&mut self, name: &str, theirs: &Built, ours: &Built, implied: &[&str]) {
        self.check_built(name, theirs, ours, &[], implied);
    }

    /// Fails unless umoci unpacks it and the product refuses it in these words.
    pub fn check_refused(&mut self, name: &str, layers: Vec<Layer>, words: &str) {
        let place = self.new_place();
        let built = Image::new(layers).build().unwrap();
        self.umoci(&built, &place);
        let said = self.convert(&built, &place).err().unwrap_or_default();
        assert!(said.contains(words), "{name}: {said}");
    }

    fn check_built(
        &mut self,
        name: &str,
        theirs: &Built,
        ours: &Built,
        differs: Differs<'_>,
        implied: &[&str],
    ) {
        let place = self.new_place();
        let bundle = self.umoci(theirs, &place);
        let image = self.convert(ours, &place).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mount = place.join("mount");
        fs::create_dir(&mount).unwrap();
        let (image, mount_name) = (image.display().to_string(), mount.display().to_string());
        self.root(&["mount", "-t", "squashfs", "-o", "loop,ro", &image, &mount_name]);
        let found = std::panic::catch_unwind(|| listing(&mount));
        let compared = found.map(|found| compare(name, &bundle, &mount, found, differs, implied));
        self.root(&["umount", &mount_name]);
        match compared {
            Ok(wrong) => assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        // unsquashfs reads it too; what it writes goes nowhere.
        let check = format!(
            "unsquashfs -no-progress -strict-errors -cat {image} >/dev/null && unsquashfs -lls {image} >/dev/null"
        );
        self.root(&["sh", "-c", &check]);
        fs::remove_dir_all(&place).unwrap();
    }

    fn new_place(&mut self) -> PathBuf {
        self.cases += 1;
        let place = self.folder.join(format!("{}", self.cases));
        fs::create_dir(&place).unwrap();
        place
    }

    fn root(&self, words: &[&str]) {
        let limit = Duration::from_secs(280);
        self.sandbox.root().limit(limit).run(words).unwrap().success().unwrap();
    }

    /// The root directory that umoci makes of it.
    fn umoci(&self, built: &Built, place: &Path) -> PathBuf {
        let layout = place.join("layout");
        write_oci_layout(built, &layout, "t").unwrap();
        let image = format!("{}:t", layout.display());
        let bundle = place.join("bundle");
        self.root(&["umoci", "unpack", "--image", &image, &bundle.display().to_string()]);
        bundle.join("rootfs")
    }

    /// The image that the gateway's own child process makes of it: the job as `shifter-imagegw serve` gives it.
    fn convert(&self, built: &Built, place: &Path) -> Result<PathBuf, String> {
        let manifest: Value = serde_json::from_slice(&built.manifests[&built.top].bytes).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let config: Value =
            serde_json::from_slice(&built.blobs[&text(&manifest["config"]["digest"])]).unwrap();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        let layers: Vec<Value> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| {
                let digest = text(&layer["digest"]);
                let path = place.join(digest.trim_start_matches("sha256:"));
                fs::write(&path, &built.blobs[&digest]).unwrap();
                let media_type = text(&layer["mediaType"]);
                let compression = match media_type.rsplit_once('+') {
                    Some((_, compression)) => compression,
                    None => "none",
                };
                json!({"path": path, "digest": digest, "diff_id": diff_id, "compression": compression})
            })
            .collect();
        let output = place.join("image.squashfs");
        File::create(&output).unwrap();
        let converter = json!({"program": null, "options": []});
        let job = json!({
            "version": self.version, "layers": layers, "output": output, "scratch": place, "converter": converter,
            "records": null, "image": output,
            "reach": {"read": [place], "write": [output], "make": [place], "run": [], "links": false},
        });
        let program = self.sandbox.program("shifter-imagegw").unwrap().display().to_string();
        let mut child = self.sandbox.root().spawn(&[&program, "convert"]).unwrap();
        // The pipe stays open: its end would mean that nobody wants the image any more.
        let mut lifeline = child.stdin.take().unwrap();
        lifeline.write_all(format!("{job}\n").as_bytes()).unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let last = answers.map(|line| line.unwrap()).last().unwrap_or_default();
        let status = child.wait().unwrap();
        drop(lifeline);
        if status.success() { Ok(output) } else { Err(last) }
    }
}

/// Everything below a directory, and the directory itself under the empty name.
pub fn listing(root: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut names: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(name) = waiting.pop() {
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let key = name.as_os_str().as_bytes().to_vec();
        if meta.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            waiting.extend(entries.map(|entry| name.join(entry.unwrap().file_name())));
        } else if meta.is_file() {
            names.entry(meta.ino()).or_default().insert(key.clone());
        }
        found.insert(key, (thing(&path, &meta), meta.ino()));
    }
    let finish = |(mut thing, number): (Thing, u64)| {
        if let Kind::File(_, all) = &mut thing.kind {
            all.clone_from(&names[&number]);
        }
        thing
    };
    found.into_iter().map(|(name, thing)| (name, finish(thing))).collect()
}

fn thing(path: &Path, meta: &Metadata) -> Thing {
    let kind = meta.file_type();
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        Kind::File(meta.len(), BTreeSet::new())
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else {
        assert!(kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket());
        Kind::Special
    };
    Thing { kind, mode: meta.mode() & 0o7777, owner: (meta.uid(), meta.gid()), mtime: meta.mtime() }
}

const SHADOWS: [&[u8]; 4] = [b"etc/shadow", b"etc/shadow-", b"etc/gshadow", b"etc/gshadow-"];

/// What the product documents that it changes of every image.
pub fn with_policy(listing: Listing) -> Listing {
    let is_left_out = |name: &[u8], thing: &Thing| thing.kind == Kind::Special || name.starts_with(b"dev/");
    let kept: BTreeSet<Vec<u8>> = listing
        .iter()
        .filter(|(name, thing)| !is_left_out(name, thing))
        .map(|(name, _)| name.clone())
        .collect();
    let change = |(name, mut thing): (Vec<u8>, Thing)| {
        thing.owner = (0, 0);
        thing.mtime = thing.mtime.clamp(0, i64::from(u32::MAX));
        if name == b"dev" && thing.kind != Kind::Directory {
            thing = Thing { kind: Kind::Directory, mode: 0o755, owner: (0, 0), mtime: ANY_TIME };
        }
        match &mut thing.kind {
            Kind::Directory => thing.mode = (thing.mode & 0o1777) | 0o755,
            Kind::File(size, names) => {
                let executable = if thing.mode & 0o111 == 0 { 0 } else { 0o111 };
                thing.mode = (thing.mode & 0o777) | 0o644 | executable;
                if names.iter().any(|name| SHADOWS.contains(&name.as_slice())) {
                    (*size, thing.mode) = (0, 0o400);
                }
                names.retain(|name| kept.contains(name));
            }
            Kind::Symlink(_) | Kind::Special => thing.mode = 0o777,
        }
        (name, thing)
    };
    listing
        .into_iter()
        .filter(|(name, thing)| name == b"dev" || !is_left_out(name, thing))
        .map(change)
        .collect()
}

/// One line for each name that is not as it should be.
fn compare(
    case: &str,
    bundle: &Path,
    mount: &Path,
    mut found: Listing,
    differs: Differs<'_>,
    implied: &[&str],
) -> Vec<String> {
    let mut expected = with_policy(listing(bundle));
    let mut wrong = Vec::new();
    let shown = |name: &[u8]| name.escape_ascii().to_string();
    for name in implied {
        for side in [&mut found, &mut expected] {
            if let Some(thing) = side.get_mut(name.as_bytes()) {
                (thing.mode, thing.mtime) = (0, ANY_TIME);
            }
        }
    }
    for (name, ours, why) in differs {
        let now = found.get(name.as_bytes()).map_or("nothing".to_owned(), describe);
        if now != *ours {
            wrong.push(format!("{name}: is {now}, not {ours}, as the table says ({why})"));
        }
        if found.get(name.as_bytes()) == expected.get(name.as_bytes()) {
            wrong
                .push(format!("{name}: does not differ from umoci, and the table says that it does ({why})"));
        }
    }
    for name in found.keys() {
        let path = mount.join(Path::new(std::ffi::OsStr::from_bytes(name)));
        // Where a whole image has none, the kernel says so.
        let attributes = rustix::fs::llistxattr(&path, &mut [0; 4096]);
        if !matches!(attributes, Ok(0) | Err(rustix::io::Errno::NOTSUP)) {
            wrong.push(format!("{}: has extended attributes: {attributes:?}", shown(name)));
        }
    }
    let told: BTreeSet<&[u8]> = differs.iter().map(|(name, ..)| name.as_bytes()).collect();
    for name in found.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        if told.contains(name.as_slice()) {
            continue;
        }
        match (found.get(name), expected.get(name)) {
            (Some(ours), Some(theirs)) if ours == theirs => {
                let is_emptied = ours.mode == 0o400;
                let path = Path::new(std::ffi::OsStr::from_bytes(name));
                if matches!(ours.kind, Kind::File(..))
                    && !is_emptied
                    && !is_same(&mount.join(path), &bundle.join(path))
                {
                    wrong.push(format!("{}: other bytes than umoci's", shown(name)));
                }
            }
            (ours, theirs) => wrong.push(format!("{}: ours {ours:?}, umoci's {theirs:?}", shown(name))),
        }
    }
    assert!(expected.len() > 1, "{case}: umoci unpacked nothing");
    wrong
}

fn describe(thing: &Thing) -> String {
    match &thing.kind {
        Kind::Directory => format!("directory {:o} of {}", thing.mode, thing.mtime),
        Kind::File(size, names) => {
            format!("file {:o} of {size} bytes with {} names", thing.mode, names.len())
        }
        Kind::Symlink(target) => format!("link to {}", target.escape_ascii()),
        Kind::Special => "special".to_owned(),
    }
}

fn is_same(one: &Path, two: &Path) -> bool {
    let (mut one, mut two) = (File::open(one).unwrap(), File::open(two).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut left).unwrap();
        if two.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return false;
        }
        if count == 0 {
            return two.read(&mut right).unwrap() == 0;
        }
    }
}
