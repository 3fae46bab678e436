//! One function per route of the table in `routes`: from a request that passed the door to an answer.
//! Thin; what is decided is decided in `api` and its neighbors.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use shifter_api::wire::ServiceStatus;

use crate::api::manage::{Manage, Verb};
use crate::filter::Filter;
use crate::http::{Ask, Outcome, Problem, Service, answer, json, text};
use crate::openapi;
use crate::waiting::{Pulled, Wait};

/// The answer of routes that do something and have nothing to tell.
#[derive(Serialize)]
pub(crate) struct Done {
    pub(crate) status: bool,
}

type Answer = Result<Response, Problem>;

fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// An answer about one image, which the audit log names.
fn about(id: Option<&str>, mut response: Response) -> Response {
    response.extensions_mut().insert(Outcome { digest: id.map(str::to_owned), denied: None });
    response
}

pub(crate) async fn root() -> Answer {
    Ok(text("{lookup,pull,expire,list}"))
}

pub(crate) async fn health() -> Answer {
    Ok(text("ok\n"))
}

pub(crate) async fn ready(service: &Service) -> Answer {
    let found = service.probes.readiness.get().await;
    let status = if found.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(json(status, &found.to_json()))
}

pub(crate) async fn prometheus(service: &Service) -> Answer {
    let body = service.probes.metrics(&service.api).await;
    Ok(answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body.into_bytes()))
}

pub(crate) async fn status() -> Answer {
    Ok(ok(&ServiceStatus { status: "up".to_owned() }))
}

pub(crate) async fn document() -> Answer {
    Ok(ok(openapi::document()))
}

pub(crate) async fn list(ask: &Ask<'_>) -> Answer {
    let filter = Filter::parse(&ask.query).map_err(|error| Problem::unprocessable(error.to_string()))?;
    Ok(ok(&ask.service.api.list(ask.names.system, ask.caller.as_ref(), &filter).await?))
}

pub(crate) async fn lookup(ask: &Ask<'_>) -> Answer {
    let names = &ask.names;
    let found = ask.service.api.lookup(names.system, names.itype, names.tag, ask.caller.as_ref()).await?;
    Ok(about(found.id.as_deref(), ok(&found)))
}

pub(crate) async fn pull(ask: &Ask<'_>) -> Answer {
    let (names, caller, api) = (&ask.names, ask.caller()?, &ask.service.api);
    let wait = Wait::parse(&ask.query).map_err(|error| Problem::unprocessable(error.to_string()))?;
    if wait.as_ref().is_some_and(Wait::begins) {
        api.forget_cancellation(names.system, names.itype, names.tag, caller).await?;
    }
    let once = || api.pull(names.system, names.itype, names.tag, &ask.body, caller);
    let pulled = match wait {
        None => counted(ask, once().await?),
        Some(wait) => api.wait(&wait, once).await?,
    };
    Ok(told(&pulled))
}

pub(crate) async fn job(ask: &Ask<'_>) -> Answer {
    let (names, caller, api) = (&ask.names, ask.caller()?, &ask.service.api);
    let wait = Wait::parse(&ask.query).map_err(|error| Problem::unprocessable(error.to_string()))?;
    let once = || api.job(names.system, names.itype, names.tag, caller);
    let pulled = match wait {
        None => counted(ask, once().await?),
        Some(wait) => api.wait(&wait, once).await?,
    };
    Ok(told(&pulled))
}

/// An answer to a client that will ask again by itself.
fn counted(ask: &Ask<'_>, pulled: Pulled) -> Pulled {
    if let Some(job) = &pulled.job {
        ask.service.api.jobs.asked(job.number);
    }
    pulled
}

fn told(pulled: &Pulled) -> Response {
    about(pulled.image.id.as_deref(), ok(pulled))
}

pub(crate) async fn cancel(ask: &Ask<'_>) -> Answer {
    let names = &ask.names;
    ask.service.api.cancel(names.system, names.itype, names.tag, ask.caller()?).await?;
    Ok(ok(&Done { status: true }))
}

pub(crate) async fn queue(ask: &Ask<'_>) -> Answer {
    Ok(ok(&ask.service.api.queue(ask.names.system, ask.caller()?).await?))
}

pub(crate) async fn login(ask: &Ask<'_>) -> Answer {
    let api = &ask.service.api;
    let reply = api.logins.ask(&api.config, &ask.body, ask.caller()?).await?;
    let denied = (!reply.status).then(|| "not verified".to_owned());
    let mut response = ok(&reply);
    response.extensions_mut().insert(Outcome { digest: None, denied });
    Ok(response)
}

pub(crate) async fn import(ask: &Ask<'_>) -> Answer {
    let (caller, api) = (ask.caller()?, &ask.service.api);
    let names = (ask.names.system, ask.names.itype, ask.names.tag);
    let wait = Wait::parse(&ask.query).map_err(|error| Problem::unprocessable(error.to_string()))?;
    if wait.as_ref().is_some_and(Wait::begins) {
        api.forget_cancellation(names.0, names.1, names.2, caller).await?;
    }
    let once = || api.import(names, ask.platform, &ask.body, caller);
    let pulled = match wait {
        None => counted(ask, once().await?),
        Some(wait) => api.wait(&wait, once).await?,
    };
    Ok(told(&pulled))
}

pub(crate) async fn upload(ask: &Ask<'_>) -> Answer {
    let names = (ask.names.system, ask.names.itype, ask.names.tag);
    let (caller, body) = (ask.caller()?, ask.take_stream());
    Ok(told(&ask.service.api.upload(names, ask.platform, &ask.query, body, caller).await?))
}

pub(crate) async fn manage(ask: &Ask<'_>, verb: Verb) -> Answer {
    let names = &ask.names;
    let name = (!names.itype.is_empty()).then_some((names.itype, names.tag));
    let wanted = Manage { verb, system: names.system, name };
    let api = &ask.service.api;
    let mut digest = None;
    let managed = api.manage(&wanted, ask.platform, &ask.query, ask.caller()?, &mut digest).await;
    let (value, denied) = match managed {
        Ok(managed) => managed,
        Err(refusal) => return Err(Problem::from(refusal).about(digest)),
    };
    let mut response = ok(&value);
    response.extensions_mut().insert(Outcome { digest, denied: denied.map(str::to_owned) });
    Ok(response)
}
