//! The administrators' subcommands `reconcile`, `backup` and `ready`: asked of the running gateway where there is one,
//! done here otherwise.
//!
//! Exit status: 0 all is well, 1 it is not (something was found and left, or could not be done), 2 wrong words.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::admin::{self, Answer, Question};
use crate::audit::AuditLog;
use crate::backup::{backup, other_tool};
use crate::catalog::{self, Place, Purpose};
use crate::config::Config;
use crate::reconcile::{self, Orders, Scope};
use crate::{ConfigPath, load, serve};

/// Compares the catalog with the image directories: images that are only in one of them, files of another size, access
/// lists that differ, leftovers. Nothing is changed unless --fix or --rebuild is given.
#[derive(Args)]
pub(crate) struct Reconcile {
    #[command(flatten)]
    config: ConfigPath,
    /// Take away what is broken or unknown to the catalog, and write .meta files anew.
    #[arg(long)]
    fix: bool,
    /// Enter images that only the directory knows, from their .meta files: for a catalog that was lost.
    #[arg(long)]
    rebuild: bool,
    /// Only this system.
    #[arg(long, value_name = "NAME")]
    system: Option<String>,
}

/// Copies an SQLite catalog, also while it is served. To restore: stop the gateway, put the copy in the catalog's
/// place, remove the files beside it that end in -wal and -shm, start.
#[derive(Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    config: ConfigPath,
    /// Must not exist; written by the gateway's account, mode 0600.
    file: PathBuf,
}

/// Says what a running gateway lacks to be ready, with paths.
#[derive(Args)]
pub(crate) struct Ready {
    #[command(flatten)]
    config: ConfigPath,
}

impl Reconcile {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = load(&self.config.get())?.0;
        let orders = Orders { fix: self.fix, rebuild: self.rebuild, system: self.system };
        if let Some(answer) = running(&config, &Question::Reconcile(orders.clone()))? {
            return told(answer);
        }
        if let (true, Place::Sqlite(file)) = (orders.rebuild, &config.database)
            && !file.exists()
        {
            bail!(
                "there is no catalog {}; start the gateway, which makes an empty one, and then rebuild",
                file.display()
            );
        }
        wait_for(config.audit_log.as_deref(), async {
            let catalog = open(&config).await?;
            let gateway_uid = serve::own_uid()?;
            let scope =
                Scope { config: &config, catalog: &*catalog, gateway_uid, asker: gateway_uid, puller: None };
            let answer = reconcile::run(&scope, &orders).await;
            catalog.close().await;
            told(answer?)
        })
    }
}

impl Backup {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = load(&self.config.get())?.0;
        if let Some(sentence) = other_tool(&config.database) {
            bail!("{sentence}");
        }
        let file = std::path::absolute(&self.file).context("the file's name cannot be used")?;
        let answer = match running(&config, &Question::Backup { file: file.clone() })? {
            Some(answer) => answer,
            None => wait_for(None, async {
                let catalog = open(&config).await?;
                let made = backup(&*catalog, &file).await;
                catalog.close().await;
                made.map(|()| Answer { lines: Vec::new(), is_well: true })
            })?,
        };
        let is_well = answer.is_well;
        told(answer).context("the backup failed")?;
        if is_well {
            println!("{} holds the catalog as it is now", file.display());
        }
        Ok(())
    }
}

impl Ready {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = load(&self.config.get())?.0;
        match running(&config, &Question::Ready)? {
            Some(answer) => {
                if answer.is_well {
                    println!("ready");
                }
                told(answer)
            }
            None => match &config.doors.admin_socket {
                Some((socket, _)) => bail!("no gateway listens on {}", socket.display()),
                None => {
                    bail!("AdminSocket is not set, by which a gateway is asked; set it, or ask for /readyz")
                }
            },
        }
    }
}

fn running(config: &Config, question: &Question) -> anyhow::Result<Option<Answer>> {
    match &config.doors.admin_socket {
        Some((socket, _)) => admin::ask(socket, question),
        None => Ok(None),
    }
}

/// Prints what was said; an error without words of its own if all is not well.
fn told(answer: Answer) -> anyhow::Result<()> {
    let Answer { mut lines, is_well } = answer;
    let last = if is_well { None } else { lines.pop() };
    for line in lines {
        println!("{line}");
    }
    match last {
        Some(last) => bail!("{last}"),
        None if !is_well => bail!("it is not well, and the gateway's log says why"),
        None => Ok(()),
    }
}

async fn open(config: &Config) -> anyhow::Result<std::sync::Arc<dyn catalog::Catalog>> {
    let missing = || anyhow::anyhow!("there is no catalog at {} yet", config.database);
    catalog::open(&config.database, Purpose::Look).await?.ok_or_else(missing)
}

/// Does it here, with warnings on stderr and decisions in the audit log's file, where there is one.
fn wait_for<T>(audit_log: Option<&Path>, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let opened = audit_log.map(|path| {
        AuditLog::open(path).with_context(|| format!("opening AuditLog {} failed", path.display()))
    });
    let (audit_log, _flush) = opened.transpose()?.unzip();
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(log.with_filter(EnvFilter::new("warn"))).with(audit_log).init();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
