//! One test's machine: made at the start, checked and thrown away at the end.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::accounts::{self, ACCOUNTS};
use super::command::UserCommand;
use super::daemon::{Daemon, DaemonId, Start};
use super::leak::Snapshot;
use super::namespace::{self, BASE, Network, set_mode};

/// The product's programs: directory below the prefix, and mode.
const PROGRAMS: [(&str, &str, u32); 11] = [
    ("shifter", "bin", 0o4755),
    ("shifterimg", "bin", 0o755),
    ("setupRoot", "sbin", 0o755),
    ("unsetupRoot", "sbin", 0o755),
    ("shifter-prologue", "sbin", 0o755),
    ("shifter-epilogue", "sbin", 0o755),
    ("shifter-nhc", "sbin", 0o755),
    ("shifter_slurm_dws_support", "sbin", 0o755),
    ("shifter-imagegw", "sbin", 0o755),
    ("fasthash", "bin", 0o755),
    ("shifter_slurm.so", "lib", 0o755),
];

/// A test's machine. Call [`Sandbox::finish`] at the end: it is the leak check.
#[derive(Debug)]
pub struct Sandbox {
    directory: PathBuf,
    daemons: Vec<Option<Daemon>>,
    before: Snapshot,
    directories: u32,
    openssh: Option<fs::File>,
    address: &'static str,
}

impl Sandbox {
    /// Moves the calling thread into its own mount namespace and installs programs, accounts and configuration.
    ///
    /// Programs come from the directory that the environment variable `SHIFTER_BIN_DIR` names; a test that needs
    /// one which is not there fails when it asks for it.
    pub fn new() -> Result<Self> {
        Self::make(Network::Host)
    }

    /// The same with a network of its own, which [`Sandbox::slurm`] adds nodes to.
    pub fn with_own_network() -> Result<Self> {
        let sandbox = Self::make(Network::Own)?;
        super::slurm::make_network(&sandbox)?;
        Ok(sandbox)
    }

    fn make(network: Network) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let programs = read_programs()?;
        let openssh = std::env::var_os("SHIFTER_BIN_DIR")
            .and_then(|directory| fs::File::open(Path::new(&directory).join("openssh")).ok());
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("become a subreaper")?;
        namespace::enter(network)?;
        let base = Path::new(BASE);
        for name in ["bin", "sbin", "lib", "etc", "udi", "loop"] {
            make_directory(&base.join(name))?;
        }
        for (name, place, mode, content) in programs {
            let path = base.join(place).join(name);
            fs::write(&path, content).with_context(|| format!("install {}", path.display()))?;
            set_mode(&path, mode)?;
        }
        accounts::install()?;
        for account in ACCOUNTS {
            let home = Path::new("/home").join(account.name);
            make_directory(&home)?;
            chown(&home, Some(account.uid), Some(account.gid)).context("give a home to its owner")?;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("sandbox-{}-{number}", std::process::id());
        let directory = base.join(&mark);
        make_directory(&directory)?;
        make_directory(&directory.join("images"))?;
        // The host's own configuration, if it has one, is not the test machine's.
        let _absent_is_fine = fs::remove_dir_all("/etc/shifter");
        make_directory(Path::new("/etc/shifter"))?;
        let before = Snapshot::take(&mark)?;
        let address = match network {
            Network::Host => "127.0.0.1",
            Network::Own => super::slurm::ADDRESS,
        };
        let sandbox = Self { directory, daemons: Vec::new(), before, directories: 0, openssh, address };
        sandbox.write_udiroot(&[])?;
        Ok(sandbox)
    }

    /// The prefix the programs are installed under: `udiRootPath`.
    pub fn prefix(&self) -> &Path {
        Path::new(BASE)
    }

    /// Where this machine's services are found by all that use them.
    pub(super) fn address(&self) -> &'static str {
        self.address
    }

    /// The image directory, `imagePath` of the nodes and `imageDir` of the gateway.
    pub fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// A new directory below the sandbox's own, root's, mode 0755.
    pub fn new_directory(&mut self, name: &str) -> Result<PathBuf> {
        self.directories += 1;
        let path = self.directory.join(format!("{name}-{}", self.directories));
        make_directory(&path)?;
        Ok(path)
    }

    /// An empty file system of so many KiB in a new directory, for tests of full disks. [`Sandbox::remove_disk`]
    /// belongs to it: what is still mounted at the end counts as left behind.
    pub fn small_disk(&mut self, kib: u32) -> Result<PathBuf> {
        let path = self.new_directory("disk")?;
        namespace::tmpfs(&path.display().to_string(), &format!("size={kib}k,mode=0755"))?;
        Ok(path)
    }

    /// Unmounts a disk of [`Sandbox::small_disk`]; fails while anything still uses it.
    pub fn remove_disk(&self, path: &Path) -> Result<()> {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty())
            .with_context(|| format!("unmount {}", path.display()))
    }

    /// The path of an installed program of the product.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = ["bin", "sbin", "lib"]
            .map(|place| self.prefix().join(place).join(name))
            .into_iter()
            .find(|p| p.exists());
        found.with_context(|| {
            format!("{name} is not built: set SHIFTER_BIN_DIR to the directory that has it, or run ./test")
        })
    }

    /// Writes `udiRoot.conf`: the test machine's defaults, with these keys put in their place.
    pub fn write_udiroot(&self, keys: &[(&str, &str)]) -> Result<()> {
        let images = self.images().display().to_string();
        let (udi, loops, etc) = (format!("{BASE}/udi"), format!("{BASE}/loop"), format!("{BASE}/etc"));
        let mut lines = vec![
            ("udiMount", udi.as_str()),
            ("loopMount", loops.as_str()),
            ("imagePath", images.as_str()),
            ("udiRootPath", BASE),
            ("etcPath", etc.as_str()),
            ("rootfsType", "tmpfs"),
            ("siteFs", "/home:/home"),
            ("siteEnv", "SHIFTER_RUNTIME=1"),
            ("populateEtcDynamically", "1"),
            ("allowLibcPwdCalls", "1"),
            ("maxGroupCount", "31"),
            ("defaultImageType", "docker"),
            ("gatewayTimeout", "20"),
        ];
        lines.retain(|(key, _)| !keys.iter().any(|(replaced, _)| replaced == key));
        lines.extend(keys);
        let text: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write("/etc/shifter/udiRoot.conf", text).context("write udiRoot.conf")
    }

    /// A command of an account: `alice`, `bob`, `carol`, `dave`, `gateway`, `registry` or `shifter`.
    pub fn user(&self, name: &str) -> Result<UserCommand> {
        Ok(UserCommand::new(Some(accounts::find(name)?)))
    }

    /// A command of root.
    pub fn root(&self) -> UserCommand {
        UserCommand::new(None)
    }

    /// Stops a daemon by SIGTERM; it must end.
    pub fn stop(&mut self, id: DaemonId) -> Result<()> {
        self.take(id)?.stop().map(|_| ())
    }

    /// Kills a daemon as a crash would.
    pub fn kill(&mut self, id: DaemonId) -> Result<()> {
        self.take(id)?.kill().map(|_| ())
    }

    /// Sends a daemon SIGSTOP or SIGCONT, to make it slow.
    pub fn freeze(&self, id: DaemonId, frozen: bool) -> Result<()> {
        let daemon =
            self.daemons.get(id.0).and_then(Option::as_ref).context("the daemon was stopped already")?;
        daemon.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// The process id of a running daemon.
    pub fn pid(&self, id: DaemonId) -> Result<u32> {
        let daemon = self.daemons.get(id.0).and_then(Option::as_ref);
        Ok(daemon.context("the daemon was stopped already")?.pid())
    }

    /// What a daemon has written so far.
    pub fn log(&self, id: DaemonId) -> String {
        self.daemons.get(id.0).and_then(Option::as_ref).map(Daemon::log_text).unwrap_or_default()
    }

    /// Stops what still runs, newest first, and fails if anything was left behind.
    pub fn finish(mut self) -> Result<()> {
        let mut problems = Vec::new();
        while let Some(daemon) = self.daemons.pop() {
            if let Some(daemon) = daemon
                && let Err(problem) = daemon.stop()
            {
                problems.push(format!("{problem:#}"));
            }
        }
        if let Err(problem) = self.before.compare() {
            problems.push(format!("{problem:#}"));
        }
        if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
    }

    /// The directory of the OpenSSH that was built, opened before the namespace hid it.
    pub(super) fn openssh(&self) -> Option<&fs::File> {
        self.openssh.as_ref()
    }

    /// Where the next daemon's log will be.
    pub(super) fn next_log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{}.log", self.daemons.len()))
    }

    pub(super) fn start_daemon(&mut self, start: &Start<'_>, ready: &dyn Fn() -> bool) -> Result<DaemonId> {
        let log = self.next_log(start.name);
        let mut daemon = Daemon::start(start, &log)?;
        let outcome = daemon.wait_until(ready);
        if outcome.is_err() {
            // It may have ended by itself; the outcome says what happened.
            let _ = daemon.kill();
            outcome?;
            bail!("{} was not ready", start.name);
        }
        self.daemons.push(Some(daemon));
        Ok(DaemonId(self.daemons.len() - 1))
    }

    pub(super) fn find_program(&self, name: &str) -> Option<PathBuf> {
        let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        places.map(|place| Path::new(place).join(name)).into_iter().find(|path| path.is_file())
    }

    fn take(&mut self, id: DaemonId) -> Result<Daemon> {
        self.daemons.get_mut(id.0).and_then(Option::take).context("the daemon was stopped already")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        while let Some(daemon) = self.daemons.pop() {
            let Some(daemon) = daemon else { continue };
            if failing {
                eprintln!("--- log of {} ---\n{}", daemon.name, daemon.log_text());
            }
            // Only reached when a test has failed already; that failure is the one to report.
            let _ = daemon.kill();
        }
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
    set_mode(path, 0o755)
}

type Installed = (&'static str, &'static str, u32, Vec<u8>);

/// Reads the programs before the namespace hides where they lie.
fn read_programs() -> Result<Vec<Installed>> {
    let Some(directory) = std::env::var_os("SHIFTER_BIN_DIR").map(PathBuf::from) else {
        return Ok(Vec::new());
    };
    let mut programs = Vec::new();
    for (name, place, mode) in PROGRAMS {
        let path = directory.join(name);
        if fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0) {
            let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            programs.push((name, place, mode, content));
        }
    }
    if programs.is_empty() {
        bail!("SHIFTER_BIN_DIR={} has none of Shifter's programs", directory.display());
    }
    Ok(programs)
}
