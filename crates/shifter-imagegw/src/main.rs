//! The image gateway: pulls container images from registries and publishes them for the nodes.
//!
//! `serve` is the daemon, `check-config` tells what is wrong with its configuration, and hidden ones are the child
//! processes that work on untrusted bytes. Everything else is asked by HTTP.

mod accounts;
mod acl;
mod admin;
mod api;
mod audit;
mod auth;
mod backup;
mod catalog;
mod checking;
mod commands;
mod config;
mod confine;
mod convert;
mod erofs;
mod examine;
mod filter;
mod front;
mod handlers;
mod health;
mod host;
mod http;
mod import;
mod jobs;
mod keeper;
mod listed;
mod listen;
mod live;
mod locks;
mod login;
mod model;
mod notify;
mod offspring;
mod openapi;
mod patient;
mod progress;
mod prometheus;
mod publish;
mod pull;
mod reconcile;
mod reload;
mod route;
mod routes;
mod seal;
mod serve;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
mod unpack;
mod uses;
mod waiting;
mod whole;
mod worker;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::audit::{AuditLog, Flush};
use crate::catalog::{Place, Source};
use crate::config::{Config, Endpoint, Environment, keys_reference};

/// Image gateway of Shifter.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(Serve),
    /// Work on the pulls of gateways that run elsewhere, on the same catalog.
    Worker(Worker),
    /// Check a configuration and say everything that is wrong with it.
    CheckConfig(CheckConfig),
    /// Compare the catalog with the image directories; repair either.
    Reconcile(commands::Reconcile),
    /// Copy the catalog while it is served.
    Backup(commands::Backup),
    /// Say what the running gateway lacks to be ready.
    Ready(commands::Ready),
    /// Copy the catalog into another database.
    Migrate(Migrate),
    /// The converter process; started by serve.
    #[command(hide = true)]
    Convert,
    /// The process that runs mkfs.erofs; started by serve.
    #[command(hide = true)]
    Erofs,
    /// The process that reads a user's image and writes it anew; started by serve.
    #[command(hide = true)]
    Rewrite,
    /// The process that makes an archive of a user's EROFS image; started by serve.
    #[command(hide = true)]
    UnpackErofs,
    /// The process that unpacks an image for another program; started by serve.
    #[command(hide = true)]
    Unpack,
    /// The process that runs a site's examiner; started by serve.
    #[command(hide = true)]
    Examine,
    /// A process as confined as convert that tries what it must not do; started by serve and check-config.
    #[command(hide = true)]
    Probe,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    config: ConfigPath,
    /// ADDRESS:PORT or unix:/PATH to listen on, instead of the key Listen; may be given several times.
    #[arg(long, value_parser = Endpoint::parse)]
    listen: Vec<Endpoint>,
}

/// The catalog must be in PostgreSQL or MongoDB, and the image directories mounted here. Registry credentials reach a
/// worker by the key in SealKeyFile.
#[derive(Args)]
struct Worker {
    #[command(flatten)]
    config: ConfigPath,
    /// A system to work for; may be given several times. Without it, all that are configured.
    #[arg(long, value_name = "NAME")]
    system: Vec<String>,
    /// Instead of WorkerThreads, which is 4 here where it is 0.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

#[derive(Args)]
struct CheckConfig {
    #[command(flatten)]
    config: ConfigPath,
    /// Print all keys with defaults and meanings instead.
    #[arg(long)]
    keys: bool,
}

/// Copies images, tags and grants; pulls under way are not copied. What the target has stays, and of two
/// versions of a thing the later one counts, so it may be run any number of times.
#[derive(Args)]
struct Migrate {
    /// sqlite:///FILE, postgres://HOST/DATABASE, mongodb://HOST/DATABASE, or a file that mongoexport
    /// made of an original gateway's collection images.
    #[arg(long, value_name = "URI")]
    from: String,
    /// sqlite:///FILE, postgres://HOST/DATABASE or mongodb://HOST/DATABASE.
    #[arg(long, value_name = "URI")]
    to: String,
    /// Write nothing, say what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl Migrate {
    fn source(&self) -> anyhow::Result<Source> {
        if !self.from.contains("://") {
            return Ok(Source::Exported(PathBuf::from(&self.from)));
        }
        Ok(Source::Place(Place::parse(&self.from, None).context("--from cannot be used")?))
    }
}

#[derive(Args)]
struct ConfigPath {
    /// imagemanager.json; else the file that GWCONFIG names, else the one beside udiRoot.conf.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigPath {
    fn get(&self) -> PathBuf {
        let named = || std::env::var_os("GWCONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let default = || Path::new(shifter_core::paths::SYSCONFDIR).join("imagemanager.json");
        self.config.clone().or_else(named).unwrap_or_else(default)
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Worker(arguments) => worker(&arguments),
        Command::CheckConfig(arguments) => check_config(&arguments),
        Command::Reconcile(arguments) => arguments.run(),
        Command::Backup(arguments) => arguments.run(),
        Command::Ready(arguments) => arguments.run(),
        Command::Migrate(arguments) => migrate(&arguments),
        Command::Convert => return ExitCode::from(convert::child()),
        Command::Unpack => return ExitCode::from(unpack::child()),
        Command::UnpackErofs => return ExitCode::from(import::erofs::child()),
        Command::Rewrite => return ExitCode::from(import::child()),
        Command::Erofs => return ExitCode::from(erofs::child()),
        Command::Examine => return ExitCode::from(examine::child()),
        Command::Probe => convert::probe(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shifter-imagegw: {}", convert::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn load(path: &Path) -> anyhow::Result<(Config, Vec<String>)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {} failed", path.display()))?;
    let (mut config, warnings) =
        Config::parse(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    if let Some(examiner) = &mut config.examiner {
        examiner.configuration = path.to_owned();
    }
    config.file = Some(std::path::absolute(path).context("the configuration's name cannot be used")?);
    config.environment = Environment::read(|name| std::env::var_os(name));
    Ok((config, warnings))
}

/// Begins to log; the first value changes the level, and the audit log is whole when the second one is dropped.
/// `RUST_LOG` overrules the configuration.
fn start_log(config: &Config) -> anyhow::Result<(reload::SetLevel, Option<Flush>)> {
    // In its own file, the audit log does not depend on the level.
    let has_file = config.audit_log.is_some();
    // sqlx logs statements at debug level; they hold names of private images.
    let filter = move |level: &str| {
        let audit = if has_file { "off" } else { level };
        EnvFilter::try_from_default_env().or_else(|_| {
            EnvFilter::try_new(format!(
                "warn,shifter_imagegw={level},shifter_registry={level},access={level},audit={audit}"
            ))
        })
    };
    let (audit_log, flush) = match &config.audit_log {
        Some(path) => {
            let opened = AuditLog::open(path);
            let opened = opened.with_context(|| format!("opening AuditLog {} failed", path.display()))?;
            (Some(opened.0), Some(opened.1))
        }
        None => (None, None),
    };
    let is_audit = filter_fn(|metadata| metadata.target() == audit::TARGET);
    let first = filter(config.log_level.unwrap_or("info"))?;
    let (first, handle) = tracing_subscriber::reload::Layer::new(first);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = if config.doors.logs_json { log.json().boxed() } else { log.boxed() };
    tracing_subscriber::registry().with(log.with_filter(first)).with(audit_log.with_filter(is_audit)).init();
    Ok((Box::new(move |level| Ok(handle.reload(filter(level)?)?)), flush))
}

/// Loads the configuration of a daemon and begins to log as it says.
fn begin(path: &Path) -> anyhow::Result<(Config, reload::SetLevel, Option<Flush>)> {
    let (config, warnings) = load(path)?;
    let (set_level, flush) = start_log(&config)?;
    for warning in warnings {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    for opening in config.openings() {
        tracing::warn!("{opening}");
    }
    Ok((config, set_level, flush))
}

fn serve(arguments: &Serve) -> anyhow::Result<()> {
    let path = arguments.config.get();
    let (config, set_level, _flush) = begin(&path)?;
    run(serve::serve(config, path, &arguments.listen, set_level))
}

fn worker(arguments: &Worker) -> anyhow::Result<()> {
    let path = arguments.config.get();
    let (config, set_level, _flush) = begin(&path)?;
    run(worker::work(config, path, &arguments.system, arguments.threads, set_level))
}

fn run(daemon: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(daemon);
    // Blocking work that is still going (a copy, a lookup) does not keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

fn migrate(arguments: &Migrate) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let source = arguments.source()?;
    let target = Place::parse(&arguments.to, None).context("--to cannot be used")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(catalog::migrate(&source, &target, arguments.dry_run))?;
    if outcome.merged > 0 {
        println!(
            "{} documents stood for an image that another stood for, too; they count once",
            outcome.merged
        );
    }
    println!(
        "{} images {}, {} brought up to date, {} were the same",
        outcome.new,
        if arguments.dry_run { "would be copied" } else { "copied" },
        outcome.changed,
        outcome.unchanged
    );
    println!(
        "with {} expired ones that may be restored and {} changes of tags",
        outcome.retired, outcome.meanings
    );
    println!("pulls under way and lookups that were counted (metrics) are not copied");
    if let (Place::Sqlite(path), false) = (&target, arguments.dry_run)
        && std::fs::symlink_metadata(path).is_ok_and(|found| found.uid() == 0)
    {
        // Not done for them: in a directory of another's, root would be led to any file.
        let path = path.display();
        println!("{path} is root's; give it to the gateway's account: chown ACCOUNT: '{path}'*");
    }
    Ok(())
}

fn check_config(arguments: &CheckConfig) -> anyhow::Result<()> {
    if arguments.keys {
        print!("{}", keys_reference());
        return Ok(());
    }
    let path = arguments.config.get();
    let (config, warnings) = load(&path)?;
    let text = std::fs::read_to_string(&path)?;
    let opened = checking::opened(&text, &config);
    for warning in warnings.iter().chain(&checking::doubts(&config)).chain(&opened) {
        eprintln!("shifter-imagegw: warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(doubt) = runtime.block_on(checking::doubt_of_database(&config.database)) {
        eprintln!("shifter-imagegw: warning: {doubt}");
    }
    let problems = checking::problems(&config);
    if !problems.is_empty() {
        anyhow::bail!("{} cannot be served:\n{}", path.display(), problems.join("\n"));
    }
    // Tried as whoever asks, who may be allowed another thing than the gateway's account.
    for gap in runtime.block_on(async { convert::Converter::find().await?.gaps().await })? {
        eprintln!("shifter-imagegw: warning: {gap}");
    }
    println!("{} is in order", path.display());
    Ok(())
}

#[cfg(test)]
mod command_line {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn listen(words: &[&str]) -> Option<Vec<String>> {
        match Cli::try_parse_from([&["shifter-imagegw"], words].concat()).ok()?.command {
            Command::Serve(serve) => Some(serve.listen.iter().map(Endpoint::to_string).collect()),
            _ => None,
        }
    }

    #[test]
    fn addresses_and_sockets_of_the_command_line_are_read_or_refused() {
        for (words, expected) in [
            (&["serve"][..], Some(&[][..])),
            (
                &["serve", "--listen", "127.0.0.1:8000", "--listen", "[::1]:8000"],
                Some(&["127.0.0.1:8000", "[::1]:8000"]),
            ),
            (&["serve", "--listen", "unix:/run/gw.sock"], Some(&["unix:/run/gw.sock"])),
            (&["serve", "--listen", "unix:gw.sock"], None),
            (&["serve", "--listen", "localhost"], None),
        ] {
            let expected = expected.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
            assert_eq!(listen(words), expected, "{words:?}");
        }
    }
}
