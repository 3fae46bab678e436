//! Whether a registry takes a caller's password, so that `shifterimg login` need not be believed blindly.
//! The password travels in the munge credential, as for pulls; it goes to the registry it is for, and
//! neither it nor the user name is written anywhere. Limited in rate, or this would be a place to guess at.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shifter_registry::{Client, RegistryError, Settings, Verdict};

use crate::api::Refusal;
use crate::auth::Caller;
use crate::config::Config;
use crate::convert::sentence;

/// Attempts of one caller within `WITHIN`.
const MOST: usize = 10;

/// See `MOST`.
const WITHIN: Duration = Duration::from_secs(60);

/// Attempts under way, of all callers.
const AT_A_TIME: usize = 16;

/// Time for the registry and its token service together.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the request's body says.
#[derive(Deserialize)]
struct Wanted {
    location: String,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LoginReply {
    pub(crate) status: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// Who asked when.
pub(crate) struct Logins {
    recent: Mutex<HashMap<u32, VecDeque<Instant>>>,
    turns: tokio::sync::Semaphore,
}

impl Default for Logins {
    fn default() -> Self {
        Logins { recent: Mutex::default(), turns: tokio::sync::Semaphore::new(AT_A_TIME) }
    }
}

impl Logins {
    pub(crate) async fn ask(
        &self,
        config: &Config,
        body: &[u8],
        caller: &Caller,
    ) -> Result<LoginReply, Refusal> {
        let wanted = parse(body)?;
        let not = |message: String| Ok(LoginReply { status: false, message: Some(message) });
        let location = match config.registries.find_for_login(&wanted.location) {
            Ok(location) => location,
            Err(error) => return not(sentence(&error)),
        };
        let credentials = config.registries.credentials(&location, &caller.payload.authorized_locations);
        let Some(credentials) = credentials else {
            return not(format!("the request brought no password for {}", location.name.escape_default()));
        };
        if !self.may_ask(caller.uid, Instant::now()) {
            return Err(Refusal::TooOften);
        }
        let _turn = self.turns.try_acquire().map_err(|_| Refusal::Busy)?;
        let asked = async { Client::new(location, None, Settings::default())?.verify(&credentials).await };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Verdict::Accepted)) => Ok(LoginReply { status: true, message: None }),
            Ok(Ok(Verdict::Open)) => {
                let message = "the registry asks nobody for a password, so it cannot tell".to_owned();
                Ok(LoginReply { status: true, message: Some(message) })
            }
            Ok(Err(error @ RegistryError::Unauthorized { .. })) => not(sentence(&error)),
            Ok(Err(error)) => not(format!("the registry could not be asked: {}", sentence(&error))),
            Err(_) => not(format!("the registry did not answer within {} s", PATIENCE.as_secs())),
        }
    }

    fn may_ask(&self, uid: u32, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, times| {
            times.retain(|time| now.saturating_duration_since(*time) < WITHIN);
            !times.is_empty()
        });
        let times = recent.entry(uid).or_default();
        if times.len() >= MOST {
            return false;
        }
        times.push_back(now);
        true
    }
}

fn parse(body: &[u8]) -> Result<Wanted, Refusal> {
    // By way of a map: a struct would also be read from an array.
    let map: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(body);
    let map =
        map.map_err(|_| Refusal::BadRequest("the body is not a JSON object with location".to_owned()))?;
    let wanted: Wanted = serde_json::from_value(serde_json::Value::Object(map))
        .map_err(|_| Refusal::Unprocessable("location must be given, as text".to_owned()))?;
    if wanted.location.len() > 256 {
        return Err(Refusal::Unprocessable("location is longer than 256 bytes".to_owned()));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn guessing_passwords_through_the_gateway_is_slow() {
        let (logins, begin) = (Logins::default(), Instant::now());
        for _ in 0..MOST {
            assert!(logins.may_ask(7, begin));
        }
        assert!(!logins.may_ask(7, begin));
        assert!(logins.may_ask(8, begin), "others are not held up");
        assert!(logins.may_ask(7, begin + WITHIN));
    }
}
