//! HTTP around the API: one handler that routes by itself, because a tag spans slashes and old
//! clients need answers of an exact form: `Content-Type: application/json` with nothing behind it, a
//! `Content-Length`, never chunks. Every answer that is not 200 is a JSON document with a sentence.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[cfg(test)]
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header, request};
use axum::response::Response;
use serde::Serialize;
use shifter_api::wire::ErrorBody;

use crate::api::{Api, Refusal};
use crate::audit::Decision;
use crate::auth::{AuthError, Authenticator, Caller};
use crate::config::Platform;
use crate::convert::sentence;
use crate::front::Probes;
use crate::listen::Arrival;
use crate::prometheus::METRICS;
use crate::route::{self, Names, Query, RouteError};
use crate::routes::{FILE, Route, Run, Who};

/// Longest request body, bytes.
pub(crate) const LONGEST_BODY: usize = 64 << 10;

/// Time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Seconds after which what cannot be done now is worth asking for again.
const RETRY_AFTER: &str = "5";

/// Seconds after which who asked too often may ask again.
const LATER: &str = "60";

/// Names a request in all logs; echoed, so that clients can quote it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The API with its door keeper.
pub(crate) struct Service {
    pub(crate) api: Api,
    pub(crate) authenticator: Authenticator,
    pub(crate) probes: Probes,
}

/// The API without what stands before it: everything falls through to one handler.
#[cfg(test)]
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new().fallback(handle).with_state(service)
}

/// A request that passed the door: its system exists, and the caller is as the route demands.
pub(crate) struct Ask<'a> {
    pub(crate) service: &'a Service,
    pub(crate) platform: &'a Platform,
    pub(crate) names: Names<'a>,
    pub(crate) query: Query,
    pub(crate) body: Bytes,
    /// On routes that take a file: the body, unread, to be taken once.
    pub(crate) stream: Mutex<Option<Body>>,
    /// None only where the route lets in who proves nothing.
    pub(crate) caller: Option<Caller>,
}

impl Ask<'_> {
    /// The body of a route that takes a file.
    pub(crate) fn take_stream(&self) -> Body {
        let taken = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(Body::empty)
    }

    /// The caller, on routes that demand one.
    pub(crate) fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.as_ref().ok_or_else(|| AuthError::Missing.into())
    }
}

/// What the audit log is to know beside the status code; an extension of the response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The image that was given.
    pub(crate) digest: Option<String>,
    /// Why it was a refusal although its status is 200, as for old clients.
    pub(crate) denied: Option<String>,
}

/// An answer that is not 200.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// For the caller.
    error: String,
    allow: Option<String>,
    /// For the audit log, where it may know more than the caller.
    digest: Option<String>,
    why: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), allow: None, digest: None, why: None }
    }

    /// For the audit log: the image that the request was about.
    pub(crate) fn about(self, digest: Option<String>) -> Problem {
        Problem { digest: self.digest.or(digest), ..self }
    }

    pub(crate) fn unprocessable(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }
}

/// What is known of a request by the time it is answered, for the logs.
#[derive(Default)]
struct Known {
    action: &'static str,
    who: Option<Who>,
    names: [String; 3],
    uid: Option<u32>,
    gid: Option<u32>,
}

pub(crate) async fn handle(State(service): State<Arc<Service>>, request: Request) -> Response {
    let begun = std::time::Instant::now();
    let (parts, body) = request.into_parts();
    let id = request_id(&parts);
    let target: String = parts.uri.path().chars().take(4096).collect();
    let mut known = Known::default();
    let result = respond(&service, &parts, body, &mut known).await;
    let status = result.as_ref().map_or_else(|problem| problem.status, Response::status);
    note(&id, &known, &result);
    let mut response = result.unwrap_or_else(|problem| {
        if problem.status.is_server_error() {
            tracing::error!(request = id, target, error = problem.error, "request failed");
        }
        refuse(&problem, &target)
    });
    // Probes come every few seconds.
    let is_probe = status.is_success() && matches!(known.action, "health" | "ready" | "prometheus");
    if !is_probe {
        // The path names images, never credentials; headers, parameters and bodies are not logged.
        tracing::info!(
            target: "access", request = id, method = %parts.method, path = target, uid = known.uid,
            status = status.as_u16(), ms = begun.elapsed().as_secs_f64() * 1000.0
        );
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The client's name for the request where it is sane, else a new one.
fn request_id(parts: &request::Parts) -> String {
    let given = parts.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_sane = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(is_sane).map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned)
}

/// Tells the audit log what was decided. What asks for no caller decides nothing.
fn note(request: &str, known: &Known, result: &Result<Response, Problem>) {
    if known.who.is_none_or(|who| who == Who::Anyone) {
        return;
    }
    let given = result.as_ref().ok().and_then(|response| response.extensions().get::<Outcome>());
    let (digest, denied) = match result {
        Ok(_) => (
            given.and_then(|outcome| outcome.digest.as_deref()),
            given.and_then(|outcome| outcome.denied.as_deref()),
        ),
        Err(problem) => (problem.digest.as_deref(), Some(problem.why.as_deref().unwrap_or(&problem.error))),
    };
    let [system, itype, tag] = &known.names;
    Decision {
        request,
        uid: known.uid,
        gid: known.gid,
        action: known.action,
        system,
        itype,
        tag,
        digest: digest.unwrap_or_default(),
        allowed: denied.is_none(),
        why: denied.unwrap_or_default(),
    }
    .note();
}

async fn respond(
    service: &Service,
    parts: &request::Parts,
    body: Body,
    known: &mut Known,
) -> Result<Response, Problem> {
    let path = route::decode(parts.uri.path())?;
    let query = Query::parse(parts.uri.query())?;
    let found = route::find(&path)?;
    let is_meant = |route: &&&Route| {
        let is_head = parts.method == Method::HEAD && matches!(route.run, Run::Open(_));
        route.method == parts.method.as_str() || (is_head && route.method == "GET")
    };
    let Some(route) = found.routes.iter().find(is_meant) else {
        let methods: Vec<&str> = found.routes.iter().map(|route| route.method).collect();
        let error = format!("this route answers to {} only", methods.join(" and "));
        let allow = Some(methods.join(", "));
        return Err(Problem { allow, ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, error) });
    };
    let names = found.names;
    known.action = route.action;
    known.who = Some(route.who);
    known.names = [names.system, names.itype, names.tag].map(str::to_owned);
    let (body, stream) = match route.body {
        Some(FILE) => (Bytes::new(), Some(body)),
        _ => (read(parts, body).await?, None),
    };
    let arrived = || parts.extensions.get::<Arrival>().into_iter().for_each(Arrival::is_whole);
    let run = match route.run {
        Run::Open(run) => {
            arrived();
            return run(service).await;
        }
        Run::System(run) => run,
    };
    let platform = service.api.config.platforms.get(names.system).ok_or_else(|| {
        let name = names.system.chars().take(64).flat_map(char::escape_default).collect::<String>();
        Problem::new(StatusCode::NOT_FOUND, format!("system \"{name}\" is not configured on this gateway"))
    })?;
    let is_open =
        route.who == Who::Anyone || (route.who == Who::Reader && service.api.config.allow_anonymous_reads);
    // A credential that is there must be good, also where none is needed.
    let caller = match authenticate(service, parts, &path, &body, platform).await {
        Ok(caller) => Some(caller),
        Err(AuthError::Missing) if is_open => None,
        Err(error) => return Err(error.into()),
    };
    known.uid = caller.as_ref().map(|caller| caller.uid);
    known.gid = caller.as_ref().map(|caller| caller.gid);
    arrived();
    run(&Ask { service, platform, names, query, body, stream: Mutex::new(stream), caller }).await
}

/// The body, whatever its declared type: old clients' types vary.
async fn read(parts: &request::Parts, body: Body) -> Result<Bytes, Problem> {
    let too_long = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request's body is longer than {LONGEST_BODY} bytes"),
        )
    };
    let declared =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > LONGEST_BODY as u64) {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, LONGEST_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if sentence(&error).contains("length limit") => Err(too_long()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the request's body did not arrive whole")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time")),
    }
}

async fn authenticate(
    service: &Service,
    parts: &request::Parts,
    path: &str,
    body: &[u8],
    platform: &Platform,
) -> Result<Caller, AuthError> {
    let header = parts.headers.get("authentication").map(HeaderValue::as_bytes);
    let caller = service.authenticator.authenticate(header, platform.munge_socket.as_ref()).await?;
    let whole = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if !caller.payload.allows(parts.method.as_str(), &whole, body) {
        return Err(AuthError::Refused("it was made for another request".to_owned()));
    }
    Ok(caller)
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Problem {
        let status = match error {
            AuthError::Missing | AuthError::Refused(_) => StatusCode::UNAUTHORIZED,
            AuthError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        METRICS.munge_failed(status == StatusCode::UNAUTHORIZED);
        Problem::new(status, error.to_string())
    }
}

impl From<RouteError> for Problem {
    fn from(error: RouteError) -> Problem {
        let status = match error {
            RouteError::Encoding => StatusCode::BAD_REQUEST,
            RouteError::TooLong => StatusCode::URI_TOO_LONG,
            RouteError::Unknown => StatusCode::NOT_FOUND,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = match &refusal {
            Refusal::BadRequest(_) => StatusCode::BAD_REQUEST,
            Refusal::NoImage | Refusal::Denied(_) | Refusal::NoJob => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
            Refusal::Files(error) if !error.is_passing() => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Catalog(error) if !error.is_passing() => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Busy | Refusal::NoRoom | Refusal::Files(_) | Refusal::Catalog(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let problem = Problem::new(status, sentence(&refusal));
        match refusal {
            Refusal::Denied(digest) => Problem {
                digest: Some(digest),
                why: Some("the image is there, but no grant of the tag names the caller".to_owned()),
                ..problem
            },
            _ => problem,
        }
    }
}

fn refuse(problem: &Problem, target: &str) -> Response {
    let reason = problem.status.canonical_reason().unwrap_or("Error");
    let body = ErrorBody {
        status: problem.status.as_u16(),
        error: problem.error.clone(),
        message: format!("{reason}: {target}"),
    };
    let mut response = json(problem.status, &body);
    if let Some(methods) = problem.allow.as_ref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    let again = match problem.status {
        StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_AFTER),
        StatusCode::TOO_MANY_REQUESTS => Some(LATER),
        _ => None,
    };
    if let Some(seconds) = again {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    response
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(status, "application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "writing an answer as JSON failed");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "application/json", b"{\"status\":500}".to_vec())
        }
    }
}

pub(crate) fn text(line: &'static str) -> Response {
    answer(StatusCode::OK, "text/plain", line.into())
}

pub(crate) fn answer(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let length = HeaderValue::from(bytes.len());
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}
