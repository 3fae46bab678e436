//! Imports: who may, which file, and the job that follows. `POST doimport` doubles as the question how it stands, and
//! brings the file along each time, as a pull brings its password.

use std::path::PathBuf;

use axum::body::Body;
use serde::Deserialize;
use shifter_api::wire::parse_id_list;
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::ImageType;
use shifter_fasthash::open::{Asker, OpenError, Places, open, open_directory};
use shifter_fasthash::talk::Request;

use super::{Api, Refusal, Room};
use crate::accounts::names_groups;
use crate::acl;
use crate::auth::Caller;
use crate::catalog::{NewJob, SENT, Submitted, submit};
use crate::config::{Access, Importers, Platform};
use crate::convert::sentence;

use crate::import::source::Form;
use crate::import::tree::Tree;
use crate::model::{Job, TagKey};
use crate::pull::import::{ImportError, LARGEST, Origin, Source};
use crate::route::Query;
use crate::waiting::Pulled;

/// What a request for an import says.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    /// None where the file itself is sent.
    #[serde(default)]
    filepath: Option<String>,
    format: String,
    #[serde(default)]
    allowed_uids: String,
    #[serde(default)]
    allowed_gids: String,
    #[serde(default)]
    verbatim: bool,
}

impl Wanted {
    fn of_body(body: &[u8]) -> Result<(Wanted, PathBuf), Refusal> {
        let missing = "the body of an import request is a JSON object with filepath and format";
        let bad = |error: serde_json::Error| Refusal::BadRequest(format!("{missing}: {error}"));
        // By way of a map: a struct would also be read from an array.
        let map: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).map_err(bad)?;
        let wanted = Wanted::deserialize(serde_json::Value::Object(map)).map_err(bad)?;
        match wanted.filepath.clone() {
            Some(path) => Ok((wanted, PathBuf::from(path))),
            None => Err(Refusal::BadRequest(missing.to_owned())),
        }
    }

    fn of_query(query: &Query) -> Result<Wanted, Refusal> {
        let text = |name| query.get(name).unwrap_or_default().to_owned();
        let verbatim = query.flag("verbatim").map_err(|error| Refusal::Unprocessable(error.to_string()))?;
        Ok(Wanted {
            filepath: None,
            format: text("format"),
            allowed_uids: text("allowed_uids"),
            allowed_gids: text("allowed_gids"),
            verbatim,
        })
    }

    /// What tells this file from others. Two requests that agree in it are one, and the second asks how it stands.
    fn source(&self) -> String {
        let Some(path) = &self.filepath else { return SENT.to_owned() };
        let said = format!("{path}\0{}\0{}", self.format, self.verbatim);
        blake3::hash(said.as_bytes()).to_hex().to_string()
    }
}

/// What passed all questions that need no file.
struct Admitted {
    new: NewJob,
    form: Form,
    verbatim: bool,
}

impl Api {
    /// `POST doimport`: imports a file that the gateway can read, or tells how that stands.
    pub(crate) async fn import(
        &self,
        (system, itype, tag): (&str, &str, &str),
        platform: &Platform,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Pulled, Refusal> {
        self.check_importer(caller).await?;
        let (wanted, path) = Wanted::of_body(body)?;
        let admitted = self.admit((system, itype, tag), platform, &wanted, caller).await?;
        let (origin, form) = self.place(path, admitted.form, platform, caller).await?;
        let admitted = Admitted { form, ..admitted };
        self.start_import(admitted, origin, None, caller).await
    }

    /// `PUT upload`: imports what the body holds.
    pub(crate) async fn upload(
        &self,
        (system, itype, tag): (&str, &str, &str),
        platform: &Platform,
        query: &Query,
        body: Body,
        caller: &Caller,
    ) -> Result<Pulled, Refusal> {
        self.check_importer(caller).await?;
        let wanted = Wanted::of_query(query)?;
        let admitted = self.admit((system, itype, tag), platform, &wanted, caller).await?;
        if admitted.form == Form::Directory {
            let why = "a directory cannot be uploaded; upload a tar of it, with format tar";
            return Err(Refusal::Unprocessable(why.to_owned()));
        }
        // Said before the file is sent, where that is possible.
        let earlier = self.catalog.job_of(&admitted.new.key, caller.uid).await?;
        if earlier.is_some_and(|job| !job.status.is_over() && !self.may_bring(&admitted.new, &job)) {
            return Err(under_way());
        }
        let (expand, sha256) = (&self.config.expand_directory, query.get("sha256"));
        let (file, room) = self.uploads.receive(caller.uid, body, expand, sha256).await?;
        self.start_import(admitted, Origin::File(file), Some(room), caller).await
    }

    async fn check_importer(&self, caller: &Caller) -> Result<(), Refusal> {
        let is_allowed = match &self.config.import.users {
            Importers::Nobody => false,
            Importers::Everybody => true,
            Importers::Named(names) => match self.member(Some(caller), names_groups(names)).await {
                Some(member) => self.managing.accounts.is_named(names, &member).await,
                None => false,
            },
        };
        if is_allowed {
            return Ok(());
        }
        Err(Refusal::Forbidden("you may not import images here; ImportUsers names who may".to_owned()))
    }

    async fn admit(
        &self,
        (system, itype, tag): (&str, &str, &str),
        platform: &Platform,
        wanted: &Wanted,
        caller: &Caller,
    ) -> Result<Admitted, Refusal> {
        let unprocessable = |why: String| Refusal::Unprocessable(why);
        if itype != ImageType::Custom.as_str() {
            return Err(unprocessable("imported images are of type custom; name it custom:NAME".to_owned()));
        }
        let named = Descriptor::parse(&format!("custom:{tag}"), None);
        named.map_err(|error| unprocessable(sentence(&error)))?;
        let Some(form) = Form::parse(&wanted.format) else {
            let format: String = wanted.format.chars().take(32).flat_map(char::escape_default).collect();
            return Err(unprocessable(format!("\"{format}\" cannot be imported; there are {}", Form::NAMES)));
        };
        if wanted.verbatim && !(self.config.import.allows_verbatim && self.is_admin(platform, caller).await) {
            let why =
                "only administrators may have an image published as it is, and only with allowVerbatimImport";
            return Err(Refusal::Forbidden(why.to_owned()));
        }
        if self.config.worker_threads == 0 {
            let why = "this gateway's workers run apart, and a file cannot be given to them";
            return Err(unprocessable(why.to_owned()));
        }
        let ids = |text: &str| parse_id_list(text).map_err(|error| unprocessable(error.to_string()));
        let (uids, gids) = (ids(&wanted.allowed_uids)?, ids(&wanted.allowed_gids)?);
        let acl = acl::with_author(&uids, &gids, caller.uid, caller.gid)
            .map_err(|error| unprocessable(sentence(&error)))?;
        let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag: tag.to_owned() };
        // Asked again when the image is made; this spares sending a file in vain.
        if let Some(name) = self.jobs.puller().name_of_others(&key, caller.uid).await? {
            return Err(Refusal::Conflict(sentence(&ImportError::Named(name))));
        }
        // The file is what credentials are to a pull: in memory, and brought again where it was lost.
        let new = NewJob {
            key,
            uid: caller.uid,
            gid: caller.gid,
            acl,
            with_credentials: true,
            source: wanted.source(),
        };
        Ok(Admitted { new, form, verbatim: wanted.verbatim })
    }

    /// The file on this machine, opened as far as the caller's own reach; or who is to look for it where it is. And what
    /// it is to be taken as: a directory may be an image's layout.
    async fn place(
        &self,
        path: PathBuf,
        form: Form,
        platform: &Platform,
        caller: &Caller,
    ) -> Result<(Origin, Form), Refusal> {
        let mut gids = self.groups.of(caller.uid).await;
        gids.push(caller.gid);
        let asker = Asker { uid: caller.uid, gids };
        let config = self.config.now();
        let places = Places { allowed: config.import.paths.clone(), forbidden: config.own_places() };
        if platform.access == Access::Remote && form == Form::Directory {
            let why = "directories of remote systems are not read from here; upload a tar of the directory";
            return Err(Refusal::Unprocessable(why.to_owned()));
        }
        if platform.access == Access::Remote {
            return Ok((Origin::Host(Request { path, asker, places, limit: LARGEST }), form));
        }
        let opened = tokio::task::spawn_blocking(move || match form {
            Form::Directory => {
                let directory = open_directory(&path, &asker, &places)?;
                let tree = Tree { directory, path, asker, forbidden: places.forbidden };
                let form = if tree.is_oci_layout() { Form::Archive } else { form };
                Ok((Origin::Directory(tree), form))
            }
            _ => open(&path, &asker, &places).map(|file| (Origin::File(file), form)),
        });
        let opened: Result<_, OpenError> = opened.await.map_err(|_| Refusal::Busy)?;
        opened.map_err(|error| Refusal::Unprocessable(error.to_string()))
    }

    async fn start_import(
        &self,
        admitted: Admitted,
        origin: Origin,
        room: Option<Room>,
        caller: &Caller,
    ) -> Result<Pulled, Refusal> {
        let Admitted { new, form, verbatim } = admitted;
        let telling = self.config.pull_update.as_secs_f64();
        let is_shared = |number| self.jobs.is_end_shared(number);
        let source = Source { origin, form, verbatim, room };
        match submit(&*self.catalog, &new, false, telling, &is_shared).await? {
            Submitted::Started(job) => {
                let image = job.to_wire(true);
                if !self.jobs.start_import(&job, source).await? && new.source == SENT {
                    return Err(under_way());
                }
                Ok(Pulled::unfinished(image, job, None))
            }
            // Who names a file again asks how it stands; who names or sends another one means that one.
            Submitted::Going(mut job) => {
                let is_same = new.is_done_by(&job);
                let may_bring = self.may_bring(&new, &job);
                // Another one's job becomes this one's whole.
                (job.source, job.acl) = (new.source, new.acl);
                let is_taken = may_bring && self.jobs.start_import(&job, source).await?;
                if !is_same && !is_taken {
                    return Err(under_way());
                }
                Ok(self.going(job))
            }
            Submitted::Over(job) => self.told(job, caller).await,
            Submitted::Fresh => Err(Refusal::NoImage),
            Submitted::TooMany => Err(Refusal::Busy),
        }
    }

    /// Whether a file may be given to an unfinished import that has lost its own: the same one, or another one in the place
    /// of one that was named. What was sent is lost for good, and its sender is to hear that.
    fn may_bring(&self, new: &NewJob, job: &Job) -> bool {
        let is_lost = || job.source != SENT && self.jobs.lost_file(job);
        (new.is_done_by(job) || is_lost()) && self.jobs.lacks_file(job)
    }
}

fn under_way() -> Refusal {
    let why = "another file of yours is being imported under this name, and this one was not taken; send it again when \
               that is over, or under another name";
    Refusal::Conflict(why.to_owned())
}
