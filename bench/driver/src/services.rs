//! A gateway with munged and a small registry, as a site has them, so that an image can be asked for by its name. All
//! three are root's in the benchmark's namespace and end with root's shell.

use crate::root_shell::RootShell;
use crate::sandbox::{ServicePrograms, install, make_directory, write};
use crate::variants::{Keeper, Row, Variant, command, of_image, program};
use anyhow::{Context as _, Result, bail};
use bench_layout::{BASE, IMAGES};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where libmunge looks unless told otherwise: munge(7).
const MUNGE: &str = "/run/munge";
/// The image that the project's fixture program makes of this machine's own programs and serves.
const IMAGE: &str = "docker:fixture/busybox:latest";
const SYSTEM: &str = "bench";
/// Longest wait for a daemon.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where they listen.
pub(crate) struct Services {
    gateway: u16,
    registry: u16,
}

impl Services {
    /// Chooses ports; nothing runs yet.
    pub(crate) fn choose() -> Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let [one, other] = [free(), free()].map(|address| address.context("look for a free port"));
        Ok(Self { gateway: one?.port(), registry: other?.port() })
    }

    /// Their lines in `udiRoot.conf`.
    pub(crate) fn settings(&self) -> String {
        format!("imageGateway=http://127.0.0.1:{}\nsystem={SYSTEM}\n", self.gateway)
    }

    /// Starts them; this process must be root still. Returns why not, where the machine lacks something.
    pub(crate) fn start(&self, programs: &ServicePrograms, root: &RootShell) -> Result<Option<String>> {
        if !["/usr/sbin/munged", "/usr/bin/munged"].into_iter().any(|path| Path::new(path).exists()) {
            return Ok(Some("munged is not installed".to_owned()));
        }
        install("shifterimg", &programs.shifterimg, 0o755)?;
        install("shifter-imagegw", &programs.imagegw, 0o755)?;
        install("shifter-fixture", &programs.registry, 0o755)?;
        for directory in [MUNGE, "/etc/munge"] {
            make_directory(directory)?;
        }
        for directory in ["", "/cache", "/expand"] {
            make_directory(&format!("{BASE}/gateway{directory}"))?;
        }
        // Nobody outside this namespace can reach the socket, so the key keeps no secret.
        write("/etc/munge/munge.key", &[b'k'; 1024], 0o400)?;
        let socket = format!("{MUNGE}/munge.socket.2");
        let munged = format!(
            "munged --foreground --key-file=/etc/munge/munge.key --socket={socket} --pid-file={MUNGE}/pid \
             --log-file={MUNGE}/log --seed-file={MUNGE}/seed"
        );
        let log = root.start_daemon("munged", &munged)?;
        wait_until(&|| UnixStream::connect(&socket).is_ok(), &log)?;
        let (gateway, registry) = (self.gateway, self.registry);
        let serve = format!("{} serve busybox --listen 127.0.0.1:{registry}", program("shifter-fixture"));
        let log = root.start_daemon("registry", &serve)?;
        wait_until(&|| answers(registry), &log)?;
        let settings = format!("{BASE}/gateway/imagemanager.json");
        write(&settings, self.gateway_settings(&socket).as_bytes(), 0o644)?;
        let serve =
            format!("{} serve --config {settings} --listen 127.0.0.1:{gateway}", program("shifter-imagegw"));
        let log = root.start_daemon("gateway", &serve)?;
        wait_until(&|| answers(gateway), &log)?;
        Ok(None)
    }

    fn gateway_settings(&self, socket: &str) -> String {
        format!(
            r#"{{"DatabaseURI": "sqlite://{BASE}/gateway/images.db",
"CacheDirectory": "{BASE}/gateway/cache", "ExpandDirectory": "{BASE}/gateway/expand",
"DefaultImageLocation": "fixture", "DefaultImageFormat": "squashfs", "ImageExpirationTimeout": "90:00:00:00",
"PullUpdateTimeout": 60, "WorkerThreads": 2, "LogLevel": "info",
"Locations": {{"fixture": {{"remotetype": "dockerv2", "url": "http://127.0.0.1:{}"}}}},
"Platforms": {{"{SYSTEM}": {{"mungeSocketPath": "{socket}", "accesstype": "local", "admins": ["root"],
"local": {{"imageDir": "{IMAGES}"}}}}}}}}
"#,
            self.registry
        )
    }
}

/// The rows of an image by identifier and by name, and the container that keeps the image on its loop device; pulls it
/// as the ordinary user.
pub(crate) fn rows() -> Result<(Keeper, [Row; 2])> {
    asked("pull")?;
    let id = asked("lookup")?.lines().map(str::trim).find(|line| line.len() == 64).map(str::to_owned);
    let id = id.context("shifterimg lookup named no identifier")?;
    let keeper = Keeper::start(&id, &["/bin/cat"])?;
    let (shifter, by_name) = (program("shifter"), format!("--image={IMAGE}"));
    let row =
        |key, title, image: &str| Row::Measured(Variant::new(key, title, &[&shifter, image, "/bin/true"]));
    let by_id = row("lookup_id", "shifter, pulled image by id:", &of_image(&id));
    Ok((keeper, [by_id, row("lookup", "shifter, the same by name, looked up", &by_name)]))
}

fn asked(what: &str) -> Result<String> {
    let argv = [&program("shifterimg"), what, IMAGE].map(str::to_owned);
    let output = command(&argv).output().context("run shifterimg")?;
    if !output.status.success() {
        bail!("{}: {}", argv.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("shifterimg does not speak UTF-8")
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn wait_until(ready: &dyn Fn() -> bool, log: &str) -> Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            bail!("a daemon is not ready after {PATIENCE:?}; {log} says:\n{said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
