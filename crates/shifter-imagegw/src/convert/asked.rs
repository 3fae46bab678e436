//! Layers that the child asks for when their turn comes, so that it works on those that are there while older ones are
//! still fetched. Each crosses as an open descriptor (unix(7), SCM_RIGHTS): what the child may reach by names need not
//! be known to it, and it never sees a blob that was not verified.
//!
//! A worker's turn is held only while there is a layer to work on: a registry that is slow holds up nobody else's
//! images. Knows neither downloads nor what is made of layers.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use shifter_registry::Blob;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit, SetOnce};

use super::ConvertError;
use super::line::{Answer, tell};

/// The gateway's side: blobs as they come, and the turn.
pub(crate) struct Supply<'b, 'w> {
    /// Of each layer, oldest first. Those that are not fetched stay empty, and are not `due`.
    blobs: &'b [SetOnce<Blob>],
    due: Vec<bool>,
    workers: &'w Semaphore,
    turn: Option<SemaphorePermit<'w>>,
}

impl<'b, 'w> Supply<'b, 'w> {
    /// Waits until the newest of the layers that are `due` is there, then for a turn.
    pub(crate) async fn begin(
        blobs: &'b [SetOnce<Blob>],
        due: Vec<bool>,
        workers: &'w Semaphore,
    ) -> Result<Self, ConvertError> {
        if let Some((blob, _)) = blobs.iter().zip(&due).rev().find(|(_, due)| **due) {
            blob.wait().await;
        }
        let mut supply = Supply { blobs, due, workers, turn: None };
        supply.take_turn().await?;
        Ok(supply)
    }

    /// A layer's file, as soon as it is there; and with it the turn, if it was given up meanwhile.
    pub(super) async fn layer(&mut self, number: usize) -> Result<File, ConvertError> {
        let blob = self.blobs.get(number).filter(|_| self.due.get(number) == Some(&true));
        let blob = blob.ok_or(ConvertError::Asks(number))?;
        if blob.get().is_none() {
            self.turn = None;
        }
        let path = blob.wait().await.path().to_owned();
        if self.turn.is_none() {
            self.take_turn().await?;
        }
        let opened = tokio::task::spawn_blocking(move || File::open(path)).await;
        opened.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(ConvertError::Talk)
    }

    /// The turn, when all is read.
    pub(crate) fn into_turn(self) -> Option<SemaphorePermit<'w>> {
        self.turn
    }

    async fn take_turn(&mut self) -> Result<(), ConvertError> {
        let turn = self.workers.acquire().await;
        self.turn = Some(turn.map_err(|error| ConvertError::Talk(io::Error::other(error)))?);
        Ok(())
    }
}

/// Sends a child the file that it asked for.
pub(super) async fn send(stream: &UnixStream, file: &File) -> io::Result<()> {
    let files = [file.as_fd()];
    let sent = stream.async_io(Interest::WRITABLE, || Ok(send_now(stream.as_fd(), &files)?));
    // One byte cannot be sent in part.
    sent.await.map(drop)
}

fn send_now(stream: BorrowedFd<'_>, files: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    // Room for one was made.
    let _has_room = message.push(SendAncillaryMessage::ScmRights(files));
    sendmsg(stream, &[IoSlice::new(b"\n")], &mut message, SendFlags::NOSIGNAL)
}

/// The child's side: files as they come.
pub(super) struct Files(Receiver<File>);

impl Files {
    /// Listens on standard input, behind the job, in a thread of its own; `end` is called when the gateway is gone.
    pub(super) fn listen(end: impl FnOnce() + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            while let Ok(Some(file)) = receive(io::stdin().as_fd()) {
                // The gateway answers no more than it is asked.
                let _ = sender.send(file);
            }
            end();
        });
        Files(receiver)
    }

    /// Asks for a layer and waits for it.
    pub(super) fn ask(&self, number: usize) -> io::Result<File> {
        tell(&Answer::Asks(number))?;
        self.0.recv().map_err(|_| io::Error::other("the gateway did not hand it over"))
    }
}

/// The next file; `None` at the end. Who sends anything else is not the gateway.
fn receive(stream: BorrowedFd<'_>) -> io::Result<Option<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut message, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let files = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    files.map(|file: OwnedFd| Some(File::from(file))).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
