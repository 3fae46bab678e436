//! One import, from a user's open file to a published image with a grant. The end is the same as a pull's.
//!
//! Whether the user may import, and may read the file, has been decided before. A file that has the identifier of an
//! image but is another one gets its whole digest instead: identifiers of imports are easily forged.

use std::fs::File;
use std::io::{ErrorKind, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use shifter_fasthash::talk::Request;
use shifter_registry::{Compression, LocalImage, open_layout};

use super::files::Held;
use super::lines::transferring_line;
use super::make::written;
use super::{Earned, Public, PullError, Puller, blocking};
use crate::api::Room;
use crate::catalog::{CatalogError, FILE, Record, State, patiently};
use crate::config::Platform;
use crate::confine::Reach;
use crate::convert::{ConvertJob, ConvertLayer, Converters, Format};
use crate::import::erofs::UnpackJob;
use crate::import::source::Form;
use crate::import::tree::{Tree, TreeError};
use crate::import::watched::{Waiting, Watched};
use crate::import::{self, Copied, RewriteJob};
use crate::model::{Grant, Image, Job, JobStatus, RunConfig, TagKey, UNKNOWN_PULLER, now};
use crate::progress::Progress;
use crate::publish::{self, PublishError, Scratch};
use crate::transfer::Fetched;
use crate::unpack::Unpacked;

/// Most bytes that a file to be imported may have.
pub(crate) const LARGEST: u64 = 256 << 30;

/// What is imported.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) origin: Origin,
    pub(crate) form: Form,
    /// Whether it is published as it is, unread, which only administrators may ask for.
    pub(crate) verbatim: bool,
    /// What a file that was sent takes of the room, until it was copied.
    pub(crate) room: Option<Room>,
}

/// Where it is.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Open for reading; the user could read it, or sent it.
    File(File),
    /// A directory, likewise.
    Directory(Tree),
    /// On the first host of a remote system, where it is looked for.
    Host(Request),
}

/// Why an import failed, besides what a pull can fail by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("the file is larger than {} GiB", LARGEST >> 30)]
    TooLarge,
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(
        "the file is larger than half of what is free in the gateway's ExpandDirectory, which is all that one file may \
         take; try again later, or ask the administrators for more room"
    )]
    NoRoom,
    #[error("reading the file failed: {0}")]
    Read(std::io::Error),
    /// Imported files and pulled images are told apart, and so are files of one identifier.
    #[error("another image has the identifier {0} by now; try again, or have that one removed")]
    Taken(String),
    #[error("only a squashfs image can be published as it is")]
    NotVerbatim,
    /// By the program on a host.
    #[error("{0}")]
    Refused(String),
    #[error(
        "custom:{0} is another user's image; choose another name, or have its importer or an administrator remove it"
    )]
    Named(String),
}

/// What is made of a file, before it has a name.
struct Making<'a> {
    puller: &'a Puller,
    job: &'a Job,
    platform: &'a Platform,
    progress: &'a Progress,
    id: String,
    scratch: Scratch,
    /// The copy.
    source: PathBuf,
    copied: Copied,
}

/// Who has an identifier.
enum Standing {
    Free,
    /// The same file, as an image that can be used.
    There(Box<Image>),
    Taken,
}

impl Puller {
    /// Carries one import to READY, or says why not.
    pub(crate) async fn import(
        self: &Arc<Self>,
        job: &Job,
        source: Source,
        progress: &Progress,
    ) -> Result<(), PullError> {
        let platform = self.platform(&job.key.system)?;
        if job.acl.is_public() {
            self.held(patiently(|| self.catalog.set_public(job.lease())).await?)?;
        }
        progress.set("Waiting for a free worker");
        let _turn = self.workers.acquire().await.map_err(|_| PullError::Stopping)?;
        self.move_on(job, JobStatus::Pulling, "Copying the file", progress).await?;
        let Source { origin, form, verbatim, room } = source;
        let (scratch, path, copied) = self.bring(origin, room, &job.key.system).await?;
        let origin = taken_as(form, verbatim, &copied.sha256);
        // Files with one identifier, which need not be equal, are imported one after the other, in this process and by
        // all, with the worker in hand: who waits has a copy on the disk. That somebody else has such a file is not told.
        // Also for different systems, which may share some of their directories and not others.
        let flight = format!("{FILE}{}", copied.id);
        let _flight = self.flights.lock(flight.clone()).await;
        self.fly(job, &flight).await?;
        let id = copied.id.clone();
        let making = Making { puller: self, job, platform, progress, id, scratch, source: path, copied };
        let (mut image, guard) = making.make(form, verbatim, &origin).await?;
        // Who came first with a name has it.
        let name = self.hold(platform, &format!("name {}", bare(&job.key.tag))).await;
        if let Some(name) = patiently(|| self.name_of_others(&job.key, job.uid)).await? {
            return Err(ImportError::Named(name).into());
        }
        let asked = now();
        image.last_pull = asked;
        image.expiration = asked + self.config.image_expiration.as_secs_f64();
        progress.set("Transferring metadata");
        let earned = Earned { digest: origin, asked, public: Public::AsListed };
        self.grant(job, image, earned, (guard, name)).await
    }

    /// Copies the file into scratch space, which has its identifier, known only when all was read. What was sent has its
    /// room already.
    async fn bring(
        &self,
        origin: Origin,
        room: Option<Room>,
        system: &str,
    ) -> Result<(Scratch, PathBuf, Copied), PullError> {
        let expand = self.config.expand_directory.clone();
        // Gone with this future, and the copying with it.
        let waiting = Waiting::default();
        let waited = waiting.watch(());
        let request = match origin {
            Origin::File(file) => {
                let copying = move || {
                    let limit = if room.is_some() { LARGEST } else { limit(&expand)? };
                    copy(file, &waited, limit, &expand)
                };
                return blocking(move || Ok(copying())).await?;
            }
            Origin::Directory(tree) => {
                return blocking(move || Ok(copy_tree(&tree, &waited, &expand))).await?;
            }
            Origin::Host(request) => request,
        };
        let (limit, (scratch, path, to)) = blocking(move || Ok((limit(&expand)?, space(&expand)?))).await?;
        match self.store(system)?.fetch(&Request { limit, ..request }, &to).await? {
            Fetched::Copied(copied) => Ok((scratch, path, copied)),
            Fetched::Refused(why) => Err(ImportError::Refused(why).into()),
        }
    }

    /// The name, if it is an image of other users only: theirs would no longer be found under it.
    pub(crate) async fn name_of_others(
        &self,
        key: &TagKey,
        uid: u32,
    ) -> Result<Option<String>, CatalogError> {
        let name = bare(&key.tag);
        for tag in [name.to_owned(), format!("{name}:latest")] {
            let key = TagKey { tag, ..key.clone() };
            let Some((_, grants)) = self.catalog.lookup(&key).await? else { continue };
            let mut grants = grants.iter().filter(|grant| grant.key == key).peekable();
            // Of images of an original gateway nobody knows who made them; their lists name the maker.
            let is_own = |grant: &Grant| {
                grant.puller == uid || (grant.puller == UNKNOWN_PULLER && grant.acl.uids.contains(&uid))
            };
            if grants.peek().is_some() && !grants.any(is_own) {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }
}

/// What an image was made of, and as what it was taken: the same bytes may be two images. No registry's digest looks so.
fn taken_as(form: Form, verbatim: bool, sha256: &str) -> String {
    let form = if verbatim { "verbatim" } else { form.name() };
    format!("{form}:{sha256}")
}

/// A tag without the `:latest` that it may be written with or without.
fn bare(tag: &str) -> &str {
    tag.strip_suffix(":latest").unwrap_or(tag)
}

/// Most bytes that a copy may have: half of what is free, so that one file does not end everybody else's pulls.
fn limit(expand: &Path) -> Result<u64, PublishError> {
    let found = rustix::fs::statvfs(expand).map_err(|error| PublishError::Io {
        operation: "looking for room in",
        path: expand.to_owned(),
        source: error.into(),
    })?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize) / 2).min(LARGEST))
}

/// Scratch space with an empty file.
fn space(expand: &Path) -> Result<(Scratch, PathBuf, File), PublishError> {
    // Its name wants an identifier; this one nothing has.
    let scratch = Scratch::create(expand, &"0".repeat(64))?;
    let path = scratch.path().join("source");
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let file =
        made.map_err(|source| PublishError::Io { operation: "creating", path: path.clone(), source })?;
    Ok((scratch, path, file))
}

fn copy_tree(
    tree: &Tree,
    waited: &Watched<()>,
    expand: &Path,
) -> Result<(Scratch, PathBuf, Copied), PullError> {
    let limit = limit(expand)?;
    let (scratch, path, mut to) = space(expand)?;
    let copied = import::copy_tree(tree, &mut to, limit, waited).map_err(ImportError::Tree)?;
    Ok((scratch, path, copied))
}

fn copy(
    mut file: File,
    waited: &Watched<()>,
    limit: u64,
    expand: &Path,
) -> Result<(Scratch, PathBuf, Copied), PullError> {
    let (scratch, path, mut to) = space(expand)?;
    let write = |source| PublishError::Io { operation: "writing", path: path.clone(), source };
    file.rewind().map_err(ImportError::Read)?;
    let size = file.metadata().map_err(ImportError::Read)?.len();
    let too_large = || if limit < LARGEST { ImportError::NoRoom } else { ImportError::TooLarge };
    if size > limit {
        return Err(too_large().into());
    }
    let copied =
        import::copy(&mut waited.watch(file), &mut to, limit).map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => PullError::Import(too_large()),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => PullError::Publish(write(error)),
            _ => PullError::Import(ImportError::Read(error)),
        })?;
    Ok((scratch, path, copied))
}

impl Making<'_> {
    async fn make(mut self, form: Form, verbatim: bool, origin: &str) -> Result<(Image, Held), PullError> {
        let (puller, platform, system) = (self.puller, self.platform, self.job.key.system.clone());
        let guard = loop {
            let guard = puller.hold(platform, &self.id).await;
            match self.standing(&system, origin).await? {
                Standing::Free => break guard,
                Standing::There(image) => return Ok((*image, guard)),
                Standing::Taken => self.id = self.next_id(origin)?,
            }
        };
        let store = puller.store(&system)?;
        let format = if verbatim { Format::Squashfs } else { platform.converters.format };
        let (expand, id, place) = (puller.config.expand_directory.clone(), self.id.clone(), store.clone());
        let part = blocking(move || place.new_image(&expand, &id, format.name())).await?;
        let output = written(format, &part, &self.scratch);
        let what = if verbatim { "Checking image" } else { "Converting image" };
        puller.move_on(self.job, JobStatus::Conversion, what, self.progress).await?;
        let config = match (verbatim, form) {
            (true, Form::Squashfs) => self.as_it_is(&output).await?,
            (true, _) => return Err(ImportError::NotVerbatim.into()),
            (false, Form::Squashfs | Form::Sif) => self.rewrite(form, &output).await?,
            (false, Form::Tar | Form::Directory) => {
                self.convert(&platform.converters, vec![self.whole()], &output).await?
            }
            (false, Form::Erofs) => self.erofs(&output).await?,
            (false, Form::Archive) => self.archive(&output).await?,
        };
        puller.examine(self.job, &output, &self.id, self.progress).await?;
        puller
            .make_format(self.job, platform, (format, &output, part.path()), &self.id, self.progress)
            .await?;
        puller.move_on(self.job, JobStatus::Transfer, "Transferring image", self.progress).await?;
        drop(self.scratch);
        let whole = blocking(move || part.complete()).await?;
        // As for pulls: who lost the job meanwhile gives no name to anything.
        let lease = self.job.lease();
        puller.held(patiently(|| puller.catalog.heartbeat(lease)).await?)?;
        let progress = self.progress;
        let sent = |bytes: u64, hosts: usize| progress.set(transferring_line(bytes, hosts));
        let published = store.publish(whole, &self.id, format.name(), &sent).await?;
        let image = Image {
            system,
            id: self.id,
            format: format.name().to_owned(),
            config: RunConfig { source: Some(origin.to_owned()), ..config },
            size: published.size,
            sha256: published.sha256,
            last_pull: 0.0,
            expiration: 0.0,
        };
        Ok((image, guard))
    }

    /// What has this identifier, on all systems that have these files.
    async fn standing(&self, system: &str, origin: &str) -> Result<Standing, PullError> {
        let is_other = |record: &Record| record.image.config.source.as_deref() != Some(origin);
        let known = self.puller.sharing(self.platform, &self.id).await?;
        let retired = patiently(|| self.puller.catalog.retired(Some(system), Some(&self.id))).await?;
        // An expired one keeps its identifier, too: jobs may still name it.
        if known.iter().chain(&retired).any(is_other) {
            return Ok(Standing::Taken);
        }
        for known in known.into_iter().filter(|known| known.image.system == system) {
            if self.puller.find_published(&known.image).await? {
                return Ok(Standing::There(Box::new(known.image)));
            }
        }
        match self.puller.state_after_removal(system, &self.id).await? {
            Some(State::Expiring) => Err(PullError::Removed),
            _ => Ok(Standing::Free),
        }
    }

    /// Another identifier where one is another image's: the digest of the whole file, and then of that with what it is
    /// taken as. Refusing would tell whoever forged the first one that there is an image they may not use.
    fn next_id(&self, origin: &str) -> Result<String, PullError> {
        let whole = &self.copied.sha256;
        let last = publish::hex(digest(&SHA256, origin.as_bytes()).as_ref());
        match &self.id {
            id if *id == last => Err(ImportError::Taken(last).into()),
            id if id == whole => Ok(last),
            _ => Ok(whole.clone()),
        }
    }

    async fn as_it_is(&self, output: &Path) -> Result<RunConfig, PullError> {
        let (from, to) = (self.source.clone(), output.to_owned());
        let waiting = Waiting::default();
        let mut watched = waiting.watch(File::open(&from).map_err(ImportError::Read)?);
        blocking(move || {
            let output = File::options().write(true).truncate(true).open(&to);
            let copied = output.and_then(|mut output| std::io::copy(&mut watched, &mut output));
            let failed = |source| PublishError::Io { operation: "writing", path: to, source };
            copied.map(drop).map_err(failed)
        })
        .await?;
        Ok(self.nothing_said())
    }

    async fn rewrite(&self, form: Form, output: &Path) -> Result<RunConfig, PullError> {
        let job = RewriteJob {
            source: self.source.clone(),
            form,
            output: output.to_owned(),
            scratch: self.scratch.path().to_owned(),
            converters: self.platform.converters.clone(),
            reach: self.reach(output, std::slice::from_ref(&self.source)),
        };
        self.puller.converter.work("rewrite", &job, None, &|_, bytes| self.show(bytes)).await?;
        Ok(self.nothing_said())
    }

    /// An EROFS image becomes an archive, and that a layer.
    async fn erofs(&self, output: &Path) -> Result<RunConfig, PullError> {
        let at = |name: &str| self.scratch.path().join(name);
        let job = UnpackJob {
            image: self.source.clone(),
            tree: at("tree"),
            archive: at("archive"),
            bytes: LARGEST,
            reach: self.reach(&at(""), std::slice::from_ref(&self.source)),
        };
        self.puller.converter.work("unpack-erofs", &job, None, &|_, _| {}).await?;
        let layer = ConvertLayer {
            path: Some(at("archive")),
            compression: packed(Compression::None),
            ..self.whole()
        };
        self.convert(&self.platform.converters, vec![layer], output).await
    }

    /// An archive holds an image as a registry does: it is unpacked as if it were a layer, and then looked at.
    async fn archive(&self, output: &Path) -> Result<RunConfig, PullError> {
        let outer = self.scratch.path().join("archive");
        self.convert(&Converters::for_nobody(), vec![self.whole()], &outer).await?;
        let (converter, expand) = (&self.puller.converter, &self.puller.config.expand_directory);
        let unpacked = Unpacked::new(converter, &outer, (expand, &self.id), LARGEST, false).await?;
        let tree = unpacked.tree.clone();
        let wanted = shifter_registry::Platform::linux(&self.platform.architecture);
        let found = tokio::task::spawn_blocking(move || open_layout(&tree, &wanted)).await;
        let found: LocalImage = found.map_err(|_| PullError::Stopping)??;
        let layers = found.layers.iter().map(|layer| ConvertLayer {
            path: Some(layer.path.clone()),
            kept: None,
            digest: layer.diff_id.to_string(),
            diff_id: Some(layer.diff_id.to_string()),
            compression: packed(layer.compression),
        });
        self.convert(&self.platform.converters, layers.collect(), output).await?;
        Ok(super::make::run_config(&found.config, &found.platform))
    }

    async fn convert(
        &self,
        converters: &Converters,
        layers: Vec<ConvertLayer>,
        output: &Path,
    ) -> Result<RunConfig, PullError> {
        let paths: Vec<PathBuf> = layers.iter().filter_map(|layer| layer.path.clone()).collect();
        let job = ConvertJob {
            reach: self.reach(output, &paths),
            layers,
            output: output.to_owned(),
            scratch: self.scratch.path().to_owned(),
            converter: converters.clone(),
            records: None,
            image: publish::image_path(&self.platform.image_dir, &self.id, Format::Squashfs.name()),
        };
        self.puller.converter.work("convert", &job, None, &|_, bytes| self.show(bytes)).await?;
        Ok(self.nothing_said())
    }

    /// The file as one layer.
    fn whole(&self) -> ConvertLayer {
        ConvertLayer {
            path: Some(self.source.clone()),
            kept: None,
            digest: format!("sha256:{}", self.copied.sha256),
            diff_id: None,
            compression: packed(Compression::of_start(&self.copied.start)),
        }
    }

    fn reach(&self, output: &Path, read: &[PathBuf]) -> Reach {
        let is_in_scratch = output.starts_with(self.scratch.path());
        Reach {
            read: read.to_vec(),
            write: if is_in_scratch { Vec::new() } else { vec![output.to_owned()] },
            make: vec![self.scratch.path().to_owned()],
            ..Reach::default()
        }
    }

    fn show(&self, bytes: u64) {
        self.progress.set(format!("Converting image, {} MB read", bytes / 1_000_000));
    }

    /// Of a file system alone, nobody says how it is to be run.
    fn nothing_said(&self) -> RunConfig {
        RunConfig { architecture: self.platform.architecture.clone(), ..RunConfig::default() }
    }
}

fn packed(compression: Compression) -> String {
    super::make::compression_name(compression).to_owned()
}
