//! What stands before the API and needs no credential: health, readiness, metrics. Every request passes here, is
//! measured, and then is the API's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tokio::sync::Mutex;

use crate::health::Readiness;
use crate::http::{self, Service};
use crate::prometheus::{Gauges, METRICS};

/// How long what the catalog and the cache said counts.
const KEPT: Duration = Duration::from_secs(5);

/// The API behind its measured door.
pub(crate) struct Front {
    pub(crate) service: Arc<Service>,
    pub(crate) readiness: Readiness,
    gauges: Mutex<Option<(Instant, Gauges)>>,
}

impl Front {
    pub(crate) fn new(service: Arc<Service>, readiness: Readiness) -> Arc<Front> {
        Arc::new(Front { service, readiness, gauges: Mutex::default() })
    }

    async fn gauges(&self) -> Gauges {
        let mut kept = self.gauges.lock().await;
        if let Some((when, gauges)) = &*kept
            && when.elapsed() < KEPT
        {
            return gauges.clone();
        }
        let api = &self.service.api;
        let jobs = tokio::time::timeout(Duration::from_secs(2), api.catalog.unfinished(None)).await;
        let gauges =
            Gauges { jobs: jobs.ok().and_then(Result::ok), cache: api.jobs.puller().cache_size().await };
        *kept = Some((Instant::now(), gauges.clone()));
        gauges
    }

    async fn answer(&self, method: &Method, path: &str) -> Response {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response =
                text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "this route answers to GET only\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/healthz" => text(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => {
                let found = self.readiness.get().await;
                let status = if found.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, "application/json", found.to_json())
            }
            _ => {
                let (gauges, found) = (self.gauges().await, self.readiness.get().await);
                let body = METRICS.render(&gauges, found.is_ready());
                text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
            }
        }
    }
}

/// The router of a gateway.
pub(crate) fn router(front: Arc<Front>) -> Router {
    Router::new().fallback(handle).with_state(front)
}

async fn handle(State(front): State<Arc<Front>>, request: Request) -> Response {
    let begun = Instant::now();
    let path = request.uri().path().to_owned();
    let response = match path.as_str() {
        "/healthz" | "/readyz" | "/metrics" => front.answer(request.method(), &path).await,
        _ => http::handle(State(front.service.clone()), request).await,
    };
    METRICS.request(&path, response.status().as_u16(), begun.elapsed());
    response
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
