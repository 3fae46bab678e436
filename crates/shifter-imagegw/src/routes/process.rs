//! Routes about the process itself, for who watches it; without a credential. Entries only.

use super::{Route, Run, Who};
use crate::handlers;

/// `(path, action, summary, reply, who answers)`
macro_rules! route {
    ($path:literal, $action:literal, $summary:literal, $reply:literal, $run:expr) => {
        Route {
            method: "GET",
            path: $path,
            action: $action,
            who: Who::Anyone,
            summary: $summary,
            query: &[],
            body: None,
            reply: $reply,
            refusals: &[],
            run: Run::Open($run),
        }
    };
}

pub(super) const ROUTES: &[Route] = &[
    route!("/healthz", "health", "That the process lives.", "Text", |_| Box::pin(handlers::health())),
    route!(
        "/readyz",
        "ready",
        "Whether catalog, image directories and munge can be used; 503 if one of them cannot.",
        "Readiness",
        |service| Box::pin(handlers::ready(service))
    ),
    route!("/metrics", "prometheus", "What is counted, for Prometheus.", "Text", |service| Box::pin(
        handlers::prometheus(service)
    )),
];
