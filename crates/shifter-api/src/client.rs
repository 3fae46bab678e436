//! A small blocking client of the gateway's REST API version 1.
//!
//! Gateways are tried in random order until one answers 200, as the original's client does; every attempt
//! carries a credential of its own, because a credential opens once. For the same reason the HTTP library may
//! neither retry nor follow redirects. It also takes no proxy from the environment: the gateway belongs to the
//! site, and the header carries the user's credential. Waiting for a pull to end is the program's business.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Seek;
use std::path::PathBuf;
use std::time::Duration;

use shifter_munge::MungeError;
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::payload::{Payload, request_digest};
mod authorities;
mod error;
mod requests;

pub use error::{Attempt, AttemptError, ClientError};
pub use requests::{Filter, Named};

/// The header that carries the munge credential.
const CREDENTIAL: &str = "authentication";

/// Most bytes of an answer that are read: a list of some 100,000 images.
pub const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Longest wait for a TCP connection, also where the whole request may take forever: a host that is down must
/// not keep the next gateway waiting for the kernel's two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes one credential around the given payload.
pub type Mint<'a> = Box<dyn Fn(&[u8]) -> Result<String, MungeError> + 'a>;

/// Is shown every answer: gateway, status, body.
pub type Observer<'a> = Box<dyn Fn(&str, u16, &[u8]) + 'a>;

/// Where and how to ask.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// Base URLs (`imageGateway`); `http://` is assumed where none is given.
    pub gateways: Vec<String>,
    /// The system's name (`system`).
    pub system: String,
    /// Longest time one whole request may take (`gatewayTimeout`); `None` is no limit.
    pub timeout: Option<Duration>,
    /// Certificate authorities for `https` gateways (PEM); `None` takes the host's own.
    pub ca_bundle: Option<PathBuf>,
}

/// The client; one per run, its order of gateways drawn once.
pub struct Client<'a> {
    gateways: Vec<String>,
    system: String,
    agent: Agent,
    mint: Mint<'a>,
    observer: Option<Observer<'a>>,
    /// The gateway that answered last is asked first: while polling, the others' state is of no interest.
    preferred: Cell<usize>,
}

/// One request, the same for all gateways.
struct Request<'a> {
    operation: String,
    method: Method,
    /// `list`, `lookup` or `pull`, the system, and what is asked for.
    segments: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    body: Content<'a>,
    locations: BTreeMap<String, String>,
}

/// How a route is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Post,
    Delete,
    Put,
}

/// What is sent with a request.
enum Content<'a> {
    Bytes(Vec<u8>),
    /// From its beginning, at every attempt. It may take any time, and no digest covers it: what vouches for it
    /// is the file's own digest in the query.
    File(&'a File),
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Put => "PUT",
        }
    }
}

impl<'a> Client<'a> {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// If a gateway's address is unusable, or https is asked for and no authorities can be loaded.
    pub fn new(config: &ClientConfig, mint: Mint<'a>) -> Result<Client<'a>, ClientError> {
        let mut gateways =
            config.gateways.iter().map(|url| base_url(url)).collect::<Result<Vec<_>, ClientError>>()?;
        if gateways.is_empty() {
            return Err(ClientError::NoGateway);
        }
        // std's hasher keys are random per process: enough to spread load over gateways.
        let random = RandomState::new();
        gateways.sort_by_cached_key(|url| random.hash_one(url));
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .proxy(None)
            .user_agent(concat!("shifterimg/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(config.timeout);
        if gateways.iter().any(|url| url.starts_with("https:")) {
            let roots = authorities::load(config.ca_bundle.as_deref())?;
            agent = agent.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Client {
            gateways,
            system: config.system.clone(),
            agent: agent.build().new_agent(),
            mint,
            observer: None,
            preferred: Cell::new(0),
        })
    }

    /// Has every answer shown to `observer` (the verbose mode).
    #[must_use]
    pub fn observed_by(mut self, observer: Observer<'a>) -> Client<'a> {
        self.observer = Some(observer);
        self
    }

    /// Asks one gateway after another until an answer is 200 and understood.
    fn ask<T>(
        &self,
        request: &Request<'_>,
        read: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<T, ClientError> {
        let mut attempts = Vec::new();
        for offset in 0..self.gateways.len() {
            let index = (self.preferred.get() + offset) % self.gateways.len();
            let Some(gateway) = self.gateways.get(index) else { continue };
            match self.ask_one(gateway, request, &read) {
                Ok(value) => {
                    self.preferred.set(index);
                    return Ok(value);
                }
                Err(ClientError::Failed { attempts: failed, .. }) => attempts.extend(failed),
                Err(other) => return Err(other),
            }
        }
        Err(ClientError::Failed { operation: request.operation.clone(), attempts })
    }

    /// Asks this gateway and no other.
    fn ask_one<T>(
        &self,
        gateway: &str,
        request: &Request<'_>,
        read: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<T, ClientError> {
        let cause = match self.attempt(gateway, request)?.map(|bytes| read(&bytes)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => AttemptError::Unreadable(error.to_string()),
            Err(cause) => cause,
        };
        let attempts = vec![Attempt { gateway: gateway.to_owned(), cause }];
        Err(ClientError::Failed { operation: request.operation.clone(), attempts })
    }

    /// One HTTP exchange. The outer error ends the whole operation, the inner one only this attempt.
    fn attempt(
        &self,
        gateway: &str,
        request: &Request<'_>,
    ) -> Result<Result<Vec<u8>, AttemptError>, MungeError> {
        let query = query(&request.query);
        let path = |spell: &dyn Fn(&str) -> String| {
            let segments: Vec<String> = request.segments.iter().map(|segment| spell(segment)).collect();
            format!("/api/{}/{query}", segments.join("/"))
        };
        let bytes = match &request.body {
            Content::Bytes(bytes) => bytes.as_slice(),
            Content::File(_) => &[],
        };
        let digest = request_digest(request.method.as_str(), &path(&str::to_owned), bytes);
        let payload =
            Payload { authorized_locations: request.locations.clone(), request: Some(digest) }.render();
        let credential = (self.mint)(payload.as_bytes())?;
        let url = format!("{gateway}{}", path(&escape));
        let sent = match (request.method, &request.body) {
            (Method::Get, _) => self.agent.get(&url).header(CREDENTIAL, &credential).call(),
            (Method::Delete, _) => self.agent.delete(&url).header(CREDENTIAL, &credential).call(),
            (Method::Post | Method::Put, Content::Bytes(bytes)) => self
                .agent
                .post(&url)
                .header(CREDENTIAL, &credential)
                .header("Content-Type", "application/json")
                .send(bytes.as_slice()),
            (Method::Post | Method::Put, &Content::File(mut file)) => match file.rewind() {
                Ok(()) => self
                    .agent
                    .put(&url)
                    .config()
                    .timeout_global(None)
                    .build()
                    .header(CREDENTIAL, &credential)
                    .header("Content-Type", "application/octet-stream")
                    .send(file),
                Err(error) => Err(ureq::Error::Io(error)),
            },
        };
        let transport = |error| transport(gateway, error);
        Ok(sent.map_err(transport).and_then(|mut answer| {
            let status = answer.status();
            let bytes = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(transport)?;
            if let Some(observer) = &self.observer {
                observer(gateway, status.as_u16(), &bytes);
            }
            if status.as_u16() == 200 {
                return Ok(bytes);
            }
            let named = status.canonical_reason().unwrap_or("no reason given");
            let reason = refusal(&bytes).unwrap_or_else(|| named.to_owned());
            Err(AttemptError::Refused { status: status.as_u16(), reason })
        }))
    }
}

fn transport(gateway: &str, error: ureq::Error) -> AttemptError {
    match error {
        ureq::Error::Protocol(error) if gateway.starts_with("http:") => AttemptError::Unreachable(format!(
            "its answer is no HTTP ({error}); if it wants TLS, imageGateway must begin with https://"
        )),
        ureq::Error::Timeout(_) => AttemptError::TimedOut,
        ureq::Error::BodyExceedsLimit(_) => AttemptError::TooLarge,
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => AttemptError::TimedOut,
        ureq::Error::Io(error) => AttemptError::Unreachable(certified(error.to_string())),
        other => AttemptError::Unreachable(certified(other.to_string())),
    }
}

/// The words of the TLS library, or better ones for what `openssl req -x509` makes by itself.
fn certified(words: String) -> String {
    if !words.contains("CaUsedAsEndEntity") {
        return words;
    }
    "its certificate is an authority's (basicConstraints CA:TRUE), which no server may have; make it with CA:FALSE"
        .to_owned()
}

/// The gateway's own words in an error body, made fit for a terminal; none in an HTML page.
fn refusal(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    // `detail` is what the original's unreleased successor sends.
    let words = body.get("error").or_else(|| body.get("detail"))?.as_str()?;
    let words: String = words.chars().filter(|c| !c.is_control()).take(500).collect();
    // "None" is the original's way to say nothing.
    (!words.is_empty() && words != "None").then_some(words)
}

/// Checks a gateway's address; the result has a scheme and no trailing slash.
fn base_url(configured: &str) -> Result<String, ClientError> {
    let bad = |cause| Err(ClientError::BadGateway { url: configured.to_owned(), cause });
    let (scheme, rest) = configured.split_once("://").unwrap_or(("http", configured));
    let rest = rest.trim_end_matches('/');
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return bad("only http and https are spoken");
    }
    if rest.is_empty() || rest.starts_with('/') {
        return bad("it names no host");
    }
    if rest.contains(['?', '#', '@']) || !rest.bytes().all(|b| b.is_ascii_graphic()) {
        return bad("it has characters that a gateway's address cannot have");
    }
    Ok(format!("{scheme}://{rest}"))
}

/// `?name=value&…`, or nothing.
fn query(pairs: &[(&'static str, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Percent-encodes all but RFC 3986's unreserved characters: of a tag that is `/`, `:`, `@` and `+`.
fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len() + 16);
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
