//! Accepting connections with limits: how many at a time, how long a request's head may take, how
//! large it may be. Whoever opens connections and says nothing costs a slot for some seconds only.
//!
//! Own, because the framework's ready-made server has none of these limits.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::patient::Patient;

/// What one listener puts up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
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

/// Serves until `stop` becomes true, then finishes the answers under way.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    mut stop: watch::Receiver<bool>,
    limits: Limits,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (slot, stream))
        };
        let accepted = tokio::select! {
            () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
            accepted = accepted => accepted,
        };
        let (slot, stream) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size(limits.head_bytes)
            .max_headers(limits.head_lines)
            .serve_connection(
                TokioIo::new(Patient::new(stream, limits.answer_timeout)),
                TowerToHyperService::new(router.clone()),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n";

    async fn ask(address: std::net::SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn silent_connections_are_closed_and_give_their_slot_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(|| async { "hello" });
        let (stop, stopped) = watch::channel(false);
        let limits = Limits { connections: 1, head_timeout: Duration::from_millis(200), ..Limits::default() };
        let server = tokio::spawn(serve(listener, router, stopped, limits));

        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\nHost: g").await.unwrap();
        let begun = std::time::Instant::now();
        // The only slot is taken until the silent one is closed.
        assert!(ask(address).await.ends_with("hello"));
        assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await.unwrap().unwrap();

        stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
