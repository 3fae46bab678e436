//! Files that users send: how many at a time, how fast, how large, and how much room they may take together, from their
//! first byte until they were copied. Who may send them, and what becomes of them, is decided next door.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use futures_util::StreamExt as _;
use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

use super::Refusal;
use crate::pull::import::LARGEST;

/// Uploads at a time, and of one user.
const AT_A_TIME: usize = 4;
const OF_ONE_USER: usize = 2;

/// How long an upload may take.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Longest pause, and what the slowest may be late.
    silence: Duration,
    /// Bytes that arrive in each second at least, on the whole.
    slowest: u64,
    longest: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { silence: Duration::from_secs(60), slowest: 256 << 10, longest: Duration::from_secs(12 * 3600) }
    }
}

impl Pace {
    /// How long so many bytes may take at most.
    fn time_for(&self, bytes: u64) -> Duration {
        (self.silence + Duration::from_secs_f64(bytes as f64 / self.slowest as f64)).min(self.longest)
    }
}

/// A file whose size was not announced gets room in steps of so many bytes.
const STEP: u64 = 64 << 20;

/// The files that arrive, or wait to be copied.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    ledger: Arc<Mutex<Ledger>>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Ledger {
    files: Vec<Held>,
    last: u64,
}

#[derive(Debug)]
struct Held {
    number: u64,
    uid: u32,
    is_arriving: bool,
    /// Bytes as announced, or a step more than arrived.
    size: u64,
    arrived: u64,
}

/// What one file takes of the room; given back with this value.
#[derive(Debug)]
pub(crate) struct Room {
    ledger: Arc<Mutex<Ledger>>,
    number: u64,
}

impl Uploads {
    /// Takes a body in, into a file without a name in this directory.
    pub(super) async fn receive(
        &self,
        uid: u32,
        body: Body,
        directory: &Path,
        sha256: Option<&str>,
    ) -> Result<(File, Room), Refusal> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|error| failed(error.into()))?);
        let announced = body.size_hint().upper();
        let room = self.begin(uid, announced.unwrap_or(STEP), free(&file)?)?;
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        let (mut size, begun) = (0_u64, Instant::now());
        let mut stream = body.into_data_stream();
        let unfinished = |why: &str| Err(Refusal::BadRequest(why.to_owned()));
        loop {
            let bytes = match tokio::time::timeout(self.pace.silence, stream.next()).await {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(None) => break,
                Ok(Some(Err(_))) => return unfinished("the file did not arrive whole"),
                Err(_) => return unfinished("nothing more of the file arrived in time"),
            };
            size += bytes.len() as u64;
            if size > LARGEST {
                return Err(too_large());
            }
            if begun.elapsed() > self.pace.time_for(size) {
                return unfinished("the file arrives too slowly; bring it where the gateway can read it");
            }
            room.arrived(size, || free(&file))?;
            hash.update(&bytes);
            // A few kilobytes into the page cache; the disk is waited for where it is full of them.
            file = tokio::task::spawn_blocking(move || file.write_all(&bytes).map(|()| file))
                .await
                .map_err(|_| Refusal::Busy)?
                .map_err(failed)?;
        }
        let found = crate::publish::hex(hash.finish().as_ref());
        if sha256.is_some_and(|sha256| !sha256.eq_ignore_ascii_case(&found)) {
            return unfinished("what arrived is not the file that was announced by sha256");
        }
        file.rewind().map_err(failed)?;
        room.is_whole(size);
        Ok((file, room))
    }

    /// Room for a file of this size, where so many bytes are free.
    fn begin(&self, uid: u32, size: u64, free: u64) -> Result<Room, Refusal> {
        if size > LARGEST {
            return Err(too_large());
        }
        let mut ledger = locked(&self.ledger);
        let arriving = || ledger.files.iter().filter(|file| file.is_arriving);
        if arriving().count() >= AT_A_TIME || arriving().filter(|file| file.uid == uid).count() >= OF_ONE_USER
        {
            return Err(Refusal::Busy);
        }
        ledger.last += 1;
        let number = ledger.last;
        ledger.files.push(Held { number, uid, is_arriving: true, size, arrived: 0 });
        if !ledger.has_room(free) {
            ledger.files.pop();
            return Err(Refusal::NoRoom);
        }
        drop(ledger);
        Ok(Room { ledger: self.ledger.clone(), number })
    }
}

impl Ledger {
    /// Whether all files and as many copies of them take no more than half of what is free without them: the rest is
    /// for pulls.
    fn has_room(&self, free: u64) -> bool {
        let sum = |bytes: fn(&Held) -> u64| self.files.iter().map(bytes).sum::<u64>();
        sum(|file| file.size) * 2 <= (free + sum(|file| file.arrived)) / 2
    }
}

impl Room {
    /// Notes how much is there; what was not announced gets more room, if there is some.
    fn arrived(&self, bytes: u64, free: impl FnOnce() -> Result<u64, Refusal>) -> Result<(), Refusal> {
        let mut ledger = locked(&self.ledger);
        let Some(file) = ledger.files.iter_mut().find(|file| file.number == self.number) else {
            return Ok(());
        };
        // What of it is on disk already is in `free`.
        if bytes > file.size {
            file.size = bytes + STEP;
            if !ledger.has_room(free()?) {
                return Err(Refusal::NoRoom);
            }
        } else {
            file.arrived = bytes;
        }
        Ok(())
    }

    /// Nothing more arrives.
    fn is_whole(&self, bytes: u64) {
        for file in locked(&self.ledger).files.iter_mut().filter(|file| file.number == self.number) {
            (file.is_arriving, file.size, file.arrived) = (false, bytes, bytes);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        locked(&self.ledger).files.retain(|file| file.number != self.number);
    }
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that the gateway's account may still write to the file system of a file.
fn free(file: &File) -> Result<u64, Refusal> {
    let found = rustix::fs::fstatvfs(file).map_err(|error| failed(error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn failed(error: std::io::Error) -> Refusal {
    Refusal::Unprocessable(format!("storing the file failed: {error}"))
}

fn too_large() -> Refusal {
    Refusal::Unprocessable(format!("the file is larger than {} GiB", LARGEST >> 30))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const MIB: u64 = 1 << 20;

    /// ST47.
    #[test]
    fn files_that_wait_to_be_copied_take_their_room_with_them() {
        let uploads = Uploads::default();
        let first = uploads.begin(1, 100 * MIB, 1000 * MIB).unwrap();
        first.arrived(100 * MIB, || panic!("it was announced")).unwrap();
        first.is_whole(100 * MIB);
        // With it, 1000 MiB would be free, and half of that is for pulls.
        let free = 900 * MIB;
        assert!(matches!(uploads.begin(2, 151 * MIB, free), Err(Refusal::NoRoom)));
        let second = uploads.begin(2, 150 * MIB, free).unwrap();
        assert!(
            matches!(uploads.begin(3, MIB, free), Err(Refusal::NoRoom)),
            "nothing of the second is there"
        );
        drop(first);
        uploads.begin(3, MIB, 1000 * MIB).unwrap();
        drop(second);
        assert!(locked(&uploads.ledger).files.is_empty());
    }

    #[test]
    fn a_file_that_was_not_announced_gets_room_as_it_arrives() {
        let uploads = Uploads::default();
        let room = uploads.begin(1, STEP, 400 * MIB).unwrap();
        room.arrived(STEP, || panic!("there is room for that")).unwrap();
        assert!(matches!(room.arrived(STEP + 1, || Ok(336 * MIB)), Err(Refusal::NoRoom)));
        assert!(matches!(uploads.begin(1, LARGEST + 1, u64::MAX), Err(Refusal::Unprocessable(_))));
    }

    #[test]
    fn nobody_takes_all_turns() {
        let uploads = Uploads::default();
        let begin = |uid| uploads.begin(uid, MIB, 1000 * MIB);
        let mut rooms = vec![begin(1).unwrap(), begin(1).unwrap()];
        assert!(matches!(begin(1), Err(Refusal::Busy)));
        rooms.extend([begin(2).unwrap(), begin(3).unwrap()]);
        assert!(matches!(begin(4), Err(Refusal::Busy)));
        rooms[0].is_whole(MIB);
        rooms.push(begin(1).unwrap());
    }

    #[tokio::test]
    async fn a_file_that_drips_in_is_given_up() {
        let drip = |bytes: usize, pause: u64, count: usize| {
            let part = move |_| async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                Ok::<_, std::io::Error>(vec![0_u8; bytes])
            };
            Body::from_stream(futures_util::stream::iter(0..count).then(part))
        };
        let pace = Pace { silence: Duration::from_millis(300), slowest: 100_000, ..Pace::default() };
        let dir = tempfile::tempdir().unwrap();
        for (bytes, pause, count, expected) in [
            (1, 100, 50, Some("too slowly")),
            (6_000, 100, 50, Some("too slowly")),
            (15_000, 100, 10, None),
            (1, 2000, 1, Some("nothing more")),
        ] {
            let (begun, uploads) = (Instant::now(), Uploads { pace, ..Uploads::default() });
            let received = uploads.receive(1, drip(bytes, pause, count), dir.path(), None).await;
            match (received, expected) {
                (Ok(_), None) => {}
                (Err(Refusal::BadRequest(why)), Some(expected)) => assert!(why.contains(expected), "{why}"),
                (other, _) => panic!("{bytes} every {pause} ms: {other:?}"),
            }
            assert!(begun.elapsed() < Duration::from_millis(1900), "{bytes}: {:?}", begun.elapsed());
            assert!(locked(&uploads.ledger).files.is_empty());
        }
        assert_eq!(Pace::default().time_for(LARGEST), Pace::default().longest);
    }
}
