//! Carrying a plan out: in a mount namespace of its own, every place held by descriptor, nothing left behind
//! on failure because the namespace dies with the process.

use crate::config::TrustedConfig;
use crate::error::{Error, Result};
use crate::image::{Content, Image};
use crate::kernel;
use crate::node_copy;
use crate::plan::{Bind, MountPlan, STATE_FILE, Step, UDI_IMAGE};
use shifter_core::paths::RUN_DIRECTORY;
use shifter_sys::credentials::{Access, Caller, Unprivileged, irrevocably_drop_privileges, with_access};
use shifter_sys::descriptors::path_of;
use shifter_sys::directory::{self as dir, FileType, Links};
use shifter_sys::lockdown::LockedDown;
use shifter_sys::{child, loopdev, mount, namespace, trusted};
use std::fmt::Display;
use std::os::fd::OwnedFd;

mod cache;
#[cfg(feature = "setup")]
mod in_place;
mod volumes;

#[cfg(feature = "setup")]
pub use in_place::{InPlace, assemble_in_place};

/// Most entries of a directory of the image that are mounted one by one; real images have a few dozen.
const MOST_ENTRIES: usize = 4096;
/// See [`Build::is_ours`].
const FOREIGN: &str = "its parent belongs to another mount, in which nothing is made";
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EOPNOTSUPP: i32 = 95;

/// A container: this process's root, with root's rights still.
#[derive(Debug)]
pub struct Container(());

impl Container {
    /// This process is in one that was prepared.
    pub(crate) fn joined() -> Self {
        Self(())
    }

    /// Gives root up for good, so that the user's program may run.
    pub fn drop_privileges_forever(self, caller: &Caller) -> Result<Unprivileged> {
        Ok(irrevocably_drop_privileges(caller)?)
    }
}

/// What is known while the steps are done.
#[derive(Debug)]
struct Build<'a> {
    config: &'a TrustedConfig,
    locked: &'a LockedDown,
    image: &'a Image,
    steps: &'a [Step],
    /// By target: copies that go on sharing with the host, and caches that the overlay over /etc covers.
    kept: Vec<(String, OwnedFd)>,
    /// Where the image is attached instead of the planned place, for a container that stands in sight of others.
    image_at: Option<&'a str>,
    image_root: Option<OwnedFd>,
    root: Option<OwnedFd>,
    /// What the last hook printed.
    said: String,
    /// Sizes of the caches made so far, bytes.
    cached: u64,
    /// The directory in which the last step made something, for the next one.
    last: Option<(String, OwnedFd)>,
}

/// Does every step and makes the result this process's root. `told` hears of each step once it is done.
pub fn apply(
    plan: &MountPlan,
    config: &TrustedConfig,
    image: &Image,
    locked: &LockedDown,
    told: &mut dyn FnMut(&dyn Display),
) -> Result<Container> {
    mount::enter_new_namespace()?;
    let shared = plan.steps.iter().filter_map(shared_copy).collect::<Result<_>>()?;
    mount::cut_off()?;
    // A prepared container may stand where this one is assembled; here, and only here, it goes.
    for place in [&config.udiroot.udi_mount, &config.udiroot.loop_mount] {
        namespace::unmount_all(place)?;
    }
    told(&"namespace  of its own");
    let mut build = Build::new(config, locked, image, &plan.steps, shared);
    build.perform_all(&plan.steps, told)?;
    mount::pivot_into(build.root()?)?;
    told(&"enter      /");
    Ok(Container(()))
}

impl<'a> Build<'a> {
    fn new(
        config: &'a TrustedConfig,
        locked: &'a LockedDown,
        image: &'a Image,
        steps: &'a [Step],
        kept: Vec<(String, OwnedFd)>,
    ) -> Self {
        let said = String::new();
        let (image_at, image_root, root, last) = (None, None, None, None);
        Self { config, locked, image, steps, kept, image_at, image_root, root, said, cached: 0, last }
    }
}

impl Build<'_> {
    fn perform_all(&mut self, steps: &[Step], told: &mut dyn FnMut(&dyn Display)) -> Result<()> {
        for step in steps {
            self.perform(step)?;
            told(step);
            for line in std::mem::take(&mut self.said).lines() {
                told(&format_args!("said       {line}"));
            }
        }
        Ok(())
    }

    fn perform(&mut self, step: &Step) -> Result<()> {
        if !matches!(step, Step::Directory { .. } | Step::EtcFile(_) | Step::Link { .. }) {
            self.last = None; // a mount may cover it
        }
        match step {
            Step::MountImage { at } => self.mount_image(self.image_at.unwrap_or(at))?,
            Step::NewRoot { kind, at } => {
                let options = [("source", "shifter"), ("mode", "0755")];
                let options = if kind == "tmpfs" { &options[..] } else { &options[..1] }; // ramfs has no such option
                let new = mount::new_file_system(kind, options, mount::SAFE)?;
                #[cfg(feature = "setup")]
                if self.image_at.is_some() {
                    dir::let_only_one_in(&new, self.locked.caller().uid(), at)?;
                }
                self.root = Some(attach_on_host(new, at)?);
            }
            Step::Directory { path, mode } => {
                let (parent, name) = self.parent_of(path)?;
                dir::make(parent, name, *mode)?;
            }
            Step::Hook { script, failure } => {
                drop(trusted::open(script, trusted::Kind::File)?);
                let output = child::run_hook(script, self.root()?)?;
                self.said = output.text;
                if output.code != Some(0) {
                    let (script, failure) = (script.clone(), failure.clone());
                    return Err(Error::Hook { script, failure, said: self.said.trim().to_owned() });
                }
            }
            Step::Bind(bind) => self.bind(bind)?,
            Step::Copy { from, to, writable } => self.copy(from, to, *writable)?,
            Step::EtcFile(file) => dir::write_new(self.place("/etc")?, &file.name, file.content.as_bytes())?,
            Step::Link { path, target } => {
                let (parent, name) = self.parent_of(path)?;
                dir::make_link(parent, name, target.as_str())?;
            }
            Step::MergeImage { tree } => self.merge(tree)?,
            Step::OverlayEtc => self.overlay_etc()?,
            Step::Cache(map, cache) => {
                let target = self.target(&map.to, true)?;
                if let Some((_, copy)) = self.kept.iter().find(|(to, _)| *to == map.to) {
                    return Ok(mount::attach(copy, &target, &map.to)?);
                }
                let made = self.new_cache(map, cache)?;
                mount::attach(&made, &target, &map.to)?;
                if map.to.starts_with("/etc/") {
                    let (one, private) = (mount::Depth::One, mount::Propagation::Private);
                    let copy = mount::copy_of(&made, &map.to, one, mount::SAFE, private)?;
                    self.kept.push((map.to.clone(), copy));
                }
            }
            Step::Volume(map, propagation) => self.mount_volume(map, *propagation)?,
            Step::VarFile { name, content } => {
                dir::write_new(self.place("/var")?, name, content.as_bytes())?;
            }
            #[cfg(feature = "setup")]
            Step::File(path, content) => {
                let (parent, name) = self.parent_of(path)?;
                dir::write_new(parent, name, content.as_bytes())?;
            }
            Step::SealRoot => {
                let (flags, private) = (mount::SAFE_READ_ONLY, mount::Propagation::Private);
                mount::set_attributes_at(self.root()?, "", mount::Depth::One, flags, private)?;
            }
        }
        Ok(())
    }

    fn root(&self) -> Result<&OwnedFd> {
        self.root
            .as_ref()
            .ok_or(Error::Target { path: "/".to_owned(), rule: "the plan makes no root before it" })
    }

    fn find(&self, path: &str) -> Result<OwnedFd> {
        Ok(dir::find(self.root()?, path, Links::Refuse)?)
    }

    /// Whether it lies in the root itself, not in something of the host's or the image's that is mounted there.
    fn is_ours(&self, place: &OwnedFd) -> Result<bool> {
        Ok(dir::status(place, "/")?.st_dev == dir::status(self.root()?, "/")?.st_dev)
    }

    /// A directory of the root itself, looked up once for steps that follow one another in it.
    fn place(&mut self, path: &str) -> Result<&OwnedFd> {
        if path.is_empty() {
            return self.root();
        }
        let known = match self.last.take().filter(|(known, _)| known == path) {
            Some(known) => known,
            None => {
                let found = self.find(path)?;
                if !self.is_ours(&found)? {
                    return Err(Error::Target { path: format!("{path}/"), rule: FOREIGN });
                }
                (path.to_owned(), found)
            }
        };
        Ok(&self.last.insert(known).1)
    }

    fn parent_of<'p>(&mut self, path: &'p str) -> Result<(&OwnedFd, &'p str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.place(parent)?, name))
    }

    fn mount_image(&mut self, at: &str) -> Result<()> {
        let image = match &self.image.content {
            Content::File(file, name) => self.mount_file(file, name)?,
            Content::Directory | Content::Local => {
                let directory = self.image.directory(self.config, self.locked.caller())?;
                let (one, private) = (mount::Depth::One, mount::Propagation::Private);
                mount::copy_of(&directory, &self.image.id, one, mount::SAFE_READ_ONLY, private)?
            }
        };
        self.image_root = Some(attach_on_host(image, at)?);
        Ok(())
    }

    fn mount_file(&self, file: &OwnedFd, name: &str) -> Result<OwnedFd> {
        let (status, kind) = (dir::status(file, name)?, self.image.meta.format.as_str());
        let state = trusted::open_or_make_directory(RUN_DIRECTORY, 0o700).ok();
        let device = loopdev::device_for(file, &status, name, state.as_ref());
        // The kernel can read EROFS straight from a file; that shares nothing, so only where no device is to be had.
        let straight = kind == "erofs" && device.is_err();
        let carrier = if straight { None } else { Some(device?) };
        let source = path_of(self.locked.proc(), carrier.as_ref().unwrap_or(file));
        // xfs: nothing is written, not even the journal's end, and other copies may be mounted.
        let options = [("source", source.as_str()), ("norecovery", ""), ("nouuid", "")];
        let options = if kind == "xfs" { &options[..] } else { &options[..1] };
        mount::new_file_system(kind, options, mount::SAFE_READ_ONLY)
            .map_err(|error| kernel::explained(error, kind, Some(file)))
    }

    fn bind(&self, bind: &Bind) -> Result<()> {
        let source = match dir::open_host(&bind.from) {
            Err(error) if bind.optional && error.errno() == Some(ENOENT) => return Ok(()),
            other => other?,
        };
        let directory = dir::file_type(&source, &bind.from)?.is_dir();
        let target = self.target(&bind.to, directory)?;
        if let Some((_, copy)) = self.kept.iter().find(|(to, _)| *to == bind.to) {
            return Ok(mount::attach(copy, &target, &bind.to)?);
        }
        let propagation = match bind.propagation {
            // The host's automounter would mount what is asked for here where only the host sees it.
            mount::Propagation::Private if dir::is_automounted(&source) => mount::Propagation::Slave,
            other => other,
        };
        let copy = mount::copy_of(&source, &bind.from, bind.depth, bind.flags, propagation)?;
        Ok(mount::attach(&copy, &target, &bind.to)?)
    }

    /// Shows the node's copy of a tree of the site over what the root has there, or copies it anew.
    fn copy(&self, from: &str, to: &str, writable: bool) -> Result<()> {
        let source = trusted::open(from, trusted::Kind::Directory)?;
        let place = self.target(to, true)?;
        let within = to == UDI_IMAGE; // modules have their places in it
        let Some(copy) = node_copy::of(&source, from)? else {
            let own = [("source", "shifter"), ("mode", "0755")];
            let own = mount::new_file_system("tmpfs", &own, mount::SAFE)?;
            for tree in [&source, &place].into_iter().take(1 + usize::from(within)) {
                dir::copy_tree(tree, &own, node_copy::MOST_DEPTH)?;
            }
            return Ok(mount::attach(&own, &place, to)?);
        };
        let shown = if writable || within {
            let changes = if writable { Some(changes_over(&place, to)?) } else { None };
            let layers = [&place, &copy];
            let write = changes.as_ref().map(|[upper, work]| [upper, work]);
            self.overlay(if within { &layers } else { &layers[1..] }, write)?
        } else {
            mount::executable_copy_of(&copy, to)?
        };
        Ok(mount::attach(&shown, &place, to)?)
    }

    /// The place to mount on, made if it is missing.
    fn target(&self, path: &str, directory: bool) -> Result<OwnedFd> {
        let place = match dir::find_if_present(self.root()?, path, Links::Refuse)? {
            Some(found) => found,
            None => self.make_target(path, directory)?,
        };
        if dir::file_type(&place, path)?.is_dir() == directory {
            return Ok(place);
        }
        let rule = "source and target must both be directories or both be files";
        Err(Error::Target { path: path.to_owned(), rule })
    }

    /// Makes what is missing of a place, but only in the root itself: never in something of the host's or the
    /// image's that is mounted there already.
    fn make_target(&self, path: &str, directory: bool) -> Result<OwnedFd> {
        let mut place: Option<OwnedFd> = None; // the root
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for (index, name) in names.iter().enumerate() {
            let parent = place.as_ref().map_or_else(|| self.root(), Ok)?;
            let found = match dir::find_if_present(parent, name, Links::Refuse)? {
                Some(found) => found,
                None if !self.is_ours(parent)? => {
                    return Err(Error::Target { path: path.to_owned(), rule: FOREIGN });
                }
                None => {
                    if directory || index + 1 < names.len() {
                        dir::make(parent, *name, 0o755)?;
                    } else {
                        dir::make_file(parent, *name)?;
                    }
                    dir::find(parent, name, Links::Refuse)?
                }
            };
            place = Some(found);
        }
        place.map_or_else(|| self.find("/"), Ok)
    }

    /// Whose rights look into the image: a directory that the caller named must not be opened to them by root.
    fn access(&self) -> Access<'_> {
        match self.image.content {
            Content::Local => Access::AsCaller(self.locked.caller()),
            _ => Access::AsRoot,
        }
    }

    /// The image's directory `path`; `None` if it has none or something else has the name.
    fn image_directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        let Some(image_root) = &self.image_root else { return Ok(None) };
        match with_access(self.access(), || dir::find_if_present(image_root, path, Links::Refuse)) {
            Ok(Some(found)) if dir::file_type(&found, path)?.is_dir() => {
                if let Content::Local = self.image.content {
                    // What is merged of it no longer shows its own mode.
                    with_access(self.access(), || dir::entries(&found, path, MOST_ENTRIES))?;
                }
                Ok(Some(found))
            }
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(dir::IS_A_LINK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn merge(&self, tree: &str) -> Result<()> {
        let Some(from) = self.image_directory(tree)? else { return Ok(()) };
        let to = self.find(tree)?;
        if !self.is_ours(&to)? {
            return Ok(()); // what the site mounted there wins
        }
        let entries = with_access(self.access(), || dir::entries(&from, tree, MOST_ENTRIES))?;
        for entry in entries {
            let name = entry.name.as_c_str();
            if tree == "/var" && name.to_bytes() == STATE_FILE.as_bytes() {
                continue; // its place is ours, and no image may keep its containers from starting
            }
            match entry.file_type {
                FileType::Directory if dir::make_if_absent(&to, name, 0o755)? => {
                    mount::graft(&from, &to, name)?
                }
                FileType::RegularFile if !dir::has(&to, name)? => {
                    dir::make_file(&to, name)?;
                    mount::graft(&from, &to, name)?;
                }
                FileType::Symlink => match dir::copy_link(&from, &to, name) {
                    Err(error) if error.errno() == Some(EEXIST) => {}
                    other => other?,
                },
                _ => {} // what the site has wins; devices, pipes and sockets have no use here
            }
        }
        Ok(())
    }

    fn overlay(&self, layers: &[&OwnedFd], changes: Option<[&OwnedFd; 2]>) -> Result<OwnedFd> {
        mount::new_overlay(self.locked.proc(), layers, changes)
            .map_err(|error| kernel::explained(error, "overlay", None))
    }

    fn overlay_etc(&self) -> Result<()> {
        let Some(of_image) = self.image_directory("/etc")? else { return Ok(()) };
        let ours = self.find("/etc")?;
        let hidden = dir::mark_opaque(&ours, "ssh");
        let overlay = self.overlay(&[&ours, &of_image], None)?;
        mount::attach(&overlay, &ours, "/etc")?;
        match hidden {
            // ramfs has no extended attributes.
            Err(error) if error.errno() == Some(EOPNOTSUPP) => {
                let options = [("source", "shifter"), ("mode", "0755")];
                let empty = mount::new_file_system("tmpfs", &options, mount::SAFE_READ_ONLY)?;
                Ok(mount::attach(&empty, &self.find("/etc/ssh")?, "/etc/ssh")?)
            }
            other => Ok(other?),
        }
    }
}

/// Upper and work directory for an overlay at `place`: a file system of their own there, which the overlay covers.
/// (Many kernels refuse a detached one as a layer.)
fn changes_over(place: &OwnedFd, name: &str) -> Result<[OwnedFd; 2]> {
    let changes = mount::new_file_system("tmpfs", &[("source", "shifter"), ("mode", "0755")], mount::SAFE)?;
    mount::attach(&changes, place, name)?;
    let made = |name: &std::ffi::CStr| {
        dir::make(&changes, name, 0o755)?;
        dir::find_directory(&changes, name)
    };
    Ok([made(c"upper")?, made(c"work")?])
}

/// The copy for a mount that is to share both ways: taken while this namespace still shares with the host.
fn shared_copy(step: &Step) -> Option<Result<(String, OwnedFd)>> {
    let Step::Bind(bind) = step else { return None };
    let copy = || {
        let source = dir::open_host(&bind.from)?;
        let copy = mount::copy_of(&source, &bind.from, bind.depth, bind.flags, bind.propagation)?;
        Ok((bind.to.clone(), copy))
    };
    (bind.propagation == mount::Propagation::Shared).then(copy)
}

/// Attaches a new mount on a directory of the host, seen in this namespace alone; returns its root. That is the
/// mount's own descriptor: looked up by name, it could be another directory by now.
fn attach_on_host(new: OwnedFd, at: &str) -> Result<OwnedFd> {
    let place = trusted::open_or_make_directory(at, 0o755)?;
    mount::attach(&new, &place, at)?;
    Ok(new)
}
