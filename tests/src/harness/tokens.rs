//! A token service for a docker-registry: bearer tokens for users with passwords, who may all read everything but what
//! is below another user's name, and for nobody where the repository's name begins with `open`.
//!
//! Follows the distribution project's "Token Authentication Specification": a JSON web token, signed by a key whose
//! certificate the registry is told to trust. openssl signs. Refresh tokens are not played here.

use std::fs;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::command::UserCommand;
use super::sandbox::Sandbox;
use crate::fixture::{Request, base64, read_request};

/// A running service; its thread ends with the test.
#[derive(Debug, Clone)]
pub struct TokenService {
    address: SocketAddr,
    directory: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TokenService {
    /// What a registry's configuration says of this service.
    pub(super) fn registry_section(&self) -> String {
        let bundle = self.directory.join("tokens.pem");
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: fixture\n    issuer: fixture\n    rootcertbundle: {}\n",
            self.address,
            bundle.display()
        )
    }

    /// Who asked for what so far: `nobody` or `user`, and the scope.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sandbox {
    /// Starts a service that knows these users and passwords.
    pub fn token_service(&mut self, logins: &[(&str, &str)]) -> Result<TokenService> {
        let directory = self.new_directory("tokens")?;
        let script = "umask 022 && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens \
            -keyout key.pem -out tokens.pem";
        self.root()
            .directory(&directory)
            .run(&["sh", "-c", script])?
            .success()
            .context("make a signing key")?;
        let pem = fs::read_to_string(directory.join("tokens.pem")).context("read the certificate")?;
        let chain: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let service = TokenService {
            address: listener.local_addr().context("ask for the port")?,
            directory,
            requests: Arc::default(),
        };
        let signer = Signer {
            root: self.root().directory(&service.directory),
            chain,
            logins: logins.iter().map(|login| (login.0.to_owned(), basic(login))).collect(),
            requests: Arc::clone(&service.requests),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = signer.converse(stream) {
                    eprintln!("token service: {error:#}");
                }
            }
        });
        Ok(service)
    }
}

struct Signer {
    root: UserCommand,
    chain: String,
    /// Names, and the header that proves them.
    logins: Vec<(String, String)>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Signer {
    fn converse(&self, mut stream: TcpStream) -> Result<()> {
        let Some(request) = read_request(&mut BufReader::new(stream.try_clone()?))? else { return Ok(()) };
        let (status, body) = match self.answer(&request)? {
            Some(token) => (200, serde_json::json!({"token": token, "expires_in": 300}).to_string()),
            None => (401, String::new()),
        };
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} Token\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        Ok(stream.write_all((head + &body).as_bytes())?)
    }

    /// A token for what is asked, worth nothing where the caller may not have it; none for a wrong password.
    fn answer(&self, request: &Request) -> Result<Option<String>> {
        let scope = request.target.split(['?', '&']).find_map(|pair| pair.strip_prefix("scope="));
        let scope = scope.unwrap_or_default().replace("%3A", ":").replace("%2F", "/");
        let repository = scope.split(':').nth(1).unwrap_or_default();
        let authorization =
            request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let user = authorization.map(|(_, value)| self.logins.iter().find(|(_, known)| known == value));
        let who = if user.is_some() { "user" } else { "nobody" };
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{who} {scope}"));
        let may_pull = match user {
            Some(None) => return Ok(None),
            Some(Some(user)) => self.logins.iter().all(|other| {
                other == user || !repository.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
            }),
            None => repository.starts_with("open"),
        };
        self.sign(repository, may_pull).map(Some)
    }

    fn sign(&self, repository: &str, may_pull: bool) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let actions: &[&str] = if may_pull { &["pull"] } else { &[] };
        let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [self.chain]});
        let claims = serde_json::json!({
            "iss": "fixture", "sub": "", "aud": "fixture", "jti": "x", "exp": now + 300, "nbf": now - 10, "iat": now,
            "access": [{"type": "repository", "name": repository, "actions": actions}],
        });
        let signed = format!("{}.{}", url_base64(&header.to_string()), url_base64(&claims.to_string()));
        let sign =
            self.root.clone().stdin(&signed).run(&["openssl", "dgst", "-sha256", "-sign", "key.pem"])?;
        anyhow::ensure!(sign.status.success(), "{}", sign.describe());
        Ok(format!("{signed}.{}", url_safe(base64(&sign.stdout))))
    }
}

fn basic(login: &(&str, &str)) -> String {
    format!("Basic {}", base64(format!("{}:{}", login.0, login.1).as_bytes()))
}

fn url_base64(text: &str) -> String {
    url_safe(base64(text.as_bytes()))
}

fn url_safe(text: String) -> String {
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}
