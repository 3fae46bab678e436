//! The real docker-registry on a free port, and pushing to it with nothing but HTTP.

use crate::fixture::{Image, sha256};
use crate::tokens::TokenService;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How the registry is set up.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup<'a> {
    pub(crate) tls: bool,
    /// `user:password` to demand.
    pub(crate) htpasswd: Option<(&'static str, &'static str)>,
    /// The service whose tokens to demand.
    pub(crate) tokens: Option<&'a TokenService>,
    /// The registry to be a pull-through mirror of.
    pub(crate) mirror_of: Option<&'a str>,
}

/// A running docker-registry; killed, with its files, on drop.
pub(crate) struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    tls: bool,
    /// What lets the test push.
    authorization: Option<String>,
}

impl Registry {
    pub(crate) fn start(setup: Setup<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut yaml = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            path("store").display()
        );
        if setup.tls {
            make_certificates(dir.path());
            let (certificate, key) = (path("server.pem"), path("server.key"));
            yaml += &format!("  tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display());
        }
        if let Some((user, password)) = setup.htpasswd {
            let line = run(Command::new("htpasswd").args(["-Bbn", user, password]));
            std::fs::write(path("htpasswd"), line).unwrap();
            yaml += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path("htpasswd").display());
        }
        if let Some(service) = setup.tokens {
            yaml += &service.registry_section();
        }
        if let Some(url) = setup.mirror_of {
            yaml += &format!("proxy: {{remoteurl: {url}}}\n");
        }
        std::fs::write(path("config.yml"), yaml).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("stderr")).unwrap())
            .spawn()
            .expect("docker-registry is needed (Debian package docker-registry)");
        let authorization = match (setup.htpasswd, setup.tokens) {
            (Some((user, password)), _) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            (_, Some(service)) => Some(format!("Bearer {}", service.token("a/b", &["pull", "push"]))),
            _ => None,
        };
        let mut registry = Self { child, dir, port, tls: setup.tls, authorization };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = registry.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "docker-registry: {}", registry.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.port)
    }

    /// Certificate of the CA that signed the server's.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Pushes `image` as `a/b:TAG`.
    pub(crate) async fn push(&self, image: &Image, tag: &str) {
        for blob in image.layers.iter().map(|(_, b)| b.as_slice()).chain([image.config.as_bytes()]) {
            self.push_blob(blob).await;
        }
        self.push_manifest(tag, image.media_type, &image.manifest).await;
    }

    pub(crate) async fn push_manifest(&self, reference: &str, media_type: &str, text: &str) {
        let url = format!("{}/v2/a/b/manifests/{reference}", self.url());
        let request = self.http().put(url).header("Content-Type", media_type).body(text.to_owned());
        let response = self.sign(request).send().await.unwrap();
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    }

    async fn push_blob(&self, blob: &[u8]) {
        let start = self.http().post(format!("{}/v2/a/b/blobs/uploads/", self.url()));
        let response = self.sign(start).send().await.unwrap();
        assert_eq!(response.status(), 202);
        let location = response.headers()["location"].to_str().unwrap();
        let separator = if location.contains('?') { '&' } else { '?' };
        let upload = self.http().put(format!("{location}{separator}digest={}", sha256(blob)));
        let response = self.sign(upload.body(blob.to_vec())).send().await.unwrap();
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    }

    fn http(&self) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder();
        if self.tls {
            let pem = std::fs::read(self.ca()).unwrap();
            builder = builder.tls_certs_merge([reqwest::Certificate::from_pem(&pem).unwrap()]);
        }
        builder.build().unwrap()
    }

    fn sign(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A private CA and a certificate for localhost, as an administrator makes them.
fn make_certificates(dir: &Path) {
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost,DNS:registry.example.org,IP:127.0.0.1\n")
        .unwrap();
    for line in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Test-CA \
         -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key \
         -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext \
         -out server.pem",
    ] {
        run(Command::new("openssl").current_dir(dir).args(line.split_whitespace()));
    }
}

pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
