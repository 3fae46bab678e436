//! A program on a terminal: what it shows there, what is typed, and whether that is shown.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use shifter_tests::harness::UserCommand;

pub struct Terminal {
    /// The other end of the program's terminal.
    user: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
    child: Child,
}

impl Terminal {
    /// Starts a program that has a terminal of 80 columns, and no other.
    pub fn start(command: &UserCommand, words: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        tcsetwinsize(&user, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let peer = ioctl_tiocgptpeer(&user, flags).unwrap();
        let streams = [peer.try_clone().unwrap(), peer.try_clone().unwrap(), peer].map(Stdio::from);
        let child = command.spawn_on(&[&["setsid", "--ctty"], words].concat(), streams).unwrap();
        let user = File::from(user);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, into) = (user.try_clone().unwrap(), Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // An error where nobody has the other end any more (pty(7)).
            while let Ok(length @ 1..) = from.read(&mut piece) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend(&piece[..length]);
            }
        });
        Self { user, shown, reader, child }
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    pub fn wait_for(&self, text: &str) {
        self.wait(text, || self.shown().contains(text));
    }

    /// Until what is typed is shown no more.
    pub fn wait_for_silence(&self) {
        let is_silent = || !tcgetattr(&self.user).unwrap().local_modes.contains(LocalModes::ECHO);
        self.wait("the echo to end", is_silent);
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < deadline, "waited for {what}: {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Text, and the end of its line.
    pub fn enter(&mut self, text: &str) {
        self.user.write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// The exit status, and all that was shown.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let shown = String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned();
        (status.code(), shown)
    }
}
