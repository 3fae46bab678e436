//! Who we are to a registry: nobody first, the caller when that is not enough.
//!
//! For each repository there is one current way of access. It starts open; a 401 moves it on: to an anonymous
//! token, then to a token (or Basic) with the caller's credentials. That order tells whether an image is private:
//! it is if only the last step opened it. Tokens that expire are fetched anew, once per request.
//!
//! Credentials live as long as the [`Client`](crate::Client) that was made with them and never enter the
//! connection pool, a message or a log. Refresh tokens (OAuth2 POST) and credential helpers are not spoken.

use crate::challenge::{self, Challenge};
use crate::error::RegistryError;
use crate::location::{AuthMethod, Credentials};
use crate::redirect;
use crate::transport::{Answer, Call, Transport, host_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use std::collections::HashMap;
use tokio::sync::Mutex;

/// Largest answer of a token service, bytes.
const MAX_TOKEN_DOCUMENT: u64 = 1 << 20;
/// Most steps for one request: open, anonymous, refreshed, credentials, refreshed.
const MAX_STEPS: u32 = 6;

/// How requests for one repository are authorized now.
#[derive(Clone, Default)]
struct Access {
    stage: Stage,
    header: Option<HeaderValue>,
    challenge: Option<Challenge>,
    /// Changes with every step, so that parallel requests do not take the same step twice.
    generation: u64,
    /// Whether it ever opened anything: a refusal then means that it expired.
    proven: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    AnonymousToken,
    UserToken,
    UserBasic,
}

/// The credentials of one caller and what became of them at one registry.
pub(crate) struct Auth {
    credentials: Option<Credentials>,
    method: AuthMethod,
    access: Mutex<HashMap<String, Access>>,
}

impl Auth {
    pub(crate) fn new(credentials: Option<Credentials>, method: AuthMethod) -> Self {
        Self { credentials, method, access: Mutex::default() }
    }

    /// Sends `call`, authenticating as far as the registry demands. Any answer that is no refusal is returned.
    pub(crate) async fn send(
        &self,
        transport: &Transport,
        repository: &str,
        call: &Call<'_>,
    ) -> Result<Answer, RegistryError> {
        let mut refreshed = false;
        for _ in 0..MAX_STEPS {
            let access = self.access.lock().await.get(repository).cloned().unwrap_or_default();
            let answer = transport.attempt(call, access.header.as_ref()).await?;
            let status = answer.response.status();
            let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if !(refused && answer.at_origin) {
                if !access.proven && status.is_success() {
                    self.prove(repository, access.generation).await;
                }
                return Ok(answer);
            }
            let headers = answer.response.headers().get_all(WWW_AUTHENTICATE);
            let challenges = challenge::parse(headers.iter().filter_map(|v| v.to_str().ok()));
            self.step(transport, repository, &access, challenges, &mut refreshed, call.operation).await?;
        }
        Err(refusal(call.operation, "the registry asks for ever new authentication"))
    }

    /// Whether what opened `repository` were the caller's credentials.
    pub(crate) async fn is_private(&self, repository: &str) -> bool {
        let access = self.access.lock().await;
        access.get(repository).is_some_and(|a| matches!(a.stage, Stage::UserToken | Stage::UserBasic))
    }

    async fn prove(&self, repository: &str, generation: u64) {
        let mut map = self.access.lock().await;
        let access = map.entry(repository.to_owned()).or_default();
        if access.generation == generation {
            access.proven = true;
        }
    }

    /// Moves the access of `repository` on after `used` was refused.
    async fn step(
        &self,
        transport: &Transport,
        repository: &str,
        used: &Access,
        challenges: Vec<Challenge>,
        refreshed: &mut bool,
        operation: &str,
    ) -> Result<(), RegistryError> {
        // Held while a token is fetched: the parallel requests of one pull wait for it and share it.
        let mut map = self.access.lock().await;
        let current = map.get(repository).cloned().unwrap_or_default();
        if current.generation != used.generation {
            return Ok(());
        }
        let challenge = self.preferred(challenges).or(current.challenge);
        let Some(challenge) = challenge else {
            return Err(refusal(operation, "the registry refuses access and names no way to authenticate"));
        };
        let again = used.proven && !*refreshed;
        let (stage, header) = match (&challenge, used.stage) {
            (Challenge::Basic, Stage::UserBasic) => return Err(self.rejected(operation)),
            (Challenge::Basic, _) => (Stage::UserBasic, basic(self.required(operation)?, operation)?),
            (Challenge::Bearer { .. }, Stage::Open) => {
                match fetch_token(transport, &challenge, repository, None, operation).await {
                    Ok(header) => (Stage::AnonymousToken, header),
                    Err(error) if error.is_auth() => {
                        let user = Some(self.required(operation)?);
                        let token = fetch_token(transport, &challenge, repository, user, operation);
                        (Stage::UserToken, token.await?)
                    }
                    Err(error) => return Err(error),
                }
            }
            (Challenge::Bearer { .. }, Stage::AnonymousToken) if again => {
                *refreshed = true;
                let token = fetch_token(transport, &challenge, repository, None, operation);
                (Stage::AnonymousToken, token.await?)
            }
            (Challenge::Bearer { .. }, Stage::UserToken) if !again => return Err(self.rejected(operation)),
            (Challenge::Bearer { .. }, stage) => {
                *refreshed |= stage == Stage::UserToken;
                let user = Some(self.required(operation)?);
                let token = fetch_token(transport, &challenge, repository, user, operation);
                (Stage::UserToken, token.await?)
            }
        };
        let generation = current.generation + 1;
        let access =
            Access { stage, header: Some(header), challenge: Some(challenge), generation, proven: false };
        map.insert(repository.to_owned(), access);
        Ok(())
    }

    /// The offered way that the location prefers, else any.
    fn preferred(&self, challenges: Vec<Challenge>) -> Option<Challenge> {
        let wanted = |c: &&Challenge| match self.method {
            AuthMethod::Basic => matches!(c, Challenge::Basic),
            AuthMethod::Token => matches!(c, Challenge::Bearer { .. }),
        };
        challenges.iter().find(wanted).or(challenges.first()).cloned()
    }

    fn required(&self, operation: &str) -> Result<&Credentials, RegistryError> {
        self.credentials.as_ref().ok_or_else(|| {
            refusal(
                operation,
                "the registry gives it to nobody without credentials (or it does not exist); \
                 shifterimg login stores a user name and password",
            )
        })
    }

    fn rejected(&self, operation: &str) -> RegistryError {
        refusal(
            operation,
            "the registry rejects the user name and password given, or they may not read this image; \
             shifterimg login replaces them",
        )
    }
}

fn refusal(operation: &str, cause: &str) -> RegistryError {
    RegistryError::Unauthorized { operation: operation.to_owned(), cause: cause.to_owned() }
}

/// `Basic` credentials (RFC 7617): everything after the first colon is password, so only the name may hold none.
fn basic(credentials: &Credentials, operation: &str) -> Result<HeaderValue, RegistryError> {
    if credentials.username.contains(':') {
        return Err(refusal(operation, "a user name must not contain a colon"));
    }
    let pair = format!("{}:{}", credentials.username, credentials.password);
    secret_header(&format!("Basic {}", STANDARD.encode(pair)), operation)
}

fn secret_header(text: &str, operation: &str) -> Result<HeaderValue, RegistryError> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| malformed(operation, "the token has illegal characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn malformed(operation: &str, cause: &str) -> RegistryError {
    RegistryError::Malformed { operation: operation.to_owned(), cause: cause.to_owned() }
}

/// Asks the realm of a bearer challenge for a token (distribution "Token Authentication Specification").
async fn fetch_token(
    transport: &Transport,
    challenge: &Challenge,
    repository: &str,
    credentials: Option<&Credentials>,
    operation: &str,
) -> Result<HeaderValue, RegistryError> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return Err(malformed(operation, "no token service named"));
    };
    let home = &transport.base.url;
    let refuse = |cause: String| RegistryError::Redirect {
        operation: operation.to_owned(),
        host: host_of(home),
        cause: format!("token service: {cause}"),
    };
    let mut url = Url::parse(realm).map_err(|_| refuse("the address is malformed".to_owned()))?;
    redirect::may_visit(&url, home, home).map_err(refuse)?;
    if credentials.is_some() && !redirect::may_know_password(&url, home) {
        return Err(refuse(format!("{} would get the password over plain http", host_of(&url))));
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &pull_scope(scope.as_deref(), repository));
    }
    let authorization = credentials.map(|c| basic(c, operation)).transpose()?;
    let call = Call {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        timeout: Some(transport.settings.document_timeout),
        operation,
    };
    let answer = transport.attempt(&call, authorization.as_ref()).await?;
    if matches!(answer.response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        && answer.at_origin
    {
        return Err(refusal(
            operation,
            "the registry's token service rejects the user name and password given; \
             shifterimg login replaces them",
        ));
    }
    let response = answer.success(transport, operation).await?;
    let body = transport.body(response, MAX_TOKEN_DOCUMENT, "the token", operation).await?;
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    // The parser's message is left out: it could quote the token.
    let token: Token = serde_json::from_slice(&body)
        .map_err(|_| malformed(operation, "the token document is not as specified"))?;
    let given = |t: Option<String>| t.filter(|t| !t.is_empty());
    let token = given(token.token).or(given(token.access_token));
    let token = token.ok_or_else(|| malformed(operation, "the token service gave no token"))?;
    secret_header(&format!("Bearer {token}"), operation)
}

/// The scope to ask for: the registry's own wording as long as it only reads; a registry must not be able to have
/// us fetch, with the user's password, a token that writes.
fn pull_scope(offered: Option<&str>, repository: &str) -> String {
    let reads = |scope: &&str| {
        let actions = scope.rsplit(':').next().unwrap_or("");
        scope.starts_with("repository:")
            && !scope.contains(' ')
            && actions.split(',').all(|a| matches!(a, "pull" | "metadata_read"))
    };
    offered.filter(reads).map_or_else(|| format!("repository:{repository}:pull"), str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_never_asked_for_writing() {
        for (offered, expected) in [
            (None, "repository:a/b:pull"),
            (Some("repository:library/a:pull"), "repository:library/a:pull"),
            (Some("repository:h:5000/a:pull,metadata_read"), "repository:h:5000/a:pull,metadata_read"),
            (Some("repository:a/b:pull,push"), "repository:a/b:pull"),
            (Some("repository:a/b:pull repository:c:push"), "repository:a/b:pull"),
            (Some("registry:catalog:*"), "repository:a/b:pull"),
            (Some(""), "repository:a/b:pull"),
        ] {
            assert_eq!(pull_scope(offered, "a/b"), expected);
        }
    }

    #[test]
    fn basic_credentials_keep_colons_of_the_password_and_are_marked_secret() {
        let user = |name: &str| Credentials { username: name.to_owned(), password: "p:q:é".to_owned() };
        let header = basic(&user("u"), "x").unwrap();
        assert!(header.is_sensitive());
        let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), "u:p:q:é".as_bytes());
        assert!(basic(&user("u:v"), "x").unwrap_err().is_auth());
    }
}
