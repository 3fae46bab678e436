//! Whether a user name and password are good, asked without meaning any image.

use crate::fixture::{location, settings, user};
use crate::server::{Reply, Server};
use shifter_registry::{Client, Verdict};
use std::sync::{Arc, OnceLock};

/// base64 of `alice:s3cret`.
const ALICE: &str = "Basic YWxpY2U6czNjcmV0";

/// A registry that asks in this way who is there; `realm` is its token service, its own where empty.
fn registry(asks: &'static str, realm: &'static str) -> Server {
    let own: Arc<OnceLock<String>> = Arc::default();
    let seen = Arc::clone(&own);
    let server = Server::start(move |request, _| {
        let said = request.header("authorization");
        if request.path.starts_with("/token") {
            assert!(!request.path.contains("scope"), "no repository is meant: {request:?}");
            return match said {
                Some(ALICE) => Reply::new(200, r#"{"token":"for-alice"}"#),
                None => Reply::new(200, r#"{"token":"for-nobody"}"#),
                Some(_) => Reply::new(401, ""),
            };
        }
        assert_eq!(request.path, "/v2/");
        let realm =
            if realm.is_empty() { format!("{}/token", seen.get().unwrap()) } else { realm.to_owned() };
        match (asks, said) {
            ("nobody", _)
            | ("basic", Some(ALICE))
            | ("token", Some("Bearer for-alice" | "Bearer for-nobody")) => Reply::new(200, "{}"),
            ("basic", _) => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\""),
            ("token", _) => Reply::new(401, "")
                .with("WWW-Authenticate", format!(r#"Bearer realm="{realm}",service="reg""#)),
            ("nothing", _) => Reply::new(401, ""),
            _ => Reply::new(500, ""),
        }
    });
    own.set(server.url()).unwrap();
    server
}

#[tokio::test]
async fn a_password_is_good_only_if_the_registry_itself_takes_it() {
    for (asks, password, expected) in [
        ("basic", "s3cret", Ok(Verdict::Accepted)),
        ("basic", "wrong", Err(true)),
        ("token", "s3cret", Ok(Verdict::Accepted)),
        // Nobody gets a token that opens, too: the wrong password must not pass for nobody.
        ("token", "wrong", Err(true)),
        ("nobody", "wrong", Ok(Verdict::Open)),
        ("nothing", "s3cret", Err(true)),
        ("broken", "s3cret", Err(false)),
    ] {
        let server = registry(asks, "");
        let client = Client::new(location(&server.url()), None, settings()).unwrap();
        let verdict = client.verify(&user(password).unwrap()).await;
        let shown = verdict.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(!shown.contains(password), "{shown}");
        assert_eq!(verdict.map_err(|error| error.is_auth()), expected, "{asks} {password}: {shown}");
    }
}

#[tokio::test]
async fn a_password_to_be_verified_goes_to_no_strange_token_service() {
    let strange = Server::start(|_, _| Reply::new(200, r#"{"token":"stolen"}"#));
    let realm: &'static str =
        Box::leak(format!("{}/token", strange.url().replace("127.0.0.1", "localhost")).into());
    let server = registry("token", realm);
    let client = Client::new(location(&server.url()), None, settings()).unwrap();
    assert!(client.verify(&user("s3cret").unwrap()).await.is_err());
    assert!(strange.log().iter().all(|request| request.header("authorization").is_none()));
}
