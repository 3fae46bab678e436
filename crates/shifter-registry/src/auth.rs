//! Who we are to a registry: nobody first, the caller when that is not enough.
//!
//! For each repository there is one current way of access. It starts open; a 401 moves it on: to an anonymous
//! token, then to a token (or Basic) with the caller's credentials. That order tells whether an image is private:
//! it is if only the last step opened it. Tokens that expire are fetched anew, once per request.
//!
//! Credentials live as long as the [`Client`](crate::Client) that was made with them and never enter the
//! connection pool, a message or a log. How a token is had is in `token`; credential helpers are not spoken.

use crate::challenge::{self, Challenge};
use crate::error::{RegistryError, quote};
use crate::location::{AuthMethod, Credentials};
use crate::token::fetch_token;
use crate::transport::{Answer, Call, Transport};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use std::collections::HashMap;
use tokio::sync::Mutex;

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
    /// Name of the location, for messages.
    location: String,
    access: Mutex<HashMap<String, Access>>,
}

impl Auth {
    pub(crate) fn new(credentials: Option<Credentials>, method: AuthMethod, location: &str) -> Self {
        Self { credentials, method, location: quote(location), access: Mutex::default() }
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
                match fetch_token(transport, &challenge, Some(repository), None, operation).await {
                    Ok(header) => (Stage::AnonymousToken, header),
                    Err(error) if error.is_auth() => (
                        Stage::UserToken,
                        self.user_token(transport, &challenge, repository, operation).await?,
                    ),
                    Err(error) => return Err(error),
                }
            }
            (Challenge::Bearer { .. }, Stage::AnonymousToken) if again => {
                *refreshed = true;
                let token = fetch_token(transport, &challenge, Some(repository), None, operation);
                (Stage::AnonymousToken, token.await?)
            }
            (Challenge::Bearer { .. }, Stage::UserToken) if !again => return Err(self.rejected(operation)),
            (Challenge::Bearer { .. }, stage) => {
                *refreshed |= stage == Stage::UserToken;
                (Stage::UserToken, self.user_token(transport, &challenge, repository, operation).await?)
            }
        };
        let generation = current.generation + 1;
        let access =
            Access { stage, header: Some(header), challenge: Some(challenge), generation, proven: false };
        map.insert(repository.to_owned(), access);
        Ok(())
    }

    async fn user_token(
        &self,
        transport: &Transport,
        challenge: &Challenge,
        repository: &str,
        operation: &str,
    ) -> Result<HeaderValue, RegistryError> {
        let user = Some(self.required(operation)?);
        let token = fetch_token(transport, challenge, Some(repository), user, operation).await;
        token.map_err(|error| if error.is_auth() { self.rejected(operation) } else { error })
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
            let location = &self.location;
            let cause = format!(
                "the registry gives it to nobody without credentials (or it does not exist); \
                 run shifterimg login {location}"
            );
            refusal(operation, &cause)
        })
    }

    fn rejected(&self, operation: &str) -> RegistryError {
        let location = &self.location;
        let cause = format!(
            "the registry rejects the user name and password given, or they may not read this image; \
             run shifterimg login {location} to replace them"
        );
        refusal(operation, &cause)
    }
}

pub(crate) fn refusal(operation: &str, cause: &str) -> RegistryError {
    RegistryError::Unauthorized { operation: operation.to_owned(), cause: cause.to_owned() }
}

/// `Basic` credentials (RFC 7617): everything after the first colon is password, so only the name may hold none.
pub(crate) fn basic(credentials: &Credentials, operation: &str) -> Result<HeaderValue, RegistryError> {
    if credentials.is_identity_token() {
        let cause = "the credentials are an identity token, but the registry wants a user name and password";
        return Err(refusal(operation, cause));
    }
    if credentials.username.contains(':') {
        return Err(refusal(operation, "a user name must not contain a colon"));
    }
    let pair = format!("{}:{}", credentials.username, credentials.password);
    secret_header(&format!("Basic {}", STANDARD.encode(pair)), operation)
}

pub(crate) fn secret_header(text: &str, operation: &str) -> Result<HeaderValue, RegistryError> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| malformed(operation, "the token has illegal characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn malformed(operation: &str, cause: &str) -> RegistryError {
    RegistryError::Malformed { operation: operation.to_owned(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn basic_credentials_keep_colons_of_the_password_and_are_marked_secret() {
        let user = |name: &str| Credentials { username: name.to_owned(), password: "p:q:é".to_owned() };
        let header = basic(&user("u"), "x").unwrap();
        assert!(header.is_sensitive());
        let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), "u:p:q:é".as_bytes());
        for name in ["u:v", "", "<token>"] {
            assert!(basic(&user(name), "x").unwrap_err().is_auth(), "{name}");
        }
    }
}
