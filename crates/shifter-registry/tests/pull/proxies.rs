//! Real proxies between us and a real registry, and names that only one side knows.
//!
//! Each pull runs in a process of its own, because proxies are a matter of the environment. Names are made known by
//! an `/etc/hosts` in a private mount namespace: to the proxy or to the client.

use crate::fixture::{Image, location, settings, sha256};
use crate::registry::{Registry, Setup, run};
use crate::server::{Reply, Server};
use shifter_registry::{BlobCache, Client, Location, Platform};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The registry's name where it is known; the certificate of a registry with TLS has it.
const NAME: &str = "registry.example.org";
const HOSTS: &str = "127.0.0.1 localhost registry.example.org storage.example.org\n";

/// A daemon with all its children, on a port of 127.0.0.1; killed on drop.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Daemon {
    /// `configure` gets a directory and a port; `argv` is completed by the configuration's path.
    fn start(argv: &[&str], knows_names: bool, configure: impl Fn(&Path, u16) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Some give up being root and must still write their log.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = dir.path().join("configuration");
        std::fs::write(&path, configure(dir.path(), port)).unwrap();
        let mut command = if knows_names { among_names(dir.path()) } else { Command::new("env") };
        let output = std::fs::File::create(dir.path().join("output")).unwrap();
        command.args(argv).arg(&path).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap_or_else(|e| panic!("{argv:?}: {e}"));
        let mut daemon = Self { child, dir, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{argv:?}: {ended:?} {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// All that it wrote.
    fn log(&self) -> String {
        let files = ["output", "log"].map(|name| std::fs::read_to_string(self.dir.path().join(name)));
        files.into_iter().flatten().collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// A command that runs the one appended to it where the names of `HOSTS` are known.
fn among_names(dir: &Path) -> Command {
    let hosts = dir.join("hosts");
    std::fs::write(&hosts, HOSTS).unwrap();
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = Command::new("unshare");
    command.arg(if is_root { "-m" } else { "-rm" });
    command.args(["sh", "-ec", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(hosts);
    command
}

fn squid() -> Daemon {
    squid_at("http_port", "")
}

/// One that is itself spoken to by TLS, with the certificate that lies beside an authority's.
fn squid_behind_tls(authority: &Path) -> Daemon {
    let place = |name: &str| authority.with_file_name(name).display().to_string();
    squid_at("https_port", &format!(" tls-cert={} tls-key={}", place("server.pem"), place("server.key")))
}

fn squid_at(port_key: &str, options: &str) -> Daemon {
    Daemon::start(&["squid", "-N", "-f"], true, |dir, port| {
        let dir = dir.display();
        format!(
            "{port_key} 127.0.0.1:{port}{options}\nhttp_access allow all\ncache deny all\npid_filename none\n\
             access_log stdio:{dir}/log\ncache_log {dir}/squid.log\ncoredump_dir {dir}\nnetdb_filename none\n"
        )
    })
}

fn tinyproxy() -> Daemon {
    Daemon::start(&["tinyproxy", "-d", "-c"], true, |dir, port| {
        let log = dir.join("log");
        format!(
            "Port {port}\nListen 127.0.0.1\nLogFile \"{}\"\nLogLevel Connect\nTimeout 60\n",
            log.display()
        )
    })
}

fn dante(knows_names: bool) -> Daemon {
    // Its name on Debian, and elsewhere.
    let program = if Command::new("danted").arg("-v").output().is_ok() { "danted" } else { "sockd" };
    Daemon::start(&[program, "-f"], knows_names, |dir, port| {
        format!(
            "logoutput: {}\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nclientmethod: none\n\
             socksmethod: none\nclient pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 log: connect }}\n",
            dir.join("log").display()
        )
    })
}

/// A pull of `a/b:1` in a process of its own, with only `variables` and what they do not touch in its environment.
struct Pull<'a> {
    url: String,
    ca: Option<PathBuf>,
    trusted: &'a str,
    knows_names: bool,
}

impl Pull<'_> {
    /// `pulled DIGEST`, or `failed` and why.
    fn with(&self, variables: &[(&str, String)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut child = if self.knows_names { among_names(dir.path()) } else { Command::new("env") };
        child.arg(std::env::current_exe().unwrap()).args(["--exact", "--ignored", "--nocapture"]);
        child.arg("proxies::pull_as_told");
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            child.env_remove(name).env_remove(name.to_uppercase());
        }
        child.env("PULL_URL", &self.url).env("PULL_TRUSTED", self.trusted);
        child.env("PULL_CA", self.ca.clone().unwrap_or_default());
        child.envs(variables.iter().map(|(name, value)| (name, value)));
        let text = String::from_utf8(run(&mut child)).unwrap();
        let told = text.lines().find_map(|line| line.split_once("=> ")).map(|(_, told)| told.to_owned());
        told.unwrap_or_else(|| panic!("{text}"))
    }
}

#[tokio::test]
#[ignore = "started by the tests of proxies"]
async fn pull_as_told() {
    let variable = |name| std::env::var(name).unwrap();
    let ca = variable("PULL_CA");
    let location = Location {
        sslcacert: (!ca.is_empty()).then(|| ca.into()),
        trusted_hosts: variable("PULL_TRUSTED").split_whitespace().map(str::to_owned).collect(),
        ..location(&variable("PULL_URL"))
    };
    let pull = async {
        let client = Client::new(location, None, settings())?;
        let resolved = client.resolve("a/b", "1", &Platform::linux("amd64")).await?;
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(dir.path())?;
        for layer in &resolved.layers {
            cache.fetch(&client, "a/b", layer, &|_| {}).await?;
        }
        Ok::<_, shifter_registry::RegistryError>(resolved.top_digest)
    };
    match pull.await {
        Ok(digest) => println!("=> pulled {digest}"),
        Err(error) => println!("=> failed {error}"),
    }
}

/// A registry with an image, and how to pull it by the name that not everybody knows.
async fn registry(tls: bool) -> (Registry, Pull<'static>, String) {
    let registry = Registry::start(Setup { tls, ..Setup::default() });
    let image = Image::simple(700_000, 1);
    registry.push(&image, "1").await;
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{NAME}:{}", registry.port());
    let ca = tls.then(|| registry.ca());
    let pull = Pull { url, ca, trusted: "", knows_names: false };
    (registry, pull, format!("pulled {}", image.digest()))
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_through_the_http_proxy_of_the_environment() {
    for tls in [false, true] {
        let (_registry, pull, pulled) = registry(tls).await;
        assert!(pull.with(&[]).starts_with("failed "), "the name is known without a proxy");
        for proxy in [squid(), tinyproxy()] {
            // The proxy's own name leads to this machine, as it may.
            let address = format!("http://localhost:{}", proxy.port);
            let (right, wrong) =
                if tls { ("https_proxy", "http_proxy") } else { ("http_proxy", "https_proxy") };
            for name in [right, "all_proxy", "ALL_PROXY"] {
                assert_eq!(pull.with(&[(name, address.clone())]), pulled, "{name} {}", proxy.log());
            }
            let log = proxy.log();
            let asked = if tls { format!("CONNECT {NAME}:") } else { format!("GET http://{NAME}:") };
            assert!(log.contains(&asked), "{log}");
            for (name, exception) in [(wrong, "none"), (right, NAME), (right, ".example.org"), (right, "*")] {
                let told = pull.with(&[(name, address.clone()), ("no_proxy", exception.to_owned())]);
                assert!(told.starts_with("failed "), "{name} {exception}: {told}");
            }
            let told =
                pull.with(&[(right, address.clone()), ("no_proxy", "example.net,ample.org".to_owned())]);
            assert_eq!(told, pulled);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_through_a_proxy_that_is_itself_spoken_to_by_tls() {
    let (registry_by_tls, pull, pulled) = registry(true).await;
    let authority = registry_by_tls.ca();
    let proxy = squid_behind_tls(&authority);
    let address = format!("https://localhost:{}", proxy.port);
    // The location's own authorities count for its proxy, too.
    for name in ["https_proxy", "HTTPS_PROXY", "all_proxy"] {
        assert_eq!(pull.with(&[(name, address.clone())]), pulled, "{name} {}", proxy.log());
    }
    assert!(proxy.log().contains(&format!("CONNECT {NAME}:")), "{}", proxy.log());
    let (_registry, pull, pulled) = registry(false).await;
    let told = pull.with(&[("http_proxy", address.clone())]);
    assert!(told.starts_with("failed ") && told.contains("no secure connection"), "{told}");
    let system = ("SSL_CERT_FILE", authority.display().to_string());
    assert_eq!(pull.with(&[("http_proxy", address), system]), pulled, "{}", proxy.log());
    assert!(proxy.log().contains(&format!("GET http://{NAME}:")), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_through_a_socks_proxy_with_names_resolved_there_or_here() {
    let (knowing, ignorant) = (dante(true), dante(false));
    for tls in [false, true] {
        let (_registry, mut pull, pulled) = registry(tls).await;
        let proxy =
            |scheme: &str, daemon: &Daemon| [("all_proxy", format!("{scheme}://127.0.0.1:{}", daemon.port))];
        assert_eq!(pull.with(&proxy("socks5h", &knowing)), pulled, "{}", knowing.log());
        let told = pull.with(&proxy("socks5", &knowing));
        assert!(told.starts_with("failed ") && told.contains("no answer from"), "{told}");
        pull.knows_names = true;
        assert_eq!(pull.with(&proxy("socks5", &ignorant)), pulled, "{}", ignorant.log());
        let told = pull.with(&proxy("socks5h", &ignorant));
        assert!(told.starts_with("failed "), "{told}");
    }
    assert!(knowing.log().contains("tcp/connect"), "{}", knowing.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_there_is_told_without_its_password() {
    let (_registry, pull, _) = registry(false).await;
    for scheme in ["http", "socks5", "socks5h"] {
        let told = pull.with(&[("all_proxy", format!("{scheme}://user:hunter2@127.0.0.1:1"))]);
        assert!(told.starts_with("failed cannot ") && !told.contains("hunter2"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_authorities_are_trusted() {
    let (registry, mut pull, pulled) = registry(true).await;
    let ca = pull.ca.take().unwrap();
    pull.url = registry.url();
    assert!(pull.with(&[]).contains("no secure connection"), "an unknown authority is trusted");
    assert_eq!(pull.with(&[("SSL_CERT_FILE", ca.display().to_string())]), pulled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_this_machine_is_not_followed_unless_the_administrator_names_it() {
    let image = Image::simple(5000, 2);
    let storage = image.serve();
    let (script, port) = (image.clone(), storage.port());
    let layer = sha256(&image.layers[0].1);
    let front = Server::start(move |request, _| {
        if request.path.ends_with(&layer) {
            let away = format!("http://storage.example.org:{port}{}", request.path);
            return Reply::new(307, "").with("Location", away);
        }
        script.answer(request)
    });
    let url = format!("http://{NAME}:{}", front.port());
    let mut pull = Pull { url, ca: None, trusted: "", knows_names: true };
    let told = pull.with(&[]);
    assert!(told.contains("refused to go where storage.example.org:"), "{told}");
    assert!(told.contains("is an address of this machine or its link"), "{told}");
    assert_eq!(storage.log().len(), 0);
    let named = format!("storage.example.org:{port}");
    for trusted in ["storage.example.org", &named] {
        pull.trusted = trusted;
        assert_eq!(pull.with(&[]), format!("pulled {}", image.digest()));
    }
}
