//! Whether a registry takes a user name and password: its own `/v2/` is asked, and the token service it
//! names. No repository is meant, so this tells nothing about any image.

use crate::auth::{basic, refusal};
use crate::challenge::{self, Challenge};
use crate::client::Client;
use crate::error::RegistryError;
use crate::location::{AuthMethod, Credentials};
use crate::token::fetch_token;
use crate::transport::{Answer, Call, Transport};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};

/// What a registry says about a user name and password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes them.
    Accepted,
    /// It asks nobody who they are, so it cannot tell.
    Open,
}

impl Client {
    /// Asks the registry about `credentials`, once and without retries.
    ///
    /// # Errors
    /// [`RegistryError::Unauthorized`] where it rejects them, else what went wrong.
    pub async fn verify(&self, credentials: &Credentials) -> Result<Verdict, RegistryError> {
        let operation = format!("verify a user name and password on {}", self.name());
        let transport = self.transport();
        let answer = ask(transport, None, &operation).await?;
        if answer.response.status().is_success() {
            return Ok(Verdict::Open);
        }
        if !is_refused(&answer) {
            return answer.success(transport, &operation).await.map(|_| Verdict::Open);
        }
        let headers = answer.response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let wanted = |challenge: &&Challenge| match self.method() {
            AuthMethod::Basic => matches!(challenge, Challenge::Basic),
            AuthMethod::Token => matches!(challenge, Challenge::Bearer { .. }),
        };
        let challenge = challenges.iter().find(wanted).or(challenges.first());
        let challenge =
            challenge.ok_or_else(|| refusal(&operation, "the registry names no way to authenticate"))?;
        let header = match challenge {
            Challenge::Basic => basic(credentials, &operation)?,
            Challenge::Bearer { .. } => {
                fetch_token(transport, challenge, None, Some(credentials), &operation).await.map_err(
                    |error| {
                        if error.is_auth() { rejected(&operation) } else { error }
                    },
                )?
            }
        };
        let answer = ask(transport, Some(&header), &operation).await?;
        if is_refused(&answer) {
            return Err(rejected(&operation));
        }
        answer.success(transport, &operation).await.map(|_| Verdict::Accepted)
    }
}

fn is_refused(answer: &Answer) -> bool {
    let status = answer.response.status();
    answer.at_origin && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn rejected(operation: &str) -> RegistryError {
    refusal(operation, "the registry rejects the user name and password given")
}

async fn ask(
    transport: &Transport,
    authorization: Option<&HeaderValue>,
    operation: &str,
) -> Result<Answer, RegistryError> {
    let timeout = Some(transport.settings.document_timeout);
    let (method, url, headers) = (Method::GET, transport.base.root(), HeaderMap::new());
    let call = Call { method, url, headers, timeout, form: None, operation };
    transport.attempt(&call, authorization).await
}
