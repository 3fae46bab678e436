//! The API as one table: method, path, parameters, who may, what comes back, and who answers. The router
//! looks requests up here and the OpenAPI document is written from here, so a route that is not in the
//! table does not exist, and one that is cannot go undocumented.
//!
//! A new route is one entry here and one function in `handlers`.

use axum::response::Response;
use futures_util::future::BoxFuture;

use crate::handlers;
use crate::http::{Ask, Problem, Service};

/// One method on one path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// With `{system}`, `{itype}` and, last, `{tag}` in it.
    pub(crate) path: &'static str,
    /// One word for the audit log and the document.
    pub(crate) action: &'static str,
    pub(crate) who: Who,
    /// What it does, a sentence.
    pub(crate) summary: &'static str,
    pub(crate) query: &'static [Parameter],
    /// Name of the body's schema in `openapi`, where a body is read.
    pub(crate) body: Option<&'static str>,
    /// Name of the reply's schema in `openapi`.
    pub(crate) reply: &'static str,
    /// Status codes of its own, beside those that every route of its kind may answer with.
    pub(crate) refusals: &'static [u16],
    pub(crate) run: Run,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody; credentials are not looked at.
    Anyone,
    /// Who has a credential, and where the site says `AllowAnonymousReads`, everybody.
    Reader,
    /// Who has a credential.
    User,
}

/// One parameter behind the question mark.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) meaning: &'static str,
}

/// What a parameter's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text; given several times, all must hold.
    Texts,
    /// Text of at most so many bytes.
    Text(usize),
    /// A whole number within limits.
    Number(u64, u64),
    /// 1 or 0.
    Flag,
}

/// What a handler comes to.
pub(crate) type Answering<'a> = BoxFuture<'a, Result<Response, Problem>>;

/// Who answers.
pub(crate) enum Run {
    /// Needs neither system nor caller.
    Open(for<'a> fn(&'a Service) -> Answering<'a>),
    /// Of the system in the path, with the caller that `who` demands.
    System(for<'a> fn(&'a Ask<'a>) -> Answering<'a>),
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

const fn parameter(name: &'static str, kind: Kind, meaning: &'static str) -> Parameter {
    Parameter { name, kind, meaning }
}

const FILTERS: &[Parameter] = &[
    parameter("mine", Kind::Flag, "only images that the caller pulled"),
    parameter(
        "name",
        Kind::Text(crate::filter::LONGEST_GLOB),
        "only tags that this pattern fits as a whole; * stands for any text, ? for one character",
    ),
    parameter("label", Kind::Texts, "only images with this label, as NAME or NAME=VALUE"),
];

const WAITING: &[Parameter] = &[
    parameter(
        "wait",
        Kind::Number(0, crate::waiting::LONGEST_WAIT),
        "seconds after which the answer comes at the latest; until then only when the state differs from seen",
    ),
    parameter("seen", Kind::Text(64), "the state that the last answer named"),
];

/// All routes.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/",
        action: "root",
        who: Who::Anyone,
        summary: "The names of the oldest routes, as a greeting.",
        query: &[],
        body: None,
        reply: "Text",
        refusals: &[],
        run: Run::Open(|_| Box::pin(handlers::root())),
    },
    Route {
        method: "GET",
        path: "/api/status",
        action: "status",
        who: Who::Anyone,
        summary: "That the gateway answers at all.",
        query: &[],
        body: None,
        reply: "Status",
        refusals: &[],
        run: Run::Open(|_| Box::pin(handlers::status())),
    },
    Route {
        method: "GET",
        path: "/api/openapi.json",
        action: "openapi",
        who: Who::Anyone,
        summary: "This document.",
        query: &[],
        body: None,
        reply: "Document",
        refusals: &[],
        run: Run::Open(|_| Box::pin(handlers::document())),
    },
    Route {
        method: "GET",
        path: "/api/list/{system}",
        action: "list",
        who: Who::Reader,
        summary: "The images that the caller may use.",
        query: FILTERS,
        body: None,
        reply: "ImageList",
        refusals: &[422],
        run: Run::System(|ask| Box::pin(handlers::list(ask))),
    },
    Route {
        method: "GET",
        path: "/api/lookup/{system}/{itype}/{tag}",
        action: "lookup",
        who: Who::Reader,
        summary: "The image that a tag means; 404 also where the caller may not use it.",
        query: &[],
        body: None,
        reply: "Image",
        refusals: &[],
        run: Run::System(|ask| Box::pin(handlers::lookup(ask))),
    },
    Route {
        method: "POST",
        path: "/api/pull/{system}/{itype}/{tag}",
        action: "pull",
        who: Who::User,
        summary: "Starts a pull, or tells how the caller's earlier one stands.",
        query: WAITING,
        body: Some("PullRequest"),
        reply: "Pulled",
        refusals: &[422],
        run: Run::System(|ask| Box::pin(handlers::pull(ask))),
    },
    Route {
        method: "DELETE",
        path: "/api/pull/{system}/{itype}/{tag}",
        action: "cancel",
        who: Who::User,
        summary: "Ends the caller's unfinished pull of a tag.",
        query: &[],
        body: None,
        reply: "Done",
        refusals: &[422],
        run: Run::System(|ask| Box::pin(handlers::cancel(ask))),
    },
    Route {
        method: "GET",
        path: "/api/job/{system}/{itype}/{tag}",
        action: "job",
        who: Who::User,
        summary: "How the caller's own pull of a tag stands, without starting one.",
        query: WAITING,
        body: None,
        reply: "Pulled",
        refusals: &[422],
        run: Run::System(|ask| Box::pin(handlers::job(ask))),
    },
    Route {
        method: "GET",
        path: "/api/queue/{system}",
        action: "queue",
        who: Who::User,
        summary: "The caller's unfinished pulls, and those of tags that their registry gives to everybody.",
        query: &[],
        body: None,
        reply: "Queue",
        refusals: &[],
        run: Run::System(|ask| Box::pin(handlers::queue(ask))),
    },
    Route {
        method: "POST",
        path: "/api/login/{system}",
        action: "login",
        who: Who::User,
        summary: "Asks a registry whether it takes the password that the credential carries for it.",
        query: &[],
        body: Some("LoginRequest"),
        reply: "LoginReply",
        refusals: &[422, 429],
        run: Run::System(|ask| Box::pin(handlers::login(ask))),
    },
];
