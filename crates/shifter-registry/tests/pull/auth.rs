//! Tokens, passwords and redirects: who gets to see what.

use crate::fixture::{Image, client, location, settings, user};
use crate::server::{Reply, Request, Server};
use shifter_registry::{BlobCache, Client, Platform, RegistryError};
use std::sync::{Arc, OnceLock};

/// base64 of `alice:s3cret`.
const ALICE: &str = "Basic YWxpY2U6czNjcmV0";

/// What a token service does.
#[derive(Clone, Copy)]
enum Service {
    /// Gives everybody a token that opens the image.
    OpensToAll,
    /// Gives everybody a token; only that of the user opens the image.
    StrangersTokenIsUseless,
    /// Gives tokens to the user alone.
    DeniesStrangers,
}

fn token_answer(service: Service, request: &Request) -> Reply {
    let is_user = request.header("authorization") == Some(ALICE);
    let anonymous = request.header("authorization").is_none();
    match (service, is_user, anonymous) {
        (_, true, _) => Reply::new(200, r#"{"access_token":"for-alice","expires_in":60}"#),
        (Service::OpensToAll, _, true) => Reply::new(200, r#"{"token":"open-sesame"}"#),
        (Service::StrangersTokenIsUseless, _, true) => Reply::new(200, r#"{"token":"useless"}"#),
        _ => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#),
    }
}

/// A registry that wants a token from `realm` (its own `/token` where empty).
fn token_registry(image: &Image, service: Service, realm: String) -> Server {
    let image = image.clone();
    let own: Arc<OnceLock<String>> = Arc::default();
    let seen = Arc::clone(&own);
    let server = Server::start(move |request, _| {
        if request.path.starts_with("/token?") {
            return token_answer(service, request);
        }
        let good = match service {
            Service::OpensToAll => &["Bearer open-sesame", "Bearer for-alice"][..],
            _ => &["Bearer for-alice"],
        };
        if request.header("authorization").is_some_and(|h| good.contains(&h)) {
            return image.answer(request);
        }
        let realm = if realm.is_empty() { seen.get().unwrap() } else { &realm };
        let challenge = format!(r#"Bearer realm="{realm}",service="reg",scope="repository:a/b:pull,push""#);
        Reply::new(401, "").with("WWW-Authenticate", challenge)
    });
    own.set(format!("{}/token", server.url())).unwrap();
    server
}

#[tokio::test]
async fn an_image_is_private_only_if_nothing_but_the_password_opened_it() {
    let image = Image::simple(100, 1);
    for (service, password, expected) in [
        (Service::OpensToAll, None, Ok(false)),
        (Service::OpensToAll, Some("s3cret"), Ok(false)),
        (Service::OpensToAll, Some("wrong"), Ok(false)),
        (Service::StrangersTokenIsUseless, Some("s3cret"), Ok(true)),
        (Service::DeniesStrangers, Some("s3cret"), Ok(true)),
        (Service::StrangersTokenIsUseless, None, Err("run shifterimg login test")),
        (Service::DeniesStrangers, None, Err("run shifterimg login test")),
        (Service::StrangersTokenIsUseless, Some("wrong"), Err("run shifterimg login test to replace")),
        (Service::DeniesStrangers, Some("wrong"), Err("run shifterimg login test to replace")),
    ] {
        let server = token_registry(&image, service, String::new());
        let credentials = password.and_then(user);
        let client = Client::new(location(&server.url()), credentials, settings()).unwrap();
        match (client.head("a/b", "1").await, expected) {
            (Ok(head), Ok(private)) => {
                assert_eq!(head.private, private);
                let resolved = client.resolve("a/b", "1", &Platform::linux("amd64")).await.unwrap();
                assert_eq!(resolved.private, private);
            }
            (Err(error), Err(part)) => {
                assert!(error.is_auth() && error.to_string().contains(part), "{error}");
                assert!(!error.to_string().contains("wrong"), "{error}");
            }
            (outcome, _) => panic!("{outcome:?}, not {expected:?}"),
        }
        // The token was asked for reading only, and the registry itself never saw the password.
        for request in server.log() {
            if request.path.starts_with("/token?") {
                assert!(request.path.ends_with("service=reg&scope=repository%3Aa%2Fb%3Apull"), "{request:?}");
            } else {
                assert!(!request.header("authorization").is_some_and(|h| h.starts_with("Basic")));
            }
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_fetched_anew() {
    let image = Image::simple(100, 1);
    let script = image.clone();
    let own: Arc<OnceLock<String>> = Arc::default();
    let seen = Arc::clone(&own);
    // The first token opens the manifest and is expired for the configuration.
    let server = Server::start(move |request, before| {
        if request.path.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"token":"t{before}"}}"#));
        }
        let wanted = if request.path.contains("/blobs/") { "Bearer t1" } else { "Bearer t0" };
        if request.header("authorization") == Some(wanted) {
            return script.answer(request);
        }
        Reply::new(401, "")
            .with("WWW-Authenticate", format!("Bearer realm=\"{}/token\"", seen.get().unwrap()))
    });
    own.set(server.url()).unwrap();
    client(&server.url()).resolve("a/b", "1", &Platform::linux("amd64")).await.unwrap();
    assert_eq!(server.count("GET", "/token"), 2);
}

#[tokio::test]
async fn a_registry_that_never_has_enough_is_left() {
    let own: Arc<OnceLock<String>> = Arc::default();
    let seen = Arc::clone(&own);
    let server = Server::start(move |request, _| {
        if request.path.starts_with("/token") {
            return Reply::new(200, r#"{"token":"t"}"#);
        }
        Reply::new(401, "")
            .with("WWW-Authenticate", format!("Bearer realm=\"{}/token\"", seen.get().unwrap()))
    });
    own.set(server.url()).unwrap();
    let client = Client::new(location(&server.url()), user("s3cret"), settings()).unwrap();
    assert!(client.head("a/b", "1").await.unwrap_err().is_auth());
    assert!(server.log().len() <= 8, "{:?}", server.log());
}

/// ST44.
#[tokio::test]
async fn token_services_elsewhere_do_not_get_the_password_over_plain_http() {
    let image = Image::simple(100, 1);
    let thief = Server::start(|_, _| Reply::new(200, r#"{"token":"useless"}"#));
    let realm = format!("http://localhost:{}/token", thief.port());
    let registry = token_registry(&image, Service::StrangersTokenIsUseless, realm);
    let client = Client::new(location(&registry.url()), user("s3cret"), settings()).unwrap();
    let error = client.head("a/b", "1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
    assert!(error.to_string().contains("would get the password over plain http"), "{error}");
    assert_eq!(thief.log().len(), 1);
    assert!(thief.log().iter().all(|r| r.header("authorization").is_none()), "{:?}", thief.log());

    for realm in ["file:///etc/passwd", "http://169.254.169.254/token", "gopher://x/", "::"] {
        let registry = token_registry(&image, Service::OpensToAll, realm.to_owned());
        let client = Client::new(location(&registry.url()), user("s3cret"), settings()).unwrap();
        let error = client.head("a/b", "1").await.unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }), "{realm}: {error:?}");
    }
}

/// ST43.
#[tokio::test]
async fn a_redirect_to_another_origin_carries_no_authorization() {
    let image = Image::simple(5000, 1);
    let stored = image.clone();
    let storage = Server::start(move |request, _| {
        let path = request.path.split('?').next().unwrap_or("").to_owned();
        stored.answer(&Request { path, ..request.clone() })
    });
    let (script, away) = (image.clone(), storage.url());
    let registry = Server::start(move |request, _| {
        if request.header("authorization") != Some(ALICE) {
            return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if request.path.contains("/blobs/") {
            return Reply::new(307, "").with("Location", format!("{away}{}?signature=x", request.path));
        }
        script.answer(request)
    });
    let client = Client::new(location(&registry.url()), user("s3cret"), settings()).unwrap();
    let resolved = client.resolve("a/b", "1", &Platform::linux("amd64")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    cache.fetch(&client, "a/b", &resolved.layers[0], &|_| {}).await.unwrap();
    assert_eq!(storage.log().len(), 2);
    assert!(storage.log().iter().all(|r| r.header("authorization").is_none()), "{:?}", storage.log());
    let back = registry.log();
    assert!(back.iter().any(|r| r.header("authorization") == Some(ALICE)), "{back:?}");
}

#[tokio::test]
async fn once_dropped_the_authorization_does_not_come_back() {
    let image = Image::simple(100, 1);
    let home: Arc<OnceLock<String>> = Arc::default();
    let seen = Arc::clone(&home);
    let detour = Server::start(move |_, _| {
        Reply::new(302, "").with("Location", format!("{}/v2/a/b/manifests/other", seen.get().unwrap()))
    });
    let away = detour.url();
    let registry = Server::start(move |request, _| match request.path.as_str() {
        _ if request.header("authorization").is_none() => {
            Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\"")
        }
        "/v2/a/b/manifests/1" => Reply::new(302, "").with("Location", away.clone()),
        _ => image.answer(request),
    });
    home.set(registry.url()).unwrap();
    let client = Client::new(location(&registry.url()), user("s3cret"), settings()).unwrap();
    let error = client.head("a/b", "1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 401, .. }), "{error:?}");
    let log = registry.log();
    let last = log.last().unwrap();
    assert!(last.path.ends_with("other") && last.header("authorization").is_none(), "{last:?}");
}

/// ST43.
#[tokio::test]
async fn redirects_end_and_lead_nowhere_unexpected() {
    for (target, part) in [
        ("/v2/a/b/manifests/1", "more than 5 redirects"),
        ("file:///etc/passwd", "file address"),
        ("http://169.254.169.254/latest/meta-data", "address of this machine or its link"),
        ("http://user:pw@127.0.0.1/", "holds credentials"),
        ("", "more than 5 redirects"),
    ] {
        let server = Server::start(move |_, _| Reply::new(302, "").with("Location", target));
        let error = client(&server.url()).head("a/b", "1").await.unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{target}: {error}");
        assert!(server.log().len() <= 6);
    }
}

#[tokio::test]
async fn what_a_registry_echoes_is_not_repeated() {
    for status in [400, 401, 403, 404, 418, 500] {
        let echo = r#"{"errors":[{"code":"s3cret","message":"alice:s3cret YWxpY2U6czNjcmV0"}]}"#;
        let server = Server::start(move |request, _| match request.header("authorization") {
            None => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"s3cret\""),
            Some(_) => Reply::new(status, echo).with("WWW-Authenticate", "Basic realm=\"s3cret\""),
        });
        let client = Client::new(location(&server.url()), user("s3cret"), settings()).unwrap();
        for error in [
            client.head("a/b", "1").await.unwrap_err(),
            client.resolve("a/b", "1", &Platform::linux("amd64")).await.unwrap_err(),
        ] {
            let text = format!("{error} {error:?} {client:?}");
            assert!(!text.contains("s3cret") && !text.contains("YWxpY2U6"), "{text}");
        }
    }
}
