//! The real docker-registry with bearer tokens from a token service of our own: nobody, passwords, identity tokens.

use crate::fixture::{Image, location, settings, user};
use crate::registry::{Registry, Setup, run};
use crate::server::{Reply, Request, Server};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shifter_registry::{BlobCache, Client, Credentials, Location, Platform, RegistryError};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// base64 of `alice:s3:cret`.
const ALICE: &str = "Basic YWxpY2U6czM6Y3JldA==";
const IDENTITY: &str = "identity+token/of=alice";

/// A key and its certificate, which a registry trusts to sign tokens.
struct Signer {
    dir: tempfile::TempDir,
    chain: String,
}

impl Signer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let line =
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout key.pem -out tokens.pem";
        run(Command::new("openssl").current_dir(dir.path()).args(line.split_whitespace()));
        let pem = std::fs::read_to_string(dir.path().join("tokens.pem")).unwrap();
        let chain = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Self { dir, chain }
    }

    /// A token in the form of the "Docker Registry v2 Bearer token specification".
    fn sign(&self, repository: &str, actions: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let actions: Vec<String> = actions.iter().map(|action| format!("\"{action}\"")).collect();
        let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{}"]}}"#, self.chain);
        let claims = format!(
            r#"{{"iss":"issuer","sub":"","aud":"reg","exp":{},"nbf":{},"iat":{now},"jti":"x","access":[{{"type":"repository","name":"{repository}","actions":[{}]}}]}}"#,
            now + 300,
            now - 10,
            actions.join(",")
        );
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let input = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(input.path(), &signed).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.current_dir(self.dir.path()).args(["dgst", "-sha256", "-sign", "key.pem"]).arg(input.path());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(run(&mut openssl)))
    }
}

/// A token service at 127.0.0.1: gives nobody tokens for `a/open`, alice those for `a/b`, too.
pub(crate) struct TokenService {
    signer: Arc<Signer>,
    server: Server,
}

impl TokenService {
    pub(crate) fn start() -> Self {
        let signer = Arc::new(Signer::new());
        let own = Arc::clone(&signer);
        let server = Server::start(move |request, _| answer(&own, request));
        Self { signer, server }
    }

    /// A token for a test's own purposes.
    pub(crate) fn token(&self, repository: &str, actions: &[&str]) -> String {
        self.signer.sign(repository, actions)
    }

    /// What a registry's configuration says of this service.
    pub(crate) fn registry_section(&self) -> String {
        let bundle: PathBuf = self.signer.dir.path().join("tokens.pem");
        format!(
            "auth: {{token: {{realm: \"{}/token\", service: reg, issuer: issuer, rootcertbundle: {}}}}}\n",
            self.server.url(),
            bundle.display()
        )
    }
}

fn answer(signer: &Signer, request: &Request) -> Reply {
    let form = match request.method.as_str() {
        "POST" => request.body.as_str(),
        _ => request.path.split_once('?').map_or("", |(_, query)| query),
    };
    let url = reqwest::Url::parse(&format!("form:?{form}")).unwrap();
    let form: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((field("service"), request.path.split('?').next()), ("reg", Some("/token")), "{request:?}");
    let scope: Vec<&str> = field("scope").split(':').collect();
    assert_eq!((scope[0], scope[2]), ("repository", "pull"), "asked for more than reading");
    let is_alice = match (request.method.as_str(), request.header("authorization")) {
        ("GET", None) => false,
        ("GET", Some(ALICE)) => true,
        ("GET", Some(_)) => return Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#),
        ("POST", None) if field("refresh_token") == IDENTITY => {
            assert_eq!((field("grant_type"), field("client_id").is_empty()), ("refresh_token", false));
            true
        }
        _ => return Reply::new(400, r#"{"error":"invalid_grant"}"#),
    };
    let actions: &[&str] = if is_alice || scope[1] == "a/open" { &["pull"] } else { &[] };
    let token = signer.sign(scope[1], actions);
    // Both names are in use.
    let name = if request.method == "POST" { "access_token" } else { "token" };
    Reply::new(200, format!(r#"{{"{name}":"{token}","expires_in":300}}"#))
}

/// The token service is at 127.0.0.1, the registry at localhost: other hosts, unless the administrator says so.
fn trusting(registry: &Registry) -> Location {
    Location { trusted_hosts: vec!["127.0.0.1".to_owned()], ..location(&registry.url()) }
}

#[tokio::test]
async fn a_registry_with_a_token_service_opens_to_those_it_should() {
    let service = TokenService::start();
    let registry = Registry::start(Setup { tokens: Some(&service), ..Setup::default() });
    let image = Image::simple(3000, 1);
    registry.push(&image, "1").await;
    let identity =
        |user: &str, token: &str| Some(Credentials { username: user.to_owned(), password: token.to_owned() });
    for (credentials, expected) in [
        (user("s3:cret"), Ok(())),
        (identity("<token>", IDENTITY), Ok(())),
        (identity("", IDENTITY), Ok(())),
        (None, Err("run shifterimg login test")),
        (user("s3"), Err("run shifterimg login test to replace")),
        (identity("<token>", "expired"), Err("run shifterimg login test to replace")),
        (identity("<token>", "s3:cret"), Err("run shifterimg login test to replace")),
    ] {
        let client = Client::new(trusting(&registry), credentials.clone(), settings()).unwrap();
        let outcome = client.resolve("a/b", "1", &Platform::linux("amd64")).await;
        match (outcome, expected) {
            (Ok(resolved), Ok(())) => {
                assert!(resolved.private && resolved.top_digest.to_string() == image.digest());
                let dir = tempfile::tempdir().unwrap();
                let cache = BlobCache::open(dir.path()).unwrap();
                cache.fetch(&client, "a/b", &resolved.layers[0], &|_| {}).await.unwrap();
            }
            (Err(error), Err(part)) => {
                assert!(error.is_auth() && error.to_string().contains(part), "{error}");
            }
            (outcome, _) => panic!("{credentials:?}: {outcome:?}"),
        }
    }
    // Nobody needs a password for what is open; that it is not there is said to nobody in particular.
    let nobody = Client::new(trusting(&registry), None, settings()).unwrap();
    assert!(nobody.head("a/open", "1").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_token_service_on_another_host_gets_no_password_unless_the_administrator_names_it() {
    let service = TokenService::start();
    let registry = Registry::start(Setup { tokens: Some(&service), ..Setup::default() });
    registry.push(&Image::simple(3000, 1), "1").await;
    for credentials in
        [user("s3:cret"), Some(Credentials { username: "<token>".to_owned(), password: IDENTITY.to_owned() })]
    {
        let client = Client::new(location(&registry.url()), credentials, settings()).unwrap();
        let error = client.head("a/b", "1").await.unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
        assert!(error.to_string().contains("127.0.0.1 would get the password"), "{error}");
    }
    let asked = service.server.log();
    assert!(!asked.is_empty() && asked.iter().all(|r| r.header("authorization").is_none()), "{asked:?}");
    assert!(asked.iter().all(|r| r.method == "GET"), "{asked:?}");
}

#[tokio::test]
async fn an_identity_token_is_not_sent_on_by_a_redirect_nor_used_as_a_password() {
    let thief = Server::start(|_, _| Reply::new(200, r#"{"token":"x"}"#));
    let (away, identity) =
        (thief.url(), Credentials { username: String::new(), password: IDENTITY.to_owned() });
    let registry = Server::start(move |request, _| match request.method.as_str() {
        "POST" => Reply::new(307, "").with("Location", away.clone()),
        _ if request.path.starts_with("/token") => Reply::new(401, ""),
        _ => {
            let home = request.header("host").unwrap();
            Reply::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"http://{home}/token\""))
        }
    });
    let client = Client::new(location(&registry.url()), Some(identity.clone()), settings()).unwrap();
    let error = client.head("a/b", "1").await.unwrap_err();
    assert!(error.to_string().contains("holds a secret and is not sent on"), "{error}");
    assert_eq!((registry.count("POST", "/token"), thief.log().len()), (1, 0));

    let basic = Server::start(|_, _| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\""));
    let client = Client::new(location(&basic.url()), Some(identity), settings()).unwrap();
    let error = client.head("a/b", "1").await.unwrap_err();
    assert!(error.is_auth() && error.to_string().contains("identity token"), "{error}");
    assert!(basic.log().iter().all(|r| r.header("authorization").is_none()));
}
