//! Real servers for tests, each in a directory of its own and gone with its value: PostgreSQL on a unix
//! socket, and `tools/mongowire.py`, which speaks MongoDB's protocol. A server that is missing fails
//! the test, with what to install.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor};
use tempfile::TempDir;

use crate::catalog::Place;

/// A server, or SQLite's directory. `place` gives a catalog's place that was not used before.
pub(crate) enum Server {
    Sqlite(TempDir),
    Postgres {
        dir: TempDir,
        child: Option<Child>,
    },
    Mongo {
        dir: TempDir,
        child: Option<Child>,
        port: u16,
    },
    /// A real one, that `SHIFTER_TEST_MONGODB_URI` names.
    GivenMongo(String),
}

impl Server {
    pub(crate) fn sqlite() -> Server {
        Server::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Server {
        let dir = tempfile::tempdir().unwrap();
        // The server refuses root, which the tests may run as.
        std::os::unix::fs::chown(dir.path(), is_root().then_some(NOBODY), is_root().then_some(NOBODY))
            .unwrap();
        let data = dir.path().join("data");
        let init = as_nobody(&program("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=shifter", "--encoding=UTF8", "--locale=C"])
            .arg("--pgdata")
            .arg(data)
            .output()
            .unwrap();
        assert!(init.status.success(), "initdb: {}", String::from_utf8_lossy(&init.stderr));
        let mut server = Server::Postgres { dir, child: None };
        server.start();
        server
    }

    pub(crate) fn mongo() -> Server {
        if let Ok(uri) = std::env::var("SHIFTER_TEST_MONGODB_URI") {
            return Server::GivenMongo(uri);
        }
        let mut server = Server::Mongo { dir: tempfile::tempdir().unwrap(), child: None, port: 0 };
        server.start();
        server
    }

    /// Each of the three kinds.
    pub(crate) fn all() -> [Server; 3] {
        [Server::sqlite(), Server::postgres(), Server::mongo()]
    }

    /// A place for a new catalog, on servers an empty database.
    pub(crate) async fn place(&self) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("c{}_{number}", std::process::id());
        match self {
            Server::Sqlite(dir) => Place::Sqlite(dir.path().join(format!("{name} %?#.db"))),
            Server::Postgres { dir, .. } => {
                let mut connection =
                    sqlx::PgConnection::connect(&postgres_uri(dir.path(), "postgres")).await.unwrap();
                let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
                connection.execute(create).await.unwrap();
                Place::Postgres(postgres_uri(dir.path(), &name))
            }
            Server::Mongo { port, .. } => {
                Place::Mongo { uri: format!("mongodb://127.0.0.1:{port}/"), database: name }
            }
            Server::GivenMongo(uri) => {
                Place::Mongo { uri: uri.clone(), database: format!("shifter_test_{name}") }
            }
        }
    }

    /// Starts a stopped server with what it held.
    pub(crate) fn start(&mut self) {
        let begun = Instant::now();
        match self {
            Server::Postgres { dir, child } => {
                let log = std::fs::File::create(dir.path().join("log")).unwrap();
                let started = as_nobody(&program("postgres"))
                    .arg("-D")
                    .arg(dir.path().join("data"))
                    .arg("-k")
                    .arg(dir.path())
                    .args(["-c", "listen_addresses=", "-c", "fsync=off"])
                    .stdout(Stdio::null())
                    .stderr(log)
                    .spawn();
                *child = Some(started.unwrap());
                let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
                while !log().contains("ready to accept connections") {
                    assert!(begun.elapsed() < Duration::from_secs(30), "{}", log());
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Server::Mongo { dir, child, port } => {
                let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/mongowire.py");
                let python = std::env::var("SHIFTER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
                let mut started = dying_with_us(Path::new(&python))
                    .arg(tool)
                    .args(["--port", &port.to_string(), "--state"])
                    .arg(dir.path().join("state"))
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut line = String::new();
                BufReader::new(started.stdout.take().unwrap()).read_line(&mut line).unwrap();
                *child = Some(started);
                *port = line.trim().strip_prefix("listening on ").and_then(|port| port.parse().ok()).expect(
                    "mongowire.py did not start; it needs the Python packages mongomock and pymongo, in the Python \
                     that SHIFTER_TEST_PYTHON names, as ./test sets it up",
                );
            }
            Server::Sqlite(_) | Server::GivenMongo(_) => {}
        }
    }

    /// Has the server accept and answer nothing any more, or go on. False where that is not ours to do.
    pub(crate) fn freeze(&self, is_frozen: bool) -> bool {
        let (Server::Postgres { child: Some(child), .. } | Server::Mongo { child: Some(child), .. }) = self
        else {
            return false;
        };
        let pid = child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let signal = if is_frozen { "-STOP" } else { "-CONT" };
        let pids =
            children.split_whitespace().map(str::to_owned).chain([pid.to_string()]).collect::<Vec<_>>();
        assert!(Command::new("kill").arg(signal).args(&pids).status().unwrap().success());
        // Until one thread has noticed, the others go on.
        let begun = Instant::now();
        while is_frozen && !pids.iter().all(|pid| is_stopped(pid)) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{pids:?} are not stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Stops the server; what it holds stays. False where that is not ours to do.
    pub(crate) fn stop(&mut self) -> bool {
        let (child, signal) = match self {
            // Immediately, as a crash.
            Server::Postgres { child, .. } => (child, "QUIT"),
            Server::Mongo { child, .. } => (child, "TERM"),
            Server::Sqlite(_) | Server::GivenMongo(_) => return false,
        };
        if let Some(mut child) = child.take() {
            let pid = child.id().to_string();
            // A frozen one would not hear of its end.
            for signal in [signal, "CONT"] {
                assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
            }
            child.wait().unwrap();
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

const NOBODY: u32 = 65534;

/// Whether each thread of a process is stopped, or gone: proc_pid_stat(5), the third field.
fn is_stopped(pid: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.all(|stat| stat.rsplit_once(") ").unwrap().1.starts_with(['T', 'Z', 'X']))
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn postgres_uri(dir: &Path, database: &str) -> String {
    format!("postgres:///{database}?host={}&user=shifter", dir.display())
}

/// In PATH, or where Debian and Red Hat keep what is not for everybody.
fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = path.split(':').map(PathBuf::from).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.map(|version| version.unwrap().path().join("bin")));
    }
    places.extend(["/usr/pgsql/bin".into()]);
    let found = places.iter().map(|place| place.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("there is no {name}: install PostgreSQL's server (package postgresql)"))
}

/// A command that is killed when the test's thread ends, however that is.
fn dying_with_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL").arg(program).stdin(Stdio::null());
    command
}

fn as_nobody(program: &Path) -> Command {
    if !is_root() {
        return dying_with_us(program);
    }
    let mut command = Command::new("setpriv");
    // Its own children die with their postmaster.
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=QUIT"]).arg(program);
    command.stdin(Stdio::null()).current_dir("/");
    command
}
