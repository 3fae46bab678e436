//! What stands around the API: every request passes here and is measured. And what the routes about the process itself
//! say: readiness and metrics, kept for a moment, so that nobody can make the gateway look more often. The routes are in
//! the table with all others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::sync::Mutex;

use crate::api::Api;
use crate::catalog::Catalog;
use crate::health::Readiness;
use crate::http::{self, Service};
use crate::live::Live;
use crate::prometheus::{Gauges, METRICS};

/// How long what the catalog and the cache said counts.
const KEPT: Duration = Duration::from_secs(5);

/// What is told of the process itself.
pub(crate) struct Probes {
    pub(crate) readiness: Readiness,
    gauges: Mutex<Option<(Instant, Gauges)>>,
}

impl Probes {
    pub(crate) fn new(config: Live, catalog: Arc<dyn Catalog>) -> Probes {
        Probes { readiness: Readiness::new(config, catalog), gauges: Mutex::default() }
    }

    async fn gauges(&self, api: &Api) -> Gauges {
        let mut kept = self.gauges.lock().await;
        if let Some((when, gauges)) = &*kept
            && when.elapsed() < KEPT
        {
            return gauges.clone();
        }
        let jobs = tokio::time::timeout(Duration::from_secs(2), api.catalog.unfinished(None)).await;
        let gauges =
            Gauges { jobs: jobs.ok().and_then(Result::ok), cache: api.jobs.puller().cache_size().await };
        *kept = Some((Instant::now(), gauges.clone()));
        gauges
    }

    /// All that is counted, as Prometheus reads it.
    pub(crate) async fn metrics(&self, api: &Api) -> String {
        let (gauges, found) = (self.gauges(api).await, self.readiness.get().await);
        METRICS.render(&gauges, found.is_ready())
    }
}

/// The router of a gateway.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new().fallback(handle).with_state(service)
}

async fn handle(State(service): State<Arc<Service>>, request: Request) -> Response {
    let begun = Instant::now();
    let path = request.uri().path().to_owned();
    let response = http::handle(State(service), request).await;
    METRICS.request(&path, response.status().as_u16(), begun.elapsed());
    response
}
