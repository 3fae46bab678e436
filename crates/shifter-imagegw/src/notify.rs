//! What systemd is told: ready, reloading, stopping, and that the process lives (sd_notify(3)).
//!
//! Nothing is sent where nobody asked for it; what cannot be sent is only logged.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket, if there is one.
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that we live.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub(crate) fn from_environment() -> Notifier {
        let name = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
        let address = match name.as_bytes() {
            [] => None,
            [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name).ok(),
            _ => SocketAddr::from_pathname(&name).ok(),
        };
        let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0);
        Notifier {
            socket: address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address))),
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!(%error, message, "telling the service manager failed");
        }
    }

    /// Requests are answered, or pulls worked on, from now on, with this configuration.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins; `ready` ends it.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Says that we live, twice as often as is asked for; never returns, and does nothing where nobody asks.
    pub(crate) async fn live(&self) {
        let Some(period) = self.watchdog else { return std::future::pending().await };
        loop {
            self.send("WATCHDOG=1");
            tokio::time::sleep(period / 2).await;
        }
    }
}
