//! A real docker-registry: plain or TLS with a private authority, open or behind htpasswd.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::accounts;
use super::daemon::{DaemonId, Start, accepts, free_port};
use super::sandbox::Sandbox;
use super::tokens::TokenService;
use crate::fixture::{Built, Target, push};

/// Names under which distributions install the registry's program.
const PROGRAMS: [&str; 4] = ["docker-registry", "registry", "docker-distribution", "distribution"];

const HTTPS: u16 = 443;

/// What kind of registry to start.
#[derive(Debug, Clone, Copy, Default)]
pub struct RegistryOptions<'a> {
    /// https with a certificate of a private authority.
    pub tls: bool,
    /// The one user and password that are let in.
    pub login: Option<(&'a str, &'a str)>,
    /// Who gives bearer tokens for it.
    pub tokens: Option<&'a TokenService>,
    /// Names that it has in the world: https at port 443, by an authority that this machine trusts. The test must be in
    /// its own network.
    pub names: &'a [&'a str],
}

/// A running registry.
#[derive(Debug, Clone)]
pub struct Registry {
    /// For [`Sandbox::stop`].
    pub daemon: DaemonId,
    /// `127.0.0.1:port`.
    pub authority: String,
    /// The base URL for a gateway's Location.
    pub url: String,
    /// The private authority's certificate, where TLS is on.
    pub ca: Option<PathBuf>,
    storage: PathBuf,
}

impl Registry {
    /// Whether a repository has a layer, which it got with an image, from now on: as in a registry that takes manifests
    /// whose layers it has not seen from their author.
    pub fn has_layer(&self, repository: &str, digest: &str, has: bool) -> Result<()> {
        let hex = digest.strip_prefix("sha256:").context("a layer's digest is sha256")?;
        let place = format!("docker/registry/v2/repositories/{repository}/_layers/sha256/{hex}");
        let (link, away) = (self.storage.join(&place).join("link"), self.storage.join(place).join("away"));
        let (from, to) = if has { (away, link) } else { (link, away) };
        fs::rename(&from, to).with_context(|| format!("move {}", from.display()))
    }
}

impl Sandbox {
    /// Starts a registry with its own empty storage.
    pub fn registry(&mut self, options: RegistryOptions<'_>) -> Result<Registry> {
        let directory = self.new_directory("registry")?;
        let storage = directory.join("storage");
        fs::create_dir(&storage).context("create the registry's storage")?;
        let account = accounts::find("registry")?;
        chown(&storage, Some(account.uid), Some(account.gid)).context("give the storage to the registry")?;
        let mut sections = String::new();
        let mut ca = None;
        let is_public = !options.names.is_empty();
        if options.tls || is_public {
            let made = self.certificate(&directory, options.names)?;
            if is_public {
                self.make_known(options.names, &made)?;
            }
            sections.push_str(&format!(
                "  tls:\n    certificate: {0}/server.pem\n    key: {0}/server.key\n",
                directory.display()
            ));
            ca = Some(made);
        }
        if let Some((user, password)) = options.login {
            let line = self.root().run(&["htpasswd", "-Bbn", user, password])?.success()?;
            let path = directory.join("htpasswd");
            fs::write(&path, line).context("write htpasswd")?;
            sections
                .push_str(&format!("auth:\n  htpasswd:\n    realm: fixture\n    path: {}\n", path.display()));
        }
        if let Some(tokens) = options.tokens {
            sections.push_str(&tokens.registry_section());
        }
        let port = if is_public { HTTPS } else { free_port()? };
        let (daemon, authority) = self.start_registry(&directory, &storage, port, &sections)?;
        let scheme = if ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{authority}");
        Ok(Registry { daemon, authority, url, ca, storage })
    }

    /// Pushes an image as `repository:tag`. Whatever the registry demands of its clients, the image goes in by a
    /// second, plain one on the same storage, which is gone afterwards.
    pub fn push(&mut self, registry: &Registry, built: &Built, repository: &str, tag: &str) -> Result<()> {
        let directory = self.new_directory("push")?;
        let storage = registry.storage.clone();
        let (daemon, authority) = self.start_registry(&directory, &storage, free_port()?, "")?;
        let target =
            Target { authority, repository: repository.to_owned(), tag: tag.to_owned(), login: None };
        push(built, &target)?;
        self.stop(daemon)?;
        Ok(())
    }

    fn start_registry(
        &mut self,
        directory: &Path,
        storage: &Path,
        port: u16,
        more: &str,
    ) -> Result<(DaemonId, String)> {
        let program = PROGRAMS.into_iter().find(|name| self.find_program(name).is_some());
        let program = program.context("no registry is installed (Debian's package is docker-registry)")?;
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
            storage.display()
        );
        let path = directory.join("config.yml");
        fs::write(&path, config).context("write the registry's configuration")?;
        let account = accounts::find("registry")?;
        let path = path.display().to_string();
        let words = [program, "serve", &path];
        let start = Start { name: program, words: &words, ids: (account.uid, account.gid), environment: &[] };
        let daemon = self.start_daemon(&start, &move || accepts(port))?;
        Ok((daemon, format!("127.0.0.1:{port}")))
    }

    /// Gives names to this machine, makes everybody on it trust an authority, and lets accounts have low ports.
    fn make_known(&self, names: &[&str], authority: &Path) -> Result<()> {
        let script = format!(
            "echo 127.0.0.1 {} >> /etc/hosts; cat {} >> /etc/ssl/certs/ca-certificates.crt; \
             echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start",
            names.join(" "),
            authority.display()
        );
        self.root().run(&["sh", "-ec", &script])?.success().context("make a registry known").map(drop)
    }

    /// Makes an authority and a server certificate for 127.0.0.1, localhost and these names; returns the authority's.
    fn certificate(&self, directory: &Path, names: &[&str]) -> Result<PathBuf> {
        let names: String = names.iter().map(|name| format!("DNS:{name},")).collect();
        let script = "set -e; umask 022
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=test authority' \
                -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=localhost' \
                -keyout server.key -out server.csr
            printf 'subjectAltName=%sDNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' \"$NAMES\" > server.ext
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile server.ext -out server.pem
            chmod 0644 server.key";
        self.root()
            .directory(directory)
            .env("NAMES", &names)
            .run(&["sh", "-c", script])?
            .success()
            .context("make certificates")?;
        Ok(directory.join("ca.pem"))
    }
}
