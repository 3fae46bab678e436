//! HTTP around the API: one handler that routes by itself, because a tag spans slashes and old
//! clients need answers of an exact form: `Content-Type: application/json` with nothing behind it, a
//! `Content-Length`, never chunks. Every answer that is not 200 is a JSON document with a sentence.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header, request};
use axum::response::Response;
use serde::Serialize;
use shifter_api::wire::{ErrorBody, ServiceStatus};

use crate::api::{Api, Refusal};
use crate::auth::{AuthError, Authenticator, Caller};
use crate::config::Platform;
use crate::convert::sentence;
use crate::route::{self, Route, RouteError};

/// Longest request body, bytes.
const LONGEST_BODY: usize = 64 << 10;

/// Time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Seconds after which what cannot be done now is worth asking for again.
const RETRY_AFTER: &str = "5";

/// The API with its door keeper.
pub(crate) struct Service {
    pub(crate) api: Api,
    pub(crate) authenticator: Authenticator,
}

/// The router: everything falls through to one handler.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new().fallback(handle).with_state(service)
}

/// An answer that is not 200.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    error: String,
    allow: Option<&'static str>,
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), allow: None }
    }
}

async fn handle(State(service): State<Arc<Service>>, request: Request) -> Response {
    let begun = std::time::Instant::now();
    let (parts, body) = request.into_parts();
    let target: String = parts.uri.path().chars().take(4096).collect();
    let mut uid = None;
    let response = match respond(&service, &parts, body, &mut uid).await {
        Ok(response) => response,
        Err(problem) => {
            if problem.status.is_server_error() {
                tracing::error!(target, error = problem.error, "request failed");
            }
            refuse(&problem, &target)
        }
    };
    // The path names images, never credentials; headers and bodies are not logged.
    tracing::debug!(
        method = %parts.method, target, uid, status = response.status().as_u16(),
        ms = begun.elapsed().as_secs_f64() * 1000.0, "request"
    );
    response
}

async fn respond(
    service: &Service,
    parts: &request::Parts,
    body: Body,
    uid: &mut Option<u32>,
) -> Result<Response, Problem> {
    let path = route::decode(parts.uri.path()).map_err(bad_route)?;
    let route = route::route(&path).map_err(bad_route)?;
    if !route.method().split(", ").any(|method| method == parts.method.as_str()) {
        let error = format!("this route answers to {} only", route.method());
        return Err(Problem {
            allow: Some(route.method()),
            ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, error)
        });
    }
    let body = read(parts, body).await?;
    let Some(system) = route.system() else {
        return Ok(match route {
            Route::Status => json(StatusCode::OK, &ServiceStatus { status: "up".to_owned() }),
            _ => text("{lookup,pull,expire,list}"),
        });
    };
    let platform = service.api.config.platforms.get(system).ok_or_else(|| {
        let name = system.chars().take(64).flat_map(char::escape_default).collect::<String>();
        Problem::new(StatusCode::NOT_FOUND, format!("system \"{name}\" is not configured on this gateway"))
    })?;
    let caller = authenticate(service, parts, &path, &body, platform).await?;
    *uid = Some(caller.uid);
    let api = &service.api;
    Ok(match &route {
        Route::List { system } => json(StatusCode::OK, &api.list(system, &caller).await?),
        Route::Queue { system } => json(StatusCode::OK, &api.queue(system, &caller).await?),
        Route::Lookup { system, itype, tag } => {
            json(StatusCode::OK, &api.lookup(system, itype, tag, &caller).await?)
        }
        Route::Pull { system, itype, tag } => {
            json(StatusCode::OK, &api.pull(system, platform, itype, tag, &body, &caller).await?)
        }
        Route::Manage(manage) => json(
            StatusCode::OK,
            &api.manage(manage, platform, parts.method.as_str(), parts.uri.query(), &caller).await?,
        ),
        Route::Root | Route::Status => {
            return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such route"));
        }
    })
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
) -> Result<Caller, Problem> {
    let header = parts.headers.get("authentication").map(HeaderValue::as_bytes);
    let caller = service.authenticator.authenticate(header, platform.munge_socket.as_ref()).await;
    let caller = caller.map_err(|error| {
        let status = match error {
            AuthError::Missing | AuthError::Refused(_) => StatusCode::UNAUTHORIZED,
            AuthError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, error.to_string())
    })?;
    if !caller.payload.allows(parts.method.as_str(), path, body) {
        let error = "the request's credential was made for another request";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, error));
    }
    Ok(caller)
}

fn bad_route(error: RouteError) -> Problem {
    let status = match error {
        RouteError::Encoding => StatusCode::BAD_REQUEST,
        RouteError::TooLong => StatusCode::URI_TOO_LONG,
        RouteError::Unknown => StatusCode::NOT_FOUND,
    };
    Problem::new(status, error.to_string())
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = match &refusal {
            Refusal::BadRequest(_) => StatusCode::BAD_REQUEST,
            Refusal::NoImage => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
            Refusal::Files(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Catalog(error) if !error.is_passing() => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Busy | Refusal::Catalog(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, sentence(&refusal))
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
    if let Some(method) = problem.allow {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    }
    if problem.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(status, "application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "writing an answer as JSON failed");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "application/json", b"{\"status\":500}".to_vec())
        }
    }
}

fn text(line: &'static str) -> Response {
    answer(StatusCode::OK, "text/plain", line.into())
}

fn answer(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let length = HeaderValue::from(bytes.len());
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}
