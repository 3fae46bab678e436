//! A real PostgreSQL on a unix socket, that a test may crash and start again; or by TCP with a password.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::accounts;
use super::daemon::{DaemonId, Start, free_port};
use super::sandbox::Sandbox;

/// A running server with one empty database.
#[derive(Debug, Clone)]
pub struct Postgres {
    daemon: DaemonId,
    directory: PathBuf,
    program: PathBuf,
    /// Where it listens beside its socket.
    port: Option<u16>,
    /// For `DatabaseURI`.
    pub uri: String,
}

impl Sandbox {
    /// Makes a server and starts it.
    pub fn postgres(&mut self) -> Result<Postgres> {
        self.make_postgres(None)
    }

    /// The same on the loopback address, where this password is asked for.
    pub fn postgres_by_password(&mut self, password: &str) -> Result<Postgres> {
        self.make_postgres(Some(password))
    }

    fn make_postgres(&mut self, password: Option<&str>) -> Result<Postgres> {
        let directory = self.new_directory("postgres")?;
        let account = accounts::find("registry")?;
        chown(&directory, Some(account.uid), Some(account.gid)).context("give a directory to PostgreSQL")?;
        let program = |name: &str| {
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let mut places = versions.map(|version| version.path().join("bin").join(name));
            let found = places.find(|path| path.is_file()).or_else(|| self.find_program(name));
            found.with_context(|| {
                format!("there is no {name}: install PostgreSQL's server (package postgresql)")
            })
        };
        let (init, server) = (program("initdb")?.display().to_string(), program("postgres")?);
        let data = directory.join("data").display().to_string();
        let fixed = ["--no-sync", "--username=shifter", "--encoding=UTF8", "--locale=C"];
        let mut words = [&[init.as_str()], &fixed[..], &["--pgdata", &data]].concat();
        let file = directory.join("password");
        let file_word = format!("--pwfile={}", file.display());
        if let Some(password) = password {
            fs::write(&file, password).context("write the database's password")?;
            words.extend(["--auth=scram-sha-256", &file_word]);
        } else {
            words.push("--auth=trust");
        }
        self.user("registry")?.run(&words)?.success()?;
        let port = password.map(|_| free_port()).transpose()?;
        let daemon = self.start_postgres(&directory, &server, port)?;
        let uri = match (port, password) {
            (Some(port), Some(password)) => {
                format!("postgres://shifter:{}@127.0.0.1:{port}/postgres", percent_encoded(password))
            }
            _ => format!("postgres:///postgres?host={}&user=shifter", directory.display()),
        };
        Ok(Postgres { daemon, directory, program: server, port, uri })
    }

    /// Crashes the server: its connections end at once, and it recovers at its next start.
    pub fn crash_postgres(&mut self, postgres: &Postgres) -> Result<()> {
        // To the postmaster it means: end now, without a checkpoint, and take the other processes along.
        self.end_postgres(postgres, "-QUIT")
    }

    /// Stops the server, whoever is connected: SIGTERM would wait for them.
    pub fn stop_postgres(&mut self, postgres: &Postgres) -> Result<()> {
        self.end_postgres(postgres, "-INT")
    }

    fn end_postgres(&mut self, postgres: &Postgres, signal: &str) -> Result<()> {
        let pid = self.pid(postgres.daemon)?.to_string();
        self.root().run(&["kill", signal, &pid])?.success()?;
        self.stop(postgres.daemon)
    }

    /// Starts a crashed server.
    pub fn restart_postgres(&mut self, postgres: &mut Postgres) -> Result<()> {
        let (directory, program) = (postgres.directory.clone(), postgres.program.clone());
        postgres.daemon = self.start_postgres(&directory, &program, postgres.port)?;
        Ok(())
    }

    fn start_postgres(&mut self, directory: &Path, program: &Path, port: Option<u16>) -> Result<DaemonId> {
        let account = accounts::find("registry")?;
        let (program, place) = (program.display().to_string(), directory.display().to_string());
        let data = directory.join("data").display().to_string();
        // Shared memory in files of its own, which go with the directory.
        let listen = match port {
            Some(port) => ["listen_addresses=127.0.0.1".to_owned(), format!("port={port}")],
            None => ["listen_addresses=".to_owned(), "port=5432".to_owned()],
        };
        let quiet = ["fsync=off", "max_connections=300", "dynamic_shared_memory_type=mmap"];
        let settings = listen.iter().map(String::as_str).chain(quiet);
        let quiet: Vec<&str> = settings.flat_map(|setting| ["-c", setting]).collect();
        let words = [&[program.as_str(), "-D", &data, "-k", &place], &quiet[..]].concat();
        let start =
            Start { name: "postgres", words: &words, ids: (account.uid, account.gid), environment: &[] };
        // The last line of this file says so once connections are taken (pg_ctl waits for the same).
        let state = directory.join("data/postmaster.pid");
        let ready = move || fs::read_to_string(&state).is_ok_and(|text| text.trim_end().ends_with("ready"));
        self.start_daemon(&start, &ready)
    }
}

/// As a URI wants what it does not mean.
fn percent_encoded(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escaped).collect()
}
