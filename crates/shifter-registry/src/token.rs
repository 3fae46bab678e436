//! Bearer tokens from the service that a registry names ("Token Authentication Specification" and "OAuth 2.0 Token
//! Authentication" of the distribution project).
//!
//! Nobody and users with a password ask by GET; an identity token, which is an OAuth2 refresh token, is exchanged by
//! POST. Tokens are asked for reading only, whatever the registry suggests. Nothing is remembered here, and a new
//! refresh token that the service may send along is not kept.

use crate::auth::{basic, malformed, refusal, secret_header};
use crate::challenge::Challenge;
use crate::error::RegistryError;
use crate::location::Credentials;
use crate::redirect;
use crate::transport::{Call, Transport, host_of};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

/// Largest answer of a token service, bytes.
const MAX_TOKEN_DOCUMENT: u64 = 1 << 20;
/// The name that token services log us under.
const CLIENT_ID: &str = "shifter";

/// What a token service answers; either name is in use for the token.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks the realm of a bearer challenge for a token to read `repository`, or without one for a token that only says
/// who the caller is: for nobody, or with the caller's `credentials`.
pub(crate) async fn fetch_token(
    transport: &Transport,
    challenge: &Challenge,
    repository: Option<&str>,
    credentials: Option<&Credentials>,
    operation: &str,
) -> Result<HeaderValue, RegistryError> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return Err(malformed(operation, "no token service named"));
    };
    let home = &transport.base;
    let refuse = |cause: String| RegistryError::Redirect {
        operation: operation.to_owned(),
        host: host_of(&home.url),
        cause: format!("token service: {cause}"),
    };
    let mut url = Url::parse(realm).map_err(|_| refuse("the address is malformed".to_owned()))?;
    redirect::may_visit(&url, &home.url, home).map_err(refuse)?;
    if credentials.is_some() {
        redirect::may_know_password(&url, home).map_err(refuse)?;
    }
    let scope = repository.map(|repository| pull_scope(scope.as_deref(), repository));
    let mut request: Vec<(&str, &str)> = scope.iter().map(|scope| ("scope", scope.as_str())).collect();
    if let Some(service) = service {
        request.insert(0, ("service", service));
    }
    let identity = credentials.filter(|c| c.is_identity_token());
    let (method, form, authorization) = if let Some(identity) = identity {
        request.extend([
            ("grant_type", "refresh_token"),
            ("refresh_token", &identity.password),
            ("client_id", CLIENT_ID),
        ]);
        (Method::POST, Some(encoded(&request)), None)
    } else {
        url.query_pairs_mut().extend_pairs(&request);
        (Method::GET, None, credentials.map(|c| basic(c, operation)).transpose()?)
    };
    let timeout = Some(transport.settings.document_timeout);
    let call = Call { method, url, headers: HeaderMap::new(), timeout, form, operation };
    let answer = transport.attempt(&call, authorization.as_ref()).await?;
    let status = answer.response.status();
    // RFC 6749 answers a bad refresh token with 400.
    let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        || (identity.is_some() && status == StatusCode::BAD_REQUEST);
    if refused && answer.at_origin {
        return Err(refusal(operation, "the registry's token service gives no token"));
    }
    let response = answer.success(transport, operation).await?;
    let body = transport.body(response, MAX_TOKEN_DOCUMENT, "the token", operation).await?;
    // The parser's message is left out: it could quote the token.
    let token: Token = serde_json::from_slice(&body)
        .map_err(|_| malformed(operation, "the token document is not as specified"))?;
    let given = |t: Option<String>| t.filter(|t| !t.is_empty());
    let token = given(token.token).or(given(token.access_token));
    let token = token.ok_or_else(|| malformed(operation, "the token service gave no token"))?;
    secret_header(&format!("Bearer {token}"), operation)
}

/// `pairs` as a form (`application/x-www-form-urlencoded`).
fn encoded(pairs: &[(&str, &str)]) -> String {
    // A URL's query has the same encoding, and the URL type is here already.
    let url = Url::parse("form:").map(|mut url| {
        url.query_pairs_mut().extend_pairs(pairs);
        url.query().unwrap_or_default().to_owned()
    });
    url.unwrap_or_default()
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
    use super::*;

    #[test]
    fn identity_tokens_survive_the_form() {
        let form = encoded(&[("refresh_token", "a+b/c=&d é"), ("scope", "repository:a/b:pull")]);
        assert_eq!(form, "refresh_token=a%2Bb%2Fc%3D%26d+%C3%A9&scope=repository%3Aa%2Fb%3Apull");
    }

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
}
