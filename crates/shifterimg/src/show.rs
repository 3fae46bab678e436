//! What is printed: the table of images, identifiers and times, byte for byte as scripts expect them.
//!
//! Text from the gateway loses its control characters on the way to a terminal. Nothing here writes.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use shifter_api::wire::{History, Image, LayerProgress, Lookup, MISSING, Progress, Queue};

/// Characters of a layer's digest that are shown: `sha256:` and as many digits as `docker` shows.
const DIGEST_SHOWN: usize = 19;

/// The table of `shifterimg images`: one line per tag, sorted bytewise by tag, columns as the original's
/// `%-10s %-10s %-8s %-.10s   %s %-30s`: system, type, status, identifier, time of the last pull, tag.
pub(crate) fn table(images: &[Image]) -> String {
    table_in(images, &TimeZone::system())
}

fn table_in(images: &[Image], zone: &TimeZone) -> String {
    let mut rows: Vec<(&str, &Image)> =
        images.iter().flat_map(|image| image.tag.iter().map(move |tag| (tag.as_str(), image))).collect();
    rows.sort_by_key(|(tag, _)| *tag);
    let mut table = String::new();
    for (tag, image) in rows {
        let field = |value: &Option<String>| printable(value.as_deref().unwrap_or(MISSING));
        // An image of which no pull time is known has a dash: not 1970, and still one column.
        let time =
            image.last_pull.and_then(|seconds| local_time(seconds, zone)).unwrap_or_else(|| "-".into());
        table.push_str(&format!(
            "{:<10} {:<10} {:<8} {:.10}   {time:<19} {:<30}\n",
            field(&image.system),
            field(&image.itype),
            field(&image.status),
            field(&image.id),
            printable(tag),
        ));
    }
    table
}

/// `shifterimg queue`: status and tag, one line each.
pub(crate) fn queue(queue: &Queue) -> String {
    let line = |status: &str, image: &str| format!("{:<11} {}\n", printable(status), printable(image));
    queue.list.iter().map(|entry| line(&entry.status, &entry.image)).collect()
}

/// `shifterimg history`: time and identifier, newest first.
pub(crate) fn history(history: &History) -> String {
    let zone = TimeZone::system();
    let time = |seconds| local_time(seconds, &zone).unwrap_or_else(|| "-".to_owned());
    history.list.iter().map(|entry| format!("{:<19} {}\n", time(entry.since), printable(&entry.id))).collect()
}

/// `shifterimg metrics`: time, user, identifier and tag, newest last.
pub(crate) fn lookups(lookups: &[Lookup]) -> String {
    let zone = TimeZone::system();
    let line = |entry: &Lookup| {
        let time = local_time(entry.time, &zone).unwrap_or_else(|| "-".to_owned());
        let (user, id) = (printable(&entry.user), printable(&entry.id));
        format!("{time:<19} {user:<12} {id:.10}   {}:{}\n", printable(&entry.itype), printable(&entry.tag))
    };
    lookups.iter().map(line).collect()
}

/// `shifterimg inspect`: JSON with a key per line.
pub(crate) fn pretty(value: &serde_json::Value) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(text.lines().map(|line| printable(line) + "\n").collect())
}

/// `Pulling layers: 3.2 of 10.0 MiB, 32 %`.
pub(crate) fn progress(progress: &Progress) -> String {
    let stage = printable(&progress.stage);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    match progress.total.filter(|total| *total > 0) {
        Some(total) => {
            let share = u128::from(progress.done) * 100 / u128::from(total);
            format!("{stage}: {:.1} of {:.1} MiB, {share} %", mib(progress.done), mib(total))
        }
        None if progress.done > 0 => format!("{stage}: {:.1} MiB", mib(progress.done)),
        None => stage,
    }
}

/// What is being fetched or converted, one line per layer: `sha256:0123456789ab fetching: 3.2 of 10.0 MiB, 32 %`.
pub(crate) fn layers(pulled: &Progress) -> Vec<String> {
    let at_work = |layer: &&LayerProgress| matches!(layer.stage.as_str(), "fetching" | "converting");
    let line = |layer: &LayerProgress| {
        let digest: String = printable(&layer.digest).chars().take(DIGEST_SHOWN).collect();
        let stage = format!("{digest} {}", layer.stage);
        progress(&Progress { stage, done: layer.done, total: Some(layer.total), layers: Vec::new() })
    };
    pulled.layers.iter().filter(at_work).map(line).collect()
}

/// The identifier of a looked-up image: 64 lower-case hexadecimal digits, anything else is none.
pub(crate) fn identifier(image: &Image) -> Option<&str> {
    let id = image.id.as_deref()?;
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (id.len() == 64 && id.bytes().all(hexadecimal)).then_some(id)
}

/// Now, in local time.
pub(crate) fn now() -> String {
    let seconds = Timestamp::now().as_second() as f64;
    local_time(seconds, &TimeZone::system()).unwrap_or_else(|| "-".to_owned())
}

/// Seconds since the epoch as `2026-11-20T21:32:18` in `zone`; `None` beyond the calendar.
fn local_time(seconds: f64, zone: &TimeZone) -> Option<String> {
    // Truncating, as strftime's callers do; as saturates, and jiff refuses what no calendar has.
    let time = Timestamp::from_second(seconds as i64).ok()?.to_zoned(zone.clone());
    Some(time.strftime("%Y-%m-%dT%H:%M:%S").to_string())
}

/// The text with `?` for every control character, which could otherwise steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// An error and its causes; causes that it already tells are not repeated.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Width of the terminal on standard output, in columns; 0 where it is unknown.
pub(crate) fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn image(json: &str) -> Image {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_table_is_the_originals_byte_for_byte() {
        let images = [
            image(
                r#"{"id":"b000000000111","system":"sysa","itype":"custom","status":"READY","tag":"zeta","last_pull":0.0}"#,
            ),
            image(
                r#"{"id":"a2fb1f0dcf0000","system":"sysa","itype":"docker","status":"READY",
                    "tag":["lib/app:v2","app:latest","Upper"],"last_pull":1795210338.8}"#,
            ),
            image(r#"{"id":"MISSING","system":"a-long-system","tag":["mid\u001b[2J"],"status":"PULLING"}"#),
            image(r#"{"id":"no-tags","tag":[],"status":"READY"}"#),
        ];
        let expected = [
            "sysa       docker     READY    a2fb1f0dcf   2026-11-20T21:32:18 Upper                         \n",
            "sysa       docker     READY    a2fb1f0dcf   2026-11-20T21:32:18 app:latest                    \n",
            "sysa       docker     READY    a2fb1f0dcf   2026-11-20T21:32:18 lib/app:v2                    \n",
            "a-long-system MISSING    PULLING  MISSING   -                   mid?[2J                       \n",
            "sysa       custom     READY    b000000000   1970-01-01T00:00:00 zeta                          \n",
        ];
        assert_eq!(table_in(&images, &TimeZone::UTC), expected.concat());
        assert_eq!(table_in(&[], &TimeZone::UTC), "");
    }

    #[test]
    fn other_answers_are_lines_of_columns_without_control_characters() {
        let waiting = r#"{"list":[{"status":"PULLING","image":"a:1"},{"status":"x\u001b","image":"b"}]}"#;
        assert_eq!(queue(&serde_json::from_str(waiting).unwrap()), "PULLING     a:1\nx?          b\n");
        let moved = serde_json::from_str(r#"{"list":[{"id":"ab","since":1e300}]}"#).unwrap();
        assert_eq!(history(&moved), "-                   ab\n");
        let looked: Vec<Lookup> =
            serde_json::from_str(r#"[{"user":"al","type":"docker","tag":"a:1","id":"0123456789abc"}]"#)
                .unwrap();
        assert!(
            lookups(&looked).ends_with(" al           0123456789   docker:a:1\n"),
            "{}",
            lookups(&looked)
        );
        let value = serde_json::json!({"a": ["\u{9b}x"]});
        assert_eq!(pretty(&value).unwrap(), "{\n  \"a\": [\n    \"?x\"\n  ]\n}\n");
    }

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::from_raw_os_error(13);
        let read = shifter_api::cred::CredError::Read { path: "/c".into(), source };
        let error = anyhow::Error::new(read).context("no password was sent");
        let expected = "no password was sent: cannot read the stored registry credentials /c: Permission denied \
                        (os error 13)";
        assert_eq!(causes(&error), expected);
    }

    #[test]
    fn times_are_local_and_never_wrong_silently() {
        let east = TimeZone::fixed(jiff::tz::offset(2));
        for (seconds, zone, expected) in [
            (1_795_210_338.8, &TimeZone::UTC, Some("2026-11-20T21:32:18")),
            (1_795_210_338.8, &east, Some("2026-11-20T23:32:18")),
            (1e300, &TimeZone::UTC, None),
        ] {
            assert_eq!(local_time(seconds, zone).as_deref(), expected, "{seconds}");
        }
        assert_eq!(now().len(), "2026-11-20T21:32:18".len());
    }

    #[test]
    fn only_whole_identifiers_are_printed() {
        let good = "0123456789abcdef".repeat(4);
        for (id, expected) in [
            (Some(good.clone()), true),
            (None, false),
            (Some(String::new()), false),
            (Some(good[1..].to_owned()), false),
            (Some(good.to_uppercase()), false),
            (Some(format!("{}\n", &good[1..])), false),
            (Some("../".repeat(21) + "x"), false),
        ] {
            let image = Image { id: id.clone(), ..Image::default() };
            assert_eq!(identifier(&image).is_some(), expected, "{id:?}");
        }
    }
}
