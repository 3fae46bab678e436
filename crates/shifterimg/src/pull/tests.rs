//! Pulls played from a script of answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::VecDeque;

use shifter_api::client::{Attempt, AttemptError};
use shifter_api::wire::{self, LayerProgress};

use super::*;

const FAST: Pace =
    Pace { interval: Some(Duration::from_millis(1)), hold: 0, patience: Duration::from_millis(40) };

fn image(status: &str, message: &str) -> Image {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Image { status: text(status), status_message: text(message), ..Image::default() }
}

fn failed(cause: AttemptError) -> ClientError {
    let attempts = vec![Attempt { gateway: "http://gw".to_owned(), cause }];
    ClientError::Failed { operation: "pull docker:x".to_owned(), attempts }
}

fn down() -> ClientError {
    failed(AttemptError::Unreachable("connection refused".to_owned()))
}

/// Plays the answers (the last one for ever) at time "T"; gives the result, the output, and how often was asked.
fn play(
    pace: &Pace,
    style: Style,
    answers: Vec<Result<Image, fn() -> ClientError>>,
) -> (anyhow::Result<Image>, String, usize) {
    let script = RefCell::new(VecDeque::from(answers));
    let asked = RefCell::new(0);
    let ask = |_: &str| {
        *asked.borrow_mut() += 1;
        let mut script = script.borrow_mut();
        let answer = if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() };
        answer.map(|image| Pulled { image, ..Pulled::default() }).map_err(|error| error())
    };
    let mut out = Vec::new();
    let mut progress = Progress::new(&mut out, style, "Pulling Image: docker:x".to_owned());
    progress.now = || "T".to_owned();
    let result = follow(pace, &ask, &mut progress);
    let count = *asked.borrow();
    (result, String::from_utf8(out).unwrap(), count)
}

fn whole_pull() -> Vec<Result<Image, fn() -> ClientError>> {
    vec![
        Ok(image("INIT", "")),
        Ok(image("PENDING", "")),
        Ok(image("PULLING", "Pulling layers 1/3")),
        Ok(image("PULLING", "Pulling layers 2/3")),
        Ok(image("PULLING", "Pulling layers 2/3")),
        Ok(image("READY", "Transferring image")),
    ]
}

#[test]
fn a_terminal_has_one_line_rewritten() {
    let (result, text, asked) = play(&FAST, Style::OneLine { columns: 0 }, whole_pull());
    assert_eq!(outcome(&result.unwrap()), Outcome::Ready);
    let line = |rest: &str| format!("\r\x1b[2KT Pulling Image: docker:x, status: {rest}");
    let expected = [
        line("INIT"),
        line("PENDING"),
        line("PULLING (Pulling layers 1/3)"),
        line("PULLING (Pulling layers 2/3)"),
        line("PULLING (Pulling layers 2/3)"),
        line("READY"),
        "\n".to_owned(),
    ];
    assert_eq!(text, expected.concat());
    assert_eq!(asked, 6);
}

#[test]
fn a_pipe_gets_a_line_per_status() {
    let (result, text, _) = play(
        &FAST,
        Style::Changes,
        vec![
            Ok(image("INIT", "")),
            Ok(image("CONVERSION", "10 %")),
            Ok(image("CONVERSION", "20 %")),
            Ok(image("READY", "Transferring image")),
        ],
    );
    assert_eq!(outcome(&result.unwrap()), Outcome::Ready);
    let line = |rest: &str| format!("T Pulling Image: docker:x, status: {rest}\n");
    assert_eq!(text, [line("INIT"), line("CONVERSION (10 %)"), line("READY")].concat());
}

#[test]
fn verbose_has_a_line_per_answer_and_json_none() {
    let (_, text, _) = play(&FAST, Style::EveryAnswer, whole_pull());
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    assert_eq!(play(&FAST, Style::Silent, whole_pull()).1, "");
}

#[test]
fn a_long_line_is_cut_to_the_terminal() {
    let mut out = Vec::new();
    let mut progress = Progress::new(&mut out, Style::OneLine { columns: 40 }, "docker:x".to_owned());
    let image = image("PULLING", &"long ".repeat(50));
    progress.show(&Pulled { image, ..Pulled::default() }).unwrap();
    assert_eq!(out.len(), "\r\x1b[2K".len() + 40);
}

#[test]
fn statuses_mean_what_the_gateway_means() {
    let none = "the gateway gives no reason";
    let table: [(&str, &str, Outcome); 19] = [
        ("READY", "Transferring image", Outcome::Ready),
        ("SUCCESS", "", Outcome::Ready),
        ("", "", Outcome::Going),
        ("MISSING", "", Outcome::Going),
        ("INIT", "", Outcome::Going),
        ("PENDING", "", Outcome::Going),
        ("PULLING", "", Outcome::Going),
        ("EXAMINATION", "", Outcome::Going),
        ("CONVERSION", "", Outcome::Going),
        ("TRANSFER", "", Outcome::Going),
        ("HASHING", "", Outcome::Going),
        ("ENQUEUED", "", Outcome::Going),
        ("FAILURE", "no such tag", Outcome::Failed("no such tag".to_owned())),
        ("FAILURE", "access denied: log in", Outcome::Denied("log in".to_owned())),
        ("FAILURE", "", Outcome::Failed(none.to_owned())),
        ("FAILURE", "FAILED", Outcome::Failed(none.to_owned())),
        ("FAILURE", "a\u{1b}[2Jb", Outcome::Failed("a?[2Jb".to_owned())),
        ("EXPIRED", "", Outcome::Failed("the gateway reports status EXPIRED".to_owned())),
        ("ready", "", Outcome::Failed("the gateway reports status ready".to_owned())),
    ];
    for (status, message, expected) in table {
        assert_eq!(outcome(&image(status, message)), expected, "{status} {message}");
    }
}

#[test]
fn who_pulled_a_private_image_for_nobody_is_told_and_nobody_else_anything() {
    let alone =
        "Image is ready; it is private and yours alone: pull it again with --user or --group to share it";
    for (status, message, expected) in [
        ("READY", alone, Some(alone)),
        ("READY", "a\u{1b}[2Jb", Some("a?[2Jb")),
        ("READY", "Image is ready", None),
        ("READY", "Transferring image", None),
        ("READY", "", None),
        ("SUCCESS", "SUCCESS", None),
        ("PULLING", "Pulling layers 1/3", None),
        ("FAILURE", "no such tag", None),
    ] {
        assert_eq!(hint(&image(status, message)).as_deref(), expected, "{status} {message}");
    }
}

#[test]
fn a_failure_ends_the_waiting() {
    let (result, text, asked) =
        play(&FAST, Style::Changes, vec![Ok(image("PENDING", "")), Ok(image("FAILURE", "wrong digest"))]);
    assert_eq!(outcome(&result.unwrap()), Outcome::Failed("wrong digest".to_owned()));
    assert!(text.ends_with("status: FAILURE\n"), "{text}");
    assert_eq!(asked, 2);
}

#[test]
fn a_gateway_that_comes_back_is_forgiven() {
    let answers: Vec<Result<Image, fn() -> ClientError>> = vec![
        Ok(image("PULLING", "")),
        Err(down),
        Err(down),
        Ok(image("PULLING", "")),
        Err(down),
        Ok(image("READY", "")),
    ];
    let (result, _, asked) = play(&FAST, Style::Silent, answers);
    assert_eq!(outcome(&result.unwrap()), Outcome::Ready);
    assert_eq!(asked, 6);
}

#[test]
fn a_gateway_that_stays_away_is_given_up() {
    let start = Instant::now();
    let (result, text, asked) =
        play(&FAST, Style::OneLine { columns: 0 }, vec![Ok(image("PENDING", "")), Err(down)]);
    assert!(result.unwrap_err().to_string().contains("connection refused"));
    assert!(start.elapsed() >= FAST.patience, "{:?}", start.elapsed());
    assert!(asked > 3, "{asked}");
    assert!(text.ends_with("status: PENDING\n"), "the line must be ended before the error is told: {text:?}");
}

#[test]
fn a_first_failure_and_a_refusal_are_final() {
    let refused: fn() -> ClientError =
        || failed(AttemptError::Refused { status: 401, reason: "your credential has expired".to_owned() });
    for answers in [vec![Err(down as fn() -> ClientError)], vec![Ok(image("PENDING", "")), Err(refused)]] {
        let requests = answers.len();
        let (result, _, asked) = play(&FAST, Style::Silent, answers);
        assert!(result.is_err());
        assert_eq!(asked, requests);
    }
}

#[test]
fn pullnb_asks_once() {
    let (result, text, asked) = play(&Pace::ONCE, Style::Changes, vec![Ok(image("PENDING", ""))]);
    assert_eq!(outcome(&result.unwrap()), Outcome::Going);
    assert_eq!((text.as_str(), asked), ("T Pulling Image: docker:x, status: PENDING\n", 1));
}

#[test]
fn a_gateway_that_holds_requests_is_asked_with_what_was_seen() {
    let answers = RefCell::new(VecDeque::from([
        ("PENDING", Some("1"), None),
        ("PULLING", Some("2"), Some((1 << 20, Some(4 << 20)))),
        ("PULLING", Some("3"), Some((5 << 20, None))),
        ("READY", Some("4"), None),
    ]));
    let asked = RefCell::new(Vec::new());
    let ask = |seen: &str| {
        asked.borrow_mut().push(seen.to_owned());
        let (status, state, progress) = answers.borrow_mut().pop_front().unwrap();
        Ok(Pulled {
            image: image(status, ""),
            state: state.map(str::to_owned),
            progress: progress.map(|(done, total)| wire::Progress {
                stage: "Pulling layers".to_owned(),
                done,
                total,
                layers: [("fetched", 9), ("fetching", 1), ("converting", 2)]
                    .map(|(stage, mib)| LayerProgress {
                        digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
                        stage: stage.to_owned(),
                        done: mib << 20,
                        total: 9 << 20,
                    })
                    .to_vec(),
            }),
        })
    };
    let mut out = Vec::new();
    let mut progress = Progress::new(&mut out, Style::EveryAnswer, "Pulling Image: docker:x".to_owned());
    progress.now = || "T".to_owned();
    follow(&Pace::waiting(Style::Silent, None), &ask, &mut progress).unwrap();
    assert_eq!(*asked.borrow(), ["", "1", "2", "3"]);
    let text = String::from_utf8(out).unwrap();
    let layers = "    sha256:0123456789ab fetching: 1.0 of 9.0 MiB, 11 %\n    \
                  sha256:0123456789ab converting: 2.0 of 9.0 MiB, 22 %\n";
    for line in ["1.0 of 4.0 MiB, 25 %", "5.0 MiB"] {
        assert!(text.contains(&format!("PULLING (Pulling layers: {line})\n{layers}")), "{text}");
    }
    assert_eq!(Pace::waiting(Style::Silent, Some(Duration::from_secs(8))).wait("x"), Some((4, "x")));
    assert_eq!(Pace::waiting(Style::OneLine { columns: 0 }, None).wait("x"), Some((1, "x")));
    assert_eq!(Pace::waiting(Style::EveryAnswer, None).wait("x"), Some((5, "x")));
    assert_eq!(Pace::ONCE.wait(""), Some((0, "")));
}

#[test]
fn a_gateway_that_answers_the_same_at_once_is_not_asked_without_pause() {
    let start = Instant::now();
    let asked = RefCell::new(0);
    let ask = |_: &str| {
        *asked.borrow_mut() += 1;
        let status = if *asked.borrow() < 4 { "PULLING" } else { "READY" };
        Ok(Pulled { image: image(status, ""), state: Some("same".to_owned()), progress: None })
    };
    let mut out = Vec::new();
    let mut progress = Progress::new(&mut out, Style::Silent, String::new());
    let pace = Pace { interval: Some(Duration::from_millis(150)), ..Pace::waiting(Style::Silent, None) };
    follow(&pace, &ask, &mut progress).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}
