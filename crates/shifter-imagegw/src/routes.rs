//! The API as one table: method, path, parameters, who may, what comes back, and who answers. The router
//! looks requests up here and the OpenAPI document is written from here, so a route that is not in the
//! table does not exist, and one that is cannot go undocumented.
//!
//! A new route is one entry in one of the groups and one function that answers it.

mod images;
mod manage;
mod process;

use axum::response::Response;
use futures_util::future::BoxFuture;

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

/// The schema of a body that is a file of any size, which handlers read themselves.
pub(crate) const FILE: &str = "File";

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

/// All routes, by what they are about.
const GROUPS: [&[Route]; 3] = [images::ROUTES, manage::ROUTES, process::ROUTES];

/// All routes.
pub(crate) fn all() -> impl Iterator<Item = &'static Route> {
    GROUPS.iter().copied().flatten()
}
