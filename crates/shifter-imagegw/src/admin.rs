//! The administrators' socket of a running gateway: one line of JSON asks, one answers.
//!
//! Only root and the gateway's own account are heard, whatever the socket's mode says; the kernel tells who connects.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::backup::backup;
use crate::convert::chain;
use crate::http::Service;
use crate::live::Live;
use crate::reconcile::{self, Orders, Scope};

/// Longest question, bytes.
const LONGEST: u64 = 64 << 10;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    Ready,
    Backup { file: PathBuf },
    Reconcile(Orders),
}

/// What is said: lines to print, and whether all is well.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) lines: Vec<String>,
    pub(crate) is_well: bool,
}

/// What the socket's server works with.
pub(crate) struct Desk {
    pub(crate) service: Arc<Service>,
    pub(crate) config: Live,
    pub(crate) gateway_uid: u32,
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: UnixListener, desk: Arc<Desk>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(attend(stream, desk.clone()))),
            Err(error) => {
                tracing::warn!(%error, "accepting an administrator's connection failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn attend(mut stream: UnixStream, desk: Arc<Desk>) {
    let peer = stream.peer_cred().map(|peer| peer.uid()).ok();
    let Some(peer) = peer.filter(|uid| *uid == 0 || *uid == desk.gateway_uid) else {
        return tracing::warn!(uid = peer, "somebody else connected to the administrators' socket");
    };
    let mut line = String::new();
    let mut input = tokio::io::BufReader::new((&mut stream).take(LONGEST));
    if input.read_line(&mut line).await.is_err() {
        return;
    }
    drop(input);
    let answer = match serde_json::from_str(&line) {
        Ok(question) => {
            tracing::info!(uid = peer, ?question, "an administrator asks");
            desk.answer(&question, peer).await.unwrap_or_else(|error| failed(&error))
        }
        Err(error) => failed(&anyhow::anyhow!("the question was not understood: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
    bytes.push(b'\n');
    if let Err(error) = stream.write_all(&bytes).await {
        tracing::warn!(%error, "answering an administrator failed");
    }
}

fn failed(error: &anyhow::Error) -> Answer {
    Answer { lines: vec![chain(&**error)], is_well: false }
}

impl Desk {
    async fn answer(&self, question: &Question, asker: u32) -> anyhow::Result<Answer> {
        let api = &self.service.api;
        Ok(match question {
            Question::Ready => {
                let found = self.service.probes.readiness.get().await;
                Answer { lines: found.sentences().cloned().collect(), is_well: found.is_ready() }
            }
            Question::Backup { file } => {
                backup(&*api.catalog, file).await?;
                Answer { lines: Vec::new(), is_well: true }
            }
            Question::Reconcile(orders) => {
                let scope = Scope {
                    config: self.config.now(),
                    catalog: &*api.catalog,
                    gateway_uid: self.gateway_uid,
                    asker,
                    puller: Some(api.jobs.puller()),
                };
                reconcile::run(&scope, orders).await?
            }
        })
    }
}

/// Asks the gateway that listens there; none if none does.
pub(crate) fn ask(socket: &Path, question: &Question) -> anyhow::Result<Option<Answer>> {
    let mut stream = match Blocking::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("reaching the gateway by {} failed", socket.display()));
        }
    };
    let asking = || format!("asking the gateway by {} failed", socket.display());
    let mut bytes = serde_json::to_vec(question)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).with_context(asking)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).with_context(asking)?;
    if line.is_empty() {
        anyhow::bail!("the gateway hung up; only root and its own account are heard, and its log says more");
    }
    serde_json::from_str(&line).with_context(asking).map(Some)
}
