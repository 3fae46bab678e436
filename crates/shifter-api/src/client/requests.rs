//! What can be asked of a gateway, one function per route. Routes that the original's gateway does not have are
//! answered by it with 404.
//!
//! Nothing is decided here: names and lists go as they are, and answers come back as the wire's types.

use std::collections::BTreeMap;
use std::fs::File;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Client, ClientError, Content, Method, Request};
use crate::wire::{self, Image, ImageList, PullRequest, Pulled, Queue};

/// An image as users name it: type and tag.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// `docker`, `custom` or `id`.
    pub itype: &'a str,
    /// The tag, or the identifier of an `id` image.
    pub tag: &'a str,
}

/// Which images a list is to have; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those that the caller pulled or imported.
    pub mine: bool,
    /// Only tags that match this pattern of `*` and `?`.
    pub name: Option<String>,
    /// Only images with these labels, `NAME` or `NAME=VALUE`.
    pub labels: Vec<String>,
}

impl<'a> Client<'a> {
    /// `GET /api/list/SYSTEM/`: the images the caller may see.
    ///
    /// # Errors
    /// [`ClientError`], one sentence per gateway; the same holds for all that follow.
    pub fn images(&self, filter: &Filter) -> Result<Vec<Image>, ClientError> {
        let mut request = self.request("list the images", Method::Get, vec!["list", &self.system]);
        request.query.extend(filter.mine.then(|| ("mine", "1".to_owned())));
        request.query.extend(filter.name.clone().map(|name| ("name", name)));
        request.query.extend(filter.labels.iter().map(|label| ("label", label.clone())));
        self.ask(&request, json::<ImageList>).map(|answer| answer.list)
    }

    /// `GET /api/lookup/SYSTEM/TYPE/TAG/`: the image a tag stands for.
    pub fn lookup(&self, image: Named<'_>) -> Result<Image, ClientError> {
        self.ask(&self.about("look up", Method::Get, "lookup", image), json)
    }

    /// `GET /api/image/SYSTEM/TYPE/TAG/`: everything the gateway tells of an image.
    pub fn inspect(&self, image: Named<'_>) -> Result<Value, ClientError> {
        self.ask(&self.about("inspect", Method::Get, "image", image), json)
    }

    /// `GET /api/history/SYSTEM/TYPE/TAG/`: which images the tag stood for, newest first.
    pub fn history(&self, image: Named<'_>) -> Result<wire::History, ClientError> {
        self.ask(&self.about("tell the history of", Method::Get, "history", image), json)
    }

    /// `POST /api/pull/SYSTEM/TYPE/TAG/`: starts a pull, or tells how a started one is getting on.
    ///
    /// `locations` (`user:password` by registry location) travels inside the credential. `wait` has a gateway of
    /// ours answer when the state is no longer `seen`, or after that many seconds; an original's answers at once.
    pub fn pull(
        &self,
        image: Named<'_>,
        access: &PullRequest,
        locations: &BTreeMap<String, String>,
        wait: Option<(u64, &str)>,
    ) -> Result<Pulled, ClientError> {
        let mut request = self.about("pull", Method::Post, "pull", image);
        // The original sends an empty body where no access list is given.
        if *access != PullRequest::default() {
            request.body = body(access);
        }
        request.locations = locations.clone();
        request.wait(wait);
        self.ask(&request, Pulled::read)
    }

    /// `GET /api/job/SYSTEM/TYPE/TAG/`: how the caller's own pull or import stands; `wait` as for `pull`.
    pub fn job(&self, image: Named<'_>, wait: Option<(u64, &str)>) -> Result<Pulled, ClientError> {
        let mut request = self.about("ask after", Method::Get, "job", image);
        request.wait(wait);
        self.ask(&request, Pulled::read)
    }

    /// `DELETE /api/pull/SYSTEM/TYPE/TAG/`: ends the caller's own unfinished pull.
    pub fn cancel(&self, image: Named<'_>) -> Result<(), ClientError> {
        self.ask(&self.about("cancel the pull of", Method::Delete, "pull", image), json::<Value>).map(drop)
    }

    /// `POST /api/doimport/SYSTEM/TYPE/TAG/`: imports a file that the gateway (or, of a remote system, the
    /// system's host) can read, or tells how that is getting on; `wait` as for `pull`.
    pub fn import(
        &self,
        image: Named<'_>,
        path: &str,
        format: &str,
        access: &PullRequest,
        wait: Option<(u64, &str)>,
    ) -> Result<Pulled, ClientError> {
        let mut request = self.about("import", Method::Post, "doimport", image);
        request.wait(wait);
        request.body = body(&wire::ImportRequest {
            filepath: path.to_owned(),
            format: format.to_owned(),
            allowed_uids: wire::render_id_list(&access.allowed_uids),
            allowed_gids: wire::render_id_list(&access.allowed_gids),
        });
        self.ask(&request, Pulled::read)
    }

    /// `PUT /api/upload/SYSTEM/TYPE/TAG/`: sends a file and has it imported. `sha256` is the file's, hex.
    pub fn upload<'f>(
        &'f self,
        image: Named<'f>,
        file: &'f File,
        sha256: &str,
        format: &str,
        access: &PullRequest,
    ) -> Result<Pulled, ClientError> {
        let mut request = self.about("upload", Method::Put, "upload", image);
        request.query.push(("format", format.to_owned()));
        request.query.push(("sha256", sha256.to_owned()));
        for (name, ids) in [("allowed_uids", &access.allowed_uids), ("allowed_gids", &access.allowed_gids)] {
            if !ids.is_empty() {
                request.query.push((name, wire::render_id_list(ids)));
            }
        }
        request.body = Content::File(file);
        self.ask(&request, Pulled::read)
    }

    /// `POST /api/login/SYSTEM/`: whether the registry accepts what `locations` holds for `location`.
    pub fn probe(
        &self,
        location: &str,
        locations: &BTreeMap<String, String>,
    ) -> Result<wire::Probe, ClientError> {
        let mut request = self.request("check the login", Method::Post, vec!["login", &self.system]);
        request.body = body(&serde_json::json!({ "location": location }));
        request.locations = locations.clone();
        self.ask(&request, json)
    }

    /// `DELETE /api/image/SYSTEM/TYPE/TAG/`: gives up the caller's right to an image, or, with `all`, as an
    /// administrator, removes it for everybody.
    pub fn remove(&self, image: Named<'_>, all: bool) -> Result<(), ClientError> {
        let mut request = self.about("remove", Method::Delete, "image", image);
        request.query.extend(all.then(|| ("all", "1".to_owned())));
        self.ask(&request, json::<Value>).map(drop)
    }

    /// `GET /api/expire/SYSTEM/TYPE/TAG/`: removes the image of a tag, as an administrator; of one named by its
    /// identifier, `POST /api/expire/SYSTEM/?id=ID`.
    pub fn expire(&self, image: Named<'_>) -> Result<wire::Done, ClientError> {
        if image.itype == "id" {
            return self.change("expire", image.tag);
        }
        self.ask(&self.about("expire", Method::Get, "expire", image), json)
    }

    /// `POST /api/VERB/SYSTEM/?id=ID`, where the verb is `expire`, `restore`, `pin` or `unpin`, as an administrator.
    pub fn change(&self, verb: &str, id: &str) -> Result<wire::Done, ClientError> {
        let mut request = self.request(&format!("{verb} {id}"), Method::Post, vec![verb, &self.system]);
        request.query.push(("id", id.to_owned()));
        self.ask(&request, json)
    }

    /// `GET /api/autoexpire/SYSTEM/`: removes what is past its time, as an administrator; the identifiers.
    pub fn autoexpire(&self, dry_run: bool) -> Result<wire::Expired, ClientError> {
        let mut request = self.request("expire images", Method::Get, vec!["autoexpire", &self.system]);
        request.query.extend(dry_run.then(|| ("dry_run", "1".to_owned())));
        self.ask(&request, json)
    }

    /// `GET /api/queue/SYSTEM/`: unfinished pulls.
    pub fn queue(&self) -> Result<Queue, ClientError> {
        self.ask(&self.request("list the queue", Method::Get, vec!["queue", &self.system]), json)
    }

    /// `GET /api/metrics/SYSTEM/`: the latest lookups, newest last. Others than administrators are denied,
    /// and get an empty list from older gateways.
    pub fn metrics(&self, limit: u64) -> Result<Vec<wire::Lookup>, ClientError> {
        let mut request = self.request("read the metrics", Method::Get, vec!["metrics", &self.system]);
        request.query.push(("limit", limit.to_string()));
        // Rather than the empty list that old clients are told.
        request.query.push(("strict", "1".to_owned()));
        self.ask(&request, json)
    }

    /// `GET /api/status` of every gateway, in the order of the configuration.
    pub fn status(&self) -> Vec<(String, Result<(), ClientError>)> {
        let mut gateways: Vec<&String> = self.gateways.iter().collect();
        gateways.sort();
        let request = self.request("ask for the status", Method::Get, vec!["status"]);
        let ask = |gateway: &String| self.ask_one(gateway, &request, json::<Value>).map(drop);
        gateways.into_iter().map(|gateway| (gateway.clone(), ask(gateway))).collect()
    }

    fn request<'s>(&'s self, operation: &str, method: Method, segments: Vec<&'s str>) -> Request<'s> {
        Request {
            operation: operation.to_owned(),
            method,
            segments,
            query: Vec::new(),
            body: Content::Bytes(Vec::new()),
            locations: BTreeMap::new(),
        }
    }

    fn about<'s>(&'s self, doing: &str, method: Method, verb: &'s str, image: Named<'s>) -> Request<'s> {
        let operation = format!("{doing} {}:{}", image.itype, image.tag);
        self.request(&operation, method, vec![verb, &self.system, image.itype, image.tag])
    }
}

impl Request<'_> {
    fn wait(&mut self, wait: Option<(u64, &str)>) {
        let Some((seconds, seen)) = wait else { return };
        self.query.push(("wait", seconds.to_string()));
        if !seen.is_empty() {
            self.query.push(("seen", seen.to_owned()));
        }
    }
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Strings and numbers cannot fail to serialize.
fn body(value: &impl serde::Serialize) -> Content<'static> {
    Content::Bytes(serde_json::to_vec(value).unwrap_or_default())
}
