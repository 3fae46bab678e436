//! When to try again: exponential pauses with jitter, `Retry-After` honored within a bound.

use crate::error::RegistryError;
use crate::settings::Settings;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The attempts left for one operation.
pub(crate) struct Retries<'a> {
    settings: &'a Settings,
    done: u32,
}

impl<'a> Retries<'a> {
    /// A fresh allowance.
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings, done: 0 }
    }

    /// The operation got further: count from the start again.
    pub(crate) fn reset(&mut self) {
        self.done = 0;
    }

    /// How long to wait now: twice as long each time, up to a bound, and between half of it and all, so that many
    /// clients that failed together do not come back together.
    fn pause(&self) -> Duration {
        let pause = self.settings.first_pause.saturating_mul(1 << self.done.min(16));
        pause.min(self.settings.longest_pause).mul_f64(rand::random_range(0.5..1.0))
    }

    /// Sleeps if `error` may pass by itself and attempts are left; gives it back otherwise.
    pub(crate) async fn pause_after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let asked = error.retry_after();
        let pause = self.pause();
        let give_up = !error.is_transient()
            || self.done >= self.settings.retries
            || asked.is_some_and(|a| a > self.settings.longest_pause);
        if give_up {
            return Err(error);
        }
        self.done += 1;
        let pause = pause.max(asked.unwrap_or_default());
        tracing::debug!(attempt = self.done, pause_ms = pause.as_millis(), %error, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date in the one format servers may send (IMF-fixdate).
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are as good as forever.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let seconds = fixdate(text)?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(seconds.saturating_sub(now)))
}

/// Seconds since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn fixdate(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split(' ').skip(1);
    let day: u64 = words.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|m| *m == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|y| (1970..=9999).contains(y))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|n| *n < 61));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next() != Some("GMT") || words.next().is_some() || clock.next().is_some() {
        return None;
    }
    // Days of the proleptic Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let since_epoch = days.checked_sub(719_468)?;
    Some(since_epoch * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_not_the_same_for_everybody() {
        let settings = Settings {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_millis(1000),
            ..Settings::default()
        };
        for (done, most) in [(0, 100), (1, 200), (3, 800), (4, 1000), (40, 1000)] {
            let retries = Retries { settings: &settings, done };
            let pauses: std::collections::BTreeSet<_> = (0..100).map(|_| retries.pause()).collect();
            let (least, most) = (Duration::from_millis(most / 2), Duration::from_millis(most));
            assert!(pauses.iter().all(|pause| (least..=most).contains(pause)), "{done}: {pauses:?}");
            assert!(pauses.len() > 50, "{done}: {pauses:?}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        // 784111777 is the second of RFC 9110's own example date.
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("Tue, 07 Mar 1995 08:49:37 GMT", Some(121 * 86_400)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 PST", None),
        ] {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text:?}");
        }
    }
}
