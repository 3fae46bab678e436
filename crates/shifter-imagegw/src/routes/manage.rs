//! Routes about images that are there: removal, restore, pins, history, inspection, use. Entries only.

use super::{Kind, Parameter, Route, Run, Who, parameter};
use crate::api::manage::{MOST_METRICS, Verb};
use crate::handlers;

const ID: &[Parameter] = &[parameter("id", Kind::Text(71), "the image's id, 64 hexadecimal digits")];

const DRY_RUN: &[Parameter] = &[parameter("dry_run", Kind::Flag, "only tell which images would go")];

const ALL: &[Parameter] = &[parameter("all", Kind::Flag, "the image, for everybody; administrators only")];

const METRICS: &[Parameter] = &[
    parameter("limit", Kind::Number(0, MOST_METRICS), "how many lookups; 10 if not said"),
    parameter("strict", Kind::Flag, "others than administrators get 403, not an empty list"),
];

/// `(method, path, action, summary, parameters, reply, what is asked for)`
macro_rules! route {
    ($method:literal, $path:literal, $action:literal, $summary:literal, $query:expr, $reply:literal, $verb:ident) => {
        Route {
            method: $method,
            path: $path,
            action: $action,
            who: Who::User,
            summary: $summary,
            query: $query,
            body: None,
            reply: $reply,
            refusals: &[403, 409, 422],
            run: Run::System(|ask| Box::pin(handlers::manage(ask, Verb::$verb))),
        }
    };
}

pub(super) const ROUTES: &[Route] = &[
    route!(
        "GET",
        "/api/expire/{system}/{itype}/{tag}",
        "expire-get",
        "As POST, for old clients.",
        ID,
        "Done",
        Expire
    ),
    route!(
        "POST",
        "/api/expire/{system}/{itype}/{tag}",
        "expire",
        "Removes the image of a tag for everybody; administrators only, others are told false.",
        ID,
        "Done",
        Expire
    ),
    route!(
        "POST",
        "/api/expire/{system}",
        "expire-id",
        "Removes an image by its id; administrators only, others are told false.",
        ID,
        "Done",
        Expire
    ),
    route!(
        "GET",
        "/api/autoexpire/{system}",
        "autoexpire-get",
        "As POST, for old clients.",
        DRY_RUN,
        "Expired",
        Autoexpire
    ),
    route!(
        "POST",
        "/api/autoexpire/{system}",
        "autoexpire",
        "Removes the images that are past their time; administrators only, others are told false.",
        DRY_RUN,
        "Expired",
        Autoexpire
    ),
    route!(
        "GET",
        "/api/metrics/{system}",
        "metrics",
        "The latest lookups, oldest first; for others than administrators there are none.",
        METRICS,
        "Uses",
        Metrics
    ),
    route!(
        "GET",
        "/api/image/{system}/{itype}/{tag}",
        "inspect",
        "All that is known of an image.",
        &[],
        "Inspected",
        Inspect
    ),
    route!(
        "DELETE",
        "/api/image/{system}/{itype}/{tag}",
        "remove",
        "Gives up the caller's right to an image; the last one takes the image with it.",
        ALL,
        "Done",
        Remove
    ),
    route!(
        "POST",
        "/api/restore/{system}",
        "restore",
        "Brings a removed image back; administrators only, others are told false.",
        ID,
        "Restored",
        Restore
    ),
    route!(
        "POST",
        "/api/pin/{system}",
        "pin",
        "Keeps an image from being removed; administrators only, others are told false.",
        ID,
        "Done",
        Pin
    ),
    route!(
        "POST",
        "/api/unpin/{system}",
        "unpin",
        "Lets an image go like others again; administrators only, others are told false.",
        ID,
        "Done",
        Unpin
    ),
    route!(
        "GET",
        "/api/history/{system}/{itype}/{tag}",
        "history",
        "The images that a tag meant, newest first, as far as the caller may use them.",
        &[],
        "History",
        History
    ),
];
