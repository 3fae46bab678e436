//! What this host's name service says of users, asked through the host's own programs and kept for a minute. Knows
//! nothing of what the answers mean.

use std::collections::HashMap;
use std::process::{Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LIFETIME: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);
const MOST: usize = 10_000;
const TURNS: usize = 16;

/// Answers by uid.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    known: Mutex<HashMap<u32, (Instant, T)>>,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

impl<T> Default for Answers<T> {
    fn default() -> Answers<T> {
        Answers { known: Mutex::default(), turns: Default::default() }
    }
}

impl<T: Clone> Answers<T> {
    /// What is known of a user without asking.
    pub(crate) fn recall(&self, uid: u32) -> Option<T> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, answer) = known.get(&uid)?;
        (when.elapsed() < LIFETIME).then(|| answer.clone())
    }

    /// What is known of a user, or what `ask` comes to. Of many requests of one user the first asks, and the others find
    /// the answer.
    pub(crate) async fn get(&self, uid: u32, ask: impl Future<Output = T>) -> T {
        if let Some(answer) = self.recall(uid) {
            return answer;
        }
        let _turn = self.turns[uid as usize % TURNS].lock().await;
        if let Some(answer) = self.recall(uid) {
            return answer;
        }
        let answer = ask.await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(uid, (Instant::now(), answer.clone()));
        answer
    }
}

/// Runs a program of the host about a user, for 5 seconds at most; none where it did not answer, which is logged with
/// `what` was asked for.
pub(crate) async fn ask(program: &str, words: &[&str], uid: u32, what: &str) -> Option<Output> {
    let child = tokio::process::Command::new(program)
        .args(words)
        .args(["--", &uid.to_string()])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(TIMEOUT, child).await {
        Ok(Ok(output)) => Some(output),
        Ok(Err(error)) => {
            tracing::warn!(uid, %error, "running {program} to learn a user's {what} failed");
            None
        }
        Err(_) => {
            tracing::warn!(uid, "the host's name service did not tell a user's {what} within 5 s");
            None
        }
    }
}
