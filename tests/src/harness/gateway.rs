//! The product's gateway, run as a site runs it: its own account, a configuration file, a system with munge.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::accounts;
use super::daemon::{DaemonId, Start, free_port};
use super::munged::Munged;
use super::sandbox::Sandbox;
use crate::fixture::{Response, request};

/// The one system of a test's gateway.
const SYSTEM: &str = "testsystem";

/// A registry the gateway may pull from.
#[derive(Debug, Clone)]
pub struct Location {
    /// Its name: the first component of a reference.
    pub name: String,
    /// Its base URL.
    pub url: String,
    /// A private authority's certificate.
    pub ca: Option<PathBuf>,
}

/// What a test's gateway is told.
#[derive(Debug, Clone, Default)]
pub struct GatewayOptions {
    /// The first is the default.
    pub locations: Vec<Location>,
    /// Top-level keys that replace or join the generated ones.
    pub more: Map<String, Value>,
    /// Keys that replace or join those of every location.
    pub of_locations: Map<String, Value>,
}

/// A running gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// For [`Sandbox::stop`].
    pub daemon: DaemonId,
    /// `127.0.0.1:port`.
    pub authority: String,
    /// `imageDir`.
    pub images: PathBuf,
    /// Where the cache, the expansion directory and the database lie.
    pub state: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Variables it has beside `HOME` and `PATH`; changes count from the next start on.
    pub environment: Vec<(String, String)>,
}

impl Sandbox {
    /// Starts a gateway and writes a `udiRoot.conf` that names it.
    pub fn gateway(&mut self, munged: &Munged, options: &GatewayOptions) -> Result<Gateway> {
        let state = self.new_directory("gateway")?;
        let images = self.images();
        let account = accounts::find("gateway")?;
        for name in ["cache", "expand"] {
            fs::create_dir(state.join(name)).with_context(|| format!("create the gateway's {name}"))?;
        }
        for path in [state.clone(), state.join("cache"), state.join("expand"), images.clone()] {
            chown(&path, Some(account.uid), Some(account.gid)).context("give a directory to the gateway")?;
        }
        let document = self.document(&state, munged, options);
        let config = state.join("imagemanager.json");
        fs::write(&config, serde_json::to_vec_pretty(&document)?).context("write imagemanager.json")?;
        let port = free_port()?;
        let (daemon, authority) = self.serve(&config, port, &[])?;
        self.write_udiroot(&[("imageGateway", &format!("http://{authority}")), ("system", SYSTEM)])?;
        Ok(Gateway { daemon, authority, images, state, config, environment: Vec::new() })
    }

    /// Starts the gateway again on its configuration, state and port, after a test has stopped or killed it.
    pub fn restart(&mut self, gateway: &mut Gateway) -> Result<()> {
        let port = gateway.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port = port.context("a gateway's address has a port")?;
        let (daemon, _) = self.serve(&gateway.config, port, &gateway.environment)?;
        gateway.daemon = daemon;
        Ok(())
    }

    /// Starts a gateway on a configuration that is there already, on this port.
    pub fn gateway_on(&mut self, config: PathBuf, images: PathBuf, port: u16) -> Result<Gateway> {
        let (daemon, authority) = self.serve(&config, port, &[])?;
        let state = images.clone();
        Ok(Gateway { daemon, authority, images, state, config, environment: Vec::new() })
    }

    /// Starts one more `serve` on a gateway's configuration, on a port of its own.
    pub fn another(&mut self, gateway: &Gateway) -> Result<Gateway> {
        let (daemon, authority) = self.serve(&gateway.config, free_port()?, &gateway.environment)?;
        Ok(Gateway { daemon, authority, ..gateway.clone() })
    }

    /// Starts a `worker` for a gateway's catalog, with so many threads.
    pub fn worker(&mut self, gateway: &Gateway, threads: u8) -> Result<DaemonId> {
        let program = self.program("shifter-imagegw")?.display().to_string();
        let (config, threads) = (gateway.config.display().to_string(), threads.to_string());
        let words = [&program, "worker", "--config", &config, "--system", SYSTEM, "--threads", &threads];
        let account = accounts::find("gateway")?;
        let mut environment = vec![("HOME", "/home/gateway")];
        let more = gateway.environment.iter();
        environment.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
        let ids = (account.uid, account.gid);
        let start = Start { name: "worker", words: &words, ids, environment: &environment };
        self.start_daemon(&start, &|| true)
    }

    /// A `SealKeyFile` that the gateway's account alone can read.
    pub fn seal_key(&mut self) -> Result<PathBuf> {
        let path = self.new_directory("key")?.join("seal.key");
        let script =
            format!("umask 077; head -c 32 /dev/urandom > {0} && chown gateway: {0}", path.display());
        self.root().run(&["sh", "-c", &script])?.success()?;
        Ok(path)
    }

    fn serve(
        &mut self,
        config: &std::path::Path,
        port: u16,
        more: &[(String, String)],
    ) -> Result<(DaemonId, String)> {
        let program = self.program("shifter-imagegw")?.display().to_string();
        let (config, listen) = (config.display().to_string(), format!("{}:{port}", self.address()));
        let mut words = vec![program.as_str(), "serve"];
        // Where the environment names it, the command line need not.
        if !more.iter().any(|(name, _)| name == "GWCONFIG") {
            words.extend(["--config", &config]);
        }
        words.extend(["--listen", &listen]);
        let account = accounts::find("gateway")?;
        let mut environment = vec![("HOME", "/home/gateway")];
        environment.extend(more.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let start = Start {
            name: "shifter-imagegw",
            words: &words,
            ids: (account.uid, account.gid),
            environment: &environment,
        };
        let probe = listen.clone();
        let ready = move || request(&probe, "GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200);
        Ok((self.start_daemon(&start, &ready)?, listen))
    }

    fn document(&self, state: &std::path::Path, munged: &Munged, options: &GatewayOptions) -> Value {
        let mut locations = Map::new();
        // A gateway without any registry is refused; port 9 is where nobody answers.
        let nowhere =
            [Location { name: "nowhere".to_owned(), url: "http://127.0.0.1:9".to_owned(), ca: None }];
        let known = if options.locations.is_empty() { &nowhere[..] } else { &options.locations };
        for location in known {
            let mut entry = json!({"remotetype": "dockerv2", "url": location.url, "authentication": "http"});
            if let (Some(object), Some(ca)) = (entry.as_object_mut(), &location.ca) {
                object.insert("sslcacert".to_owned(), json!(ca));
            }
            if let Some(object) = entry.as_object_mut() {
                object.extend(options.of_locations.clone());
            }
            locations.insert(location.name.clone(), entry);
        }
        let system = json!({
            "mungeSocketPath": munged.socket,
            "accesstype": "local",
            "admins": ["root"],
            "local": {"imageDir": self.images()},
        });
        let mut document = json!({
            "WorkerThreads": 4,
            "LogLevel": "debug",
            "DefaultImageLocation": known[0].name,
            "DefaultImageFormat": "squashfs",
            "PullUpdateTimeout": 300,
            "ImageExpirationTimeout": "90:00:00:00",
            "DatabaseURI": format!("sqlite://{}/images.db", state.display()),
            "CacheDirectory": state.join("cache"),
            "ExpandDirectory": state.join("expand"),
            "Locations": locations,
            "Platforms": {SYSTEM: system},
        });
        if let Some(object) = document.as_object_mut() {
            object.extend(options.more.clone());
        }
        document
    }

    /// A request to the gateway with a fresh credential of `account`, as any site's own script would send it.
    pub fn api(
        &self,
        gateway: &Gateway,
        munged: &Munged,
        account: &str,
        request_line: (&str, &str),
        body: &[u8],
    ) -> Result<Response> {
        let socket = munged.socket.display().to_string();
        let credential = self.user(account)?.run(&["munge", "-n", "-S", &socket])?.success()?;
        let headers = [("authentication", credential.trim_end())];
        request(&gateway.authority, request_line.0, request_line.1, &headers, body)
    }
}
