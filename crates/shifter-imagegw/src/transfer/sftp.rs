//! The client's half of the SSH File Transfer Protocol, version 3 with OpenSSH's extensions (PROTOCOL in its sources),
//! over the two pipes of a program: any number of requests at the same time, one connection.
//!
//! Requests may be dropped at any moment without harm to others. Knows nothing of ssh, of retries, or of images.

mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::wire::Attributes;
use self::wire::{Fields, Packet, Reply};

/// Bytes of one read or write; every server takes these.
pub(crate) const CHUNK: usize = 32 << 10;

/// OpenSSH's own limit for a packet.
const MOST_PACKET: u32 = 256 << 10;

/// Longest silence of a server that is there: a file system that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Needed: a rename that replaces.
const RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";

/// Status codes.
const OK: u32 = 0;
const END_OF_FILE: u32 = 1;
const NO_SUCH_FILE: u32 = 2;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SftpError {
    #[error("the connection ended")]
    Lost,
    #[error("the server has not answered for {} s", PATIENCE.as_secs())]
    Silent,
    #[error("{0}")]
    Strange(&'static str),
    #[error("{}", status(*.code, .message))]
    Status { code: u32, message: String },
}

fn status(code: u32, message: &str) -> String {
    match code {
        NO_SUCH_FILE => "there is no such file or directory".to_owned(),
        3 => "permission denied".to_owned(),
        _ => format!("the server says \"{}\"", message.escape_default()),
    }
}

/// How a file is opened.
pub(crate) enum Open {
    Read,
    /// One that is there, without touching what it has.
    Write,
    /// A new one of mode 0600.
    New,
}

/// An open file or directory.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Vec<u8>);

/// Requests without an answer yet; none once the connection has ended.
type Waiting = Arc<Mutex<Option<HashMap<u32, oneshot::Sender<Reply>>>>>;

/// A connection.
pub(crate) struct Session {
    next: std::sync::atomic::AtomicU32,
    waiting: Waiting,
    packets: mpsc::Sender<Vec<u8>>,
    extensions: Vec<Vec<u8>>,
}

impl Session {
    /// Greets the server. The connection lives in two tasks, which end with either pipe or with this value.
    pub(crate) async fn start(
        mut output: impl AsyncWrite + Unpin + Send + 'static,
        mut input: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<Session, SftpError> {
        let greeting = Packet::new(wire::INIT, 3).finish();
        output.write_all(&greeting).await.map_err(|_| SftpError::Lost)?;
        let answer = packet(&mut input).await?;
        let extensions = wire::version(&answer).map_err(|_| NOT_SFTP)?;
        let waiting = Waiting::new(Mutex::new(Some(HashMap::new())));
        let (packets, mut queue) = mpsc::channel::<Vec<u8>>(64);
        tokio::spawn(async move {
            while let Some(packet) = queue.recv().await {
                if output.write_all(&packet).await.is_err() {
                    break;
                }
            }
        });
        let theirs = waiting.clone();
        tokio::spawn(async move {
            while let Ok(packet) = packet(&mut input).await {
                let Ok((id, reply)) = wire::reply(&packet) else { break };
                let waiter =
                    theirs.lock().ok().and_then(|mut waiting| waiting.as_mut().and_then(|w| w.remove(&id)));
                // Who asked may have gone away.
                let _ = waiter.map(|waiter| waiter.send(reply));
            }
            if let Ok(mut waiting) = theirs.lock() {
                *waiting = None;
            }
        });
        let session = Session { next: 0.into(), waiting, packets, extensions };
        if !session.has(RENAME) {
            return Err(SftpError::Strange(
                "its SFTP server cannot replace files (posix-rename@openssh.com); OpenSSH 4.8 and later can",
            ));
        }
        Ok(session)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.waiting.lock().map_or(true, |waiting| waiting.is_none())
    }

    fn has(&self, extension: &str) -> bool {
        self.extensions.iter().any(|known| known == extension.as_bytes())
    }

    /// Sends a request; its answer can be waited for later.
    async fn begin(
        &self,
        kind: u8,
        fields: impl FnOnce(Packet) -> Packet,
    ) -> Result<oneshot::Receiver<Reply>, SftpError> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().map_err(|_| SftpError::Lost)?;
            waiting.as_mut().ok_or(SftpError::Lost)?.insert(id, sender);
        }
        let packet = fields(Packet::new(kind, id)).finish();
        match tokio::time::timeout(PATIENCE, self.packets.send(packet)).await {
            Ok(sent) => sent.map_err(|_| SftpError::Lost)?,
            Err(_) => return Err(SftpError::Silent),
        }
        Ok(receiver)
    }

    async fn ask(&self, kind: u8, fields: impl FnOnce(Packet) -> Packet) -> Result<Reply, SftpError> {
        answer(self.begin(kind, fields).await?).await
    }

    async fn ask_extension(
        &self,
        name: &str,
        fields: impl FnOnce(Packet) -> Packet,
    ) -> Result<Reply, SftpError> {
        self.ask(wire::EXTENDED, |packet| fields(packet.bytes(name.as_bytes()))).await
    }

    /// What is there under this name, a symlink being one; none where there is nothing.
    pub(crate) async fn lstat(&self, path: &str) -> Result<Option<Attributes>, SftpError> {
        some(self.ask(wire::LSTAT, |packet| packet.bytes(path.as_bytes())).await)
    }

    /// The same through symlinks.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<Attributes>, SftpError> {
        some(self.ask(wire::STAT, |packet| packet.bytes(path.as_bytes())).await)
    }

    pub(crate) async fn fstat(&self, handle: &Handle) -> Result<Attributes, SftpError> {
        some(self.ask(wire::FSTAT, |packet| packet.bytes(&handle.0)).await)?.ok_or(SftpError::Lost)
    }

    pub(crate) async fn open(&self, path: &str, how: Open) -> Result<Handle, SftpError> {
        const READ: u32 = 1;
        const WRITE: u32 = 2;
        const CREATE: u32 = 8;
        const EXCLUSIVE: u32 = 32;
        let flags = match how {
            Open::Read => READ,
            Open::Write => WRITE,
            Open::New => WRITE | CREATE | EXCLUSIVE,
        };
        let fields =
            |packet: Packet| packet.bytes(path.as_bytes()).u32(flags).u32(wire::PERMISSIONS).u32(0o600);
        handle(self.ask(wire::OPEN, fields).await?)
    }

    pub(crate) async fn close(&self, handle: Handle) -> Result<(), SftpError> {
        done(self.ask(wire::CLOSE, |packet| packet.bytes(&handle.0)).await?)
    }

    /// Begins a write of at most [`CHUNK`] bytes; [`written`] waits for its end.
    pub(crate) async fn begin_write(
        &self,
        handle: &Handle,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Pending, SftpError> {
        Ok(Pending(self.begin(wire::WRITE, |packet| packet.bytes(&handle.0).u64(offset).bytes(bytes)).await?))
    }

    /// Begins a read of [`CHUNK`] bytes.
    pub(crate) async fn begin_read(&self, handle: &Handle, offset: u64) -> Result<Pending, SftpError> {
        const LENGTH: u32 = 32 << 10;
        Ok(Pending(self.begin(wire::READ, |packet| packet.bytes(&handle.0).u64(offset).u32(LENGTH)).await?))
    }

    /// Flushes a file to its disk, where the server can (OpenSSH since 6.5).
    pub(crate) async fn fsync(&self, handle: &Handle) -> Result<(), SftpError> {
        if !self.has(FSYNC) {
            return Ok(());
        }
        done(self.ask_extension(FSYNC, |packet| packet.bytes(&handle.0)).await?)
    }

    /// Bytes that are left for this account where the path leads; none where the server cannot say.
    pub(crate) async fn space(&self, path: &str) -> Option<u64> {
        if !self.has(STATVFS) {
            return None;
        }
        let reply = self.ask_extension(STATVFS, |packet| packet.bytes(path.as_bytes())).await;
        let Ok(Reply::Extended(bytes)) = reply else { return None };
        let mut fields = Fields::new(&bytes);
        let mut next = || fields.u64().ok();
        let (_block, unit, _blocks, _free, available) = (next()?, next()?, next()?, next()?, next()?);
        unit.checked_mul(available)
    }

    pub(crate) async fn chmod(&self, path: &str, mode: u32) -> Result<(), SftpError> {
        let fields = |packet: Packet| packet.bytes(path.as_bytes()).u32(wire::PERMISSIONS).u32(mode);
        done(self.ask(wire::SETSTAT, fields).await?)
    }

    /// Replaces what has the new name.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), SftpError> {
        let fields = |packet: Packet| packet.bytes(from.as_bytes()).bytes(to.as_bytes());
        done(self.ask_extension(RENAME, fields).await?)
    }

    /// Removes a file; whether there was one.
    pub(crate) async fn remove(&self, path: &str) -> Result<bool, SftpError> {
        match done(self.ask(wire::REMOVE, |packet| packet.bytes(path.as_bytes())).await?) {
            Ok(()) => Ok(true),
            Err(SftpError::Status { code: NO_SUCH_FILE, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is in a directory. Names that are no UTF-8 are not ours and left out.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<(String, Attributes)>, SftpError> {
        let directory = handle(self.ask(wire::OPENDIR, |packet| packet.bytes(path.as_bytes())).await?)?;
        let mut found = Vec::new();
        loop {
            match self.ask(wire::READDIR, |packet| packet.bytes(&directory.0)).await? {
                Reply::Names(names) => found.extend(
                    names
                        .into_iter()
                        .filter_map(|(name, attributes)| Some((String::from_utf8(name).ok()?, attributes))),
                ),
                Reply::Status { code: END_OF_FILE, .. } => break,
                other => return Err(unexpected(other)),
            }
        }
        self.close(directory).await?;
        Ok(found)
    }
}

/// A read or write under way.
pub(crate) struct Pending(oneshot::Receiver<Reply>);

impl Pending {
    /// Waits for the end of a write.
    pub(crate) async fn written(self) -> Result<(), SftpError> {
        done(answer(self.0).await?)
    }

    /// What was read; empty at the end of the file.
    pub(crate) async fn data(self) -> Result<Vec<u8>, SftpError> {
        match answer(self.0).await? {
            Reply::Data(bytes) => Ok(bytes),
            Reply::Status { code: END_OF_FILE, .. } => Ok(Vec::new()),
            other => Err(unexpected(other)),
        }
    }
}

const NOT_SFTP: SftpError = SftpError::Strange(
    "what answers there is no SFTP server; it may be switched off, or a start file of the account's shell prints \
     something",
);

async fn packet(input: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, SftpError> {
    let length = input.read_u32().await.map_err(|_| SftpError::Lost)?;
    if length > MOST_PACKET {
        return Err(NOT_SFTP);
    }
    let mut packet = Vec::new();
    let read = input.take(length.into()).read_to_end(&mut packet).await;
    match read {
        Ok(count) if count as u64 == u64::from(length) => Ok(packet),
        _ => Err(SftpError::Lost),
    }
}

async fn answer(receiver: oneshot::Receiver<Reply>) -> Result<Reply, SftpError> {
    match tokio::time::timeout(PATIENCE, receiver).await {
        Ok(reply) => reply.map_err(|_| SftpError::Lost),
        Err(_) => Err(SftpError::Silent),
    }
}

fn done(reply: Reply) -> Result<(), SftpError> {
    match reply {
        Reply::Status { code: OK, .. } => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn handle(reply: Reply) -> Result<Handle, SftpError> {
    match reply {
        Reply::Handle(bytes) => Ok(Handle(bytes)),
        other => Err(unexpected(other)),
    }
}

fn some(reply: Result<Reply, SftpError>) -> Result<Option<Attributes>, SftpError> {
    match reply? {
        Reply::Attributes(found) => Ok(Some(found)),
        Reply::Status { code: NO_SUCH_FILE, .. } => Ok(None),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: Reply) -> SftpError {
    match reply {
        Reply::Status { code, message } if code != OK => SftpError::Status { code, message },
        _ => SftpError::Strange("its SFTP server answered something else than was asked"),
    }
}

#[cfg(test)]
mod tests;
