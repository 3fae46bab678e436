//! One HTTP request and its redirects: the only place that talks to the network.
//!
//! Redirects are followed here by hand, because the rules of `redirect` decide what may go along. The HTTP
//! library's own redirects, retries and decompression are off: each would act before our checks. Proxies of the
//! environment are the library's and stay on: `http_proxy`, `https_proxy`, `all_proxy` (`http://`, `https://`,
//! `socks5://` with names resolved here, `socks5h://` with names resolved by the proxy) and `no_proxy`.

use crate::backoff::retry_after;
use crate::error::{RegistryError, quote};
use crate::location::{Base, Location};
use crate::redirect;
use crate::resolver::{Resolver, TooNear};
use crate::settings::Settings;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Certificate, Method, Response, StatusCode, Url};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Largest error document looked at for its code, bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// Largest CA file, bytes.
const MAX_CA_FILE: u64 = 4 << 20;

/// How long a mirror that did not answer is left alone.
const LEAVE_ALONE: Duration = Duration::from_secs(60);

/// A connection pool to one registry, without any credentials in it.
pub(crate) struct Transport {
    http: reqwest::Client,
    pub(crate) base: Base,
    pub(crate) settings: Settings,
    /// Until when it is left alone, if it is a mirror that did not answer.
    alone_until: Mutex<Option<Instant>>,
}

/// One request as meant, before redirects.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Limit for the whole exchange, where one makes sense.
    pub(crate) timeout: Option<Duration>,
    /// An `application/x-www-form-urlencoded` body. A request with one follows no redirect: it holds a secret.
    pub(crate) form: Option<String>,
    /// For messages: `read manifest a/b:c on docker.io`.
    pub(crate) operation: &'a str,
}

/// The answer at the end of the redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Whether the origin we asked answered itself: only then do 401 and 403 speak about our credentials.
    pub(crate) at_origin: bool,
}

impl Transport {
    /// Reads the location's CA file and prepares, but opens no connection.
    pub(crate) fn new(location: &Location, settings: Settings) -> Result<Self, RegistryError> {
        let base = location.base()?;
        // The first provider installed in a process stays; an older one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authorities = private_authorities(location)?;
        let resolver = Arc::new(Resolver::new(&base, |name| std::env::var(name).ok()));
        let builder = || {
            reqwest::Client::builder()
                .dns_resolver(Arc::clone(&resolver))
                .user_agent(concat!("shifter/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .connect_timeout(settings.connect_timeout)
                .read_timeout(settings.read_timeout)
        };
        let http = builder().tls_certs_merge(authorities.clone()).build().or_else(|_| {
            // A system without any CA certificates must still reach registries over plain http; with no
            // root trusted every https connection fails, with a sentence, when it is made.
            builder().tls_certs_only(authorities).build()
        });
        let http = http.map_err(|e| RegistryError::Location {
            location: quote(&location.name),
            cause: format!("no HTTP client: {}", innermost(&e)),
        })?;
        Ok(Self { http, base, settings, alone_until: Mutex::default() })
    }

    /// Whether it is worth asking.
    pub(crate) fn seems_up(&self) -> bool {
        let until = *self.alone_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// It did not answer: ask somebody else for a while.
    pub(crate) fn leave_alone(&self) {
        let until = Instant::now().checked_add(LEAVE_ALONE);
        *self.alone_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Sends `call` once, following redirects. Statuses that mean "later" (429, 5xx) are errors, all others
    /// answers.
    pub(crate) async fn attempt(
        &self,
        call: &Call<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, RegistryError> {
        let mut url = call.url.clone();
        let mut authorization = authorization;
        let mut at_origin = true;
        for _ in 0..=self.settings.max_redirects {
            let mut request =
                self.http.request(call.method.clone(), url.clone()).headers(call.headers.clone());
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if let Some(timeout) = call.timeout {
                request = request.timeout(timeout);
            }
            if let Some(form) = &call.form {
                request =
                    request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
            }
            let response = request.send().await.map_err(|e| self.network_error(e, call.operation, &url))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return later(response, call.operation).map(|response| Answer { response, at_origin });
            }
            let refuse = |cause: String| RegistryError::Redirect {
                operation: call.operation.to_owned(),
                host: host_of(&url),
                cause,
            };
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let location = location.ok_or_else(|| refuse("the redirect names no address".to_owned()))?;
            if call.form.is_some() {
                return Err(refuse("the request holds a secret and is not sent on".to_owned()));
            }
            let next = redirect::target(&url, location, &self.base).map_err(refuse)?;
            if !redirect::same_origin(&next, &call.url) {
                // Gone for good: not given back to a third answer either, wherever it leads.
                authorization = None;
                at_origin = false;
            }
            url = next;
        }
        Err(RegistryError::Redirect {
            operation: call.operation.to_owned(),
            host: host_of(&url),
            cause: format!("more than {} redirects", self.settings.max_redirects),
        })
    }

    /// The whole body, at most `limit` bytes; `what` names it in messages.
    pub(crate) async fn body(
        &self,
        mut response: Response,
        limit: u64,
        what: &str,
        operation: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge {
            operation: operation.to_owned(),
            what: what.to_owned(),
            limit: format!("{limit} bytes"),
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let url = response.url().clone();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.network_error(e, operation, &url))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What a failure of the HTTP library means, without its URL (which may carry signatures).
    pub(crate) fn network_error(&self, error: reqwest::Error, operation: &str, url: &Url) -> RegistryError {
        let operation = operation.to_owned();
        let host = host_of(url);
        if let Some(cause) = tls_cause(&error) {
            return RegistryError::Tls { operation, host, cause };
        }
        if find::<TooNear>(&error) {
            return RegistryError::Redirect { operation, host, cause: innermost(&error) };
        }
        let cause = if error.is_timeout() { "timed out".to_owned() } else { innermost(&error) };
        RegistryError::Unreachable { operation, host, cause }
    }
}

/// Turns "come back later" into an error.
fn later(response: Response, operation: &str) -> Result<Response, RegistryError> {
    let status = response.status();
    let wait = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
    let wait = wait.and_then(|text| retry_after(text, SystemTime::now()));
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(RegistryError::RateLimited { operation: operation.to_owned(), wait });
    }
    if status.is_server_error() {
        return Err(RegistryError::Status {
            operation: operation.to_owned(),
            host: host_of(response.url()),
            status: status.as_u16(),
            code: String::new(),
            wait,
        });
    }
    Ok(response)
}

impl Answer {
    /// The response if it is a success; otherwise what its status and error code say.
    pub(crate) async fn success(
        self,
        transport: &Transport,
        operation: &str,
    ) -> Result<Response, RegistryError> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self.response);
        }
        let host = host_of(self.response.url());
        let body = transport.body(self.response, MAX_ERROR_BODY, "the error document", operation).await;
        let code = error_code(&body.unwrap_or_default());
        let operation = operation.to_owned();
        if status == StatusCode::NOT_FOUND && self.at_origin {
            return Err(RegistryError::NotFound { operation, code });
        }
        Err(RegistryError::Status { operation, host, status: status.as_u16(), code, wait: None })
    }
}

/// ` (CODE)` of an error document (distribution-spec "Error Codes"), or nothing. Only letters that such codes
/// have: an answer could echo what we sent.
fn error_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Document {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        code: String,
    }
    let code = serde_json::from_slice::<Document>(body).ok();
    let code = code.and_then(|d| d.errors.into_iter().next()).map(|item| item.code);
    let is_code =
        |c: &String| (1..=40).contains(&c.len()) && c.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    code.filter(is_code).map_or_else(String::new, |code| format!(" ({code})"))
}

/// The CA certificates of the location's own file. Each must be usable: half a chain of trust is an error that
/// would show up as a puzzle later.
fn private_authorities(location: &Location) -> Result<Vec<Certificate>, RegistryError> {
    let Some(path) = &location.sslcacert else { return Ok(Vec::new()) };
    let fail = |cause: String| RegistryError::Certificate {
        location: quote(&location.name),
        path: path.clone(),
        cause,
    };
    let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > MAX_CA_FILE {
        return Err(fail(format!("larger than {MAX_CA_FILE} bytes")));
    }
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let mut store = RootCertStore::empty();
    let mut found = Vec::new();
    for (number, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let of = |cause: String| fail(format!("certificate {}: {cause}", number + 1));
        let der = der.map_err(|e| of(e.to_string()))?;
        store.add(der.clone()).map_err(|e| of(e.to_string()))?;
        found.push(Certificate::from_der(&der).map_err(|e| of(innermost(&e)))?);
    }
    if found.is_empty() {
        return Err(fail("no certificate in it".to_owned()));
    }
    Ok(found)
}

/// Host and port of `url` for messages; never its query.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("an unknown host");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The deepest cause, which is the one that tells something ("Connection refused").
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    quote(&deepest.to_string())
}

/// Whether an `E` is among the causes of `error`.
fn find<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    error.is::<E>() || error.source().is_some_and(find::<E>)
}

/// Why TLS failed, if it did: such errors do not pass by themselves. `source` of an I/O error skips the error it
/// was made of, so that one is looked at on its own.
fn tls_cause(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(quote(&found.to_string()));
    }
    let inside = error.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
    let inside = inside.and_then(|e| tls_cause(e));
    inside.or_else(|| error.source().and_then(tls_cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_of_the_specification_are_quoted() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"hunter2"}]}"#, " (MANIFEST_UNKNOWN)"),
            (r#"{"errors":[{"code":"hunter2"}]}"#, ""),
            (r#"{"errors":[]}"#, ""),
            ("<html>", ""),
            ("", ""),
        ] {
            assert_eq!(error_code(body.as_bytes()), expected);
        }
    }

    #[test]
    fn messages_name_a_host_but_no_query() {
        let url = Url::parse("https://u@h.example.org:5000/x?token=secret");
        assert_eq!(url.map(|u| host_of(&u)).ok().as_deref(), Some("h.example.org:5000"));
    }
}
