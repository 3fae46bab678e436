//! Accepting connections with limits: how many at a time, how long a request's head may take, how
//! large it may be. Whoever opens connections and says nothing costs a slot for some seconds only, and none that
//! another needs ([`places`]).
//!
//! Addresses, with TLS or without, and unix sockets are the same from here on. Own, because the
//! framework's ready-made server has none of these limits.

mod places;

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

pub(crate) use self::places::Arrival;
use self::places::{Peer, Place, Places};
use crate::config::Endpoint;
use crate::patient::Patient;
use crate::tls::Tls;

/// What one listener puts up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; more wait in the kernel's queue while all are being answered.
    pub(crate) connections: usize,
    /// Time for a request's head to arrive, and for an open connection to stay without a request.
    pub(crate) head_timeout: Duration,
    /// Bytes of a request's head; a credential with many registry passwords must fit.
    pub(crate) head_bytes: usize,
    /// Lines of a request's head.
    pub(crate) head_lines: usize,
    /// Time for which a client may take nothing of its answer.
    pub(crate) answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // Most of them may belong to clients that wait for a pull.
            connections: 4096,
            head_timeout: Duration::from_secs(20),
            head_bytes: 512 << 10,
            head_lines: 100,
            answer_timeout: Duration::from_secs(60),
        }
    }
}

/// Something that takes connections.
pub(crate) enum Listener {
    Tcp(TcpListener, Option<Tls>),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener::Tcp(listener, None)
    }
}

/// A connection before its TLS handshake, which must not hold up the next one.
enum Raw {
    Tcp(TcpStream, Option<Tls>),
    Unix(UnixStream),
}

/// What HTTP is spoken over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Listener {
    /// Begins to listen. Everybody may connect to a unix socket, as to an address; its directory can say otherwise.
    pub(crate) async fn bind(endpoint: &Endpoint, tls: Option<&Tls>) -> anyhow::Result<Listener> {
        match endpoint {
            Endpoint::Tcp(address) => TcpListener::bind(address)
                .await
                .map(|listener| Listener::Tcp(listener, tls.cloned()))
                .with_context(|| format!("listening on {address} failed")),
            Endpoint::Unix(path) => {
                let (listener, _file) = bind_unix(path, 0o666)?;
                Ok(Listener::Unix { listener, _file })
            }
        }
    }

    async fn accept(&self) -> io::Result<(Raw, Peer)> {
        match self {
            Listener::Tcp(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                Ok((Raw::Tcp(stream, tls.clone()), Peer::at(address.ip())))
            }
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::User(stream.peer_cred()?.uid());
                Ok((Raw::Unix(stream), peer))
            }
        }
    }
}

impl Raw {
    async fn ready(self) -> io::Result<Box<dyn Wire>> {
        Ok(match self {
            Raw::Tcp(stream, None) => Box::new(stream),
            Raw::Tcp(stream, Some(tls)) => Box::new(tls.accept(stream).await?),
            Raw::Unix(stream) => Box::new(stream),
        })
    }
}

/// A socket's name, removed with its value.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens on a unix socket of this mode. One that a dead process left is replaced, a living one's is not.
pub(crate) fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, SocketFile)> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let answer = || std::os::unix::net::UnixStream::connect(path).map_err(|error| error.kind());
    if is_socket && answer().err() == Some(io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)
            .with_context(|| format!("removing the socket {} of a dead process failed", path.display()))?;
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("listening on the socket {} failed", path.display()))?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of the socket {} failed", path.display()))?;
    Ok((listener, file))
}

/// Serves until `stop` becomes true, then finishes the answers under way.
pub(crate) async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    mut stop: watch::Receiver<bool>,
    limits: Limits,
) {
    let listener = listener.into();
    let places = Places::new(limits.connections);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let (stream, peer) = listener.accept().await?;
            io::Result::Ok((stream, places.take(peer).await))
        };
        let accepted = tokio::select! {
            () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
            accepted = accepted => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (watcher, router) = (graceful.watcher(), router.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = talk(stream, &place, router, watcher, limits) => {}
                () = place.told_to_leave() => tracing::debug!("a connection was closed for another one"),
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// One connection from its first byte to its last.
async fn talk(stream: Raw, place: &Place, router: Router, watcher: Watcher, limits: Limits) {
    let stream = match tokio::time::timeout(limits.head_timeout, stream.ready()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let (router, arrival) = (TowerToHyperService::new(router), place.arrival.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(arrival.clone());
        let (answer, arrival) = (router.call(request), arrival.clone());
        async move {
            let answer = answer.await;
            arrival.is_over();
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Who has nothing more to say may still want to hear.
        .half_close(true)
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.head_lines)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.answer_timeout)), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests;
