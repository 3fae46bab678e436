//! Golden bytes of the wire documents, and how forgiving their readers are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn ready() -> Image {
    Image {
        id: Some("a2fb".into()),
        system: Some("sysa".into()),
        itype: Some("docker".into()),
        tag: vec!["test/app:v1".into()],
        status: Some(status::READY.into()),
        user_acl: Some(vec![4242, 65534]),
        group_acl: Some(vec![]),
        env: Some(vec!["PATH=/bin".into(), "X=1=2".into()]),
        entry: Some(vec!["/bin/sh".into(), "-c".into()]),
        workdir: Some("/work".into()),
        labels: None,
        last_pull: Some(1_795_210_150.0),
        status_message: Some("Transferring image".into()),
    }
}

#[test]
fn old_client_reads_the_first_reply_of_a_pull() {
    let image = Image {
        system: Some("sysa".into()),
        itype: Some("docker".into()),
        status: Some(status::INIT.into()),
        user_acl: Some(vec![]),
        group_acl: Some(vec![]),
        ..Image::default()
    };
    assert_eq!(
        serde_json::to_string(&image).unwrap(),
        r#"{"id":"MISSING","system":"sysa","itype":"docker","tag":[],"status":"INIT","userACL":[],"groupACL":[],"ENV":"MISSING","ENTRY":"MISSING","WORKDIR":"MISSING","LABELS":"MISSING","last_pull":"MISSING","status_message":"MISSING"}"#
    );
}

#[test]
fn whole_seconds_keep_their_decimal_point() {
    assert_eq!(
        serde_json::to_string(&ImageList { list: vec![ready()] }).unwrap(),
        r#"{"list":[{"id":"a2fb","system":"sysa","itype":"docker","tag":["test/app:v1"],"status":"READY","userACL":[4242,65534],"groupACL":[],"ENV":["PATH=/bin","X=1=2"],"ENTRY":["/bin/sh","-c"],"WORKDIR":"/work","LABELS":"MISSING","last_pull":1795210150.0,"status_message":"Transferring image"}]}"#
    );
    for (seconds, expected) in [(0.0, "0.0"), (1795210150.8, "1795210150.8"), (f64::NAN, "\"MISSING\"")] {
        let text = serde_json::to_string(&Image { last_pull: Some(seconds), ..Image::default() }).unwrap();
        assert!(text.contains(&format!("\"last_pull\":{expected},")), "{text}");
    }
}

#[test]
fn what_we_write_we_read() {
    let image = ready();
    let text = serde_json::to_string(&image).unwrap();
    assert_eq!(serde_json::from_str::<Image>(&text).unwrap(), image);
}

#[test]
fn answers_of_an_original_gateway_are_read() {
    let cases: [(&str, Image); 5] = [
        (
            r#"{"ID":"ab","unknown":{"x":[1]},"tag":"one:1"}"#,
            Image { id: Some("ab".into()), tag: vec!["one:1".into()], ..Image::default() },
        ),
        (
            r#"{"tag":["a","b"],"userACL":null,"groupACL":null}"#,
            Image { tag: vec!["a".into(), "b".into()], ..Image::default() },
        ),
        (
            r#"{"tag":"MISSING","ENTRY":"/run.sh","last_pull":5}"#,
            Image { entry: Some(vec!["/run.sh".into()]), last_pull: Some(5.0), ..Image::default() },
        ),
        (r#"{"WORKDIR":"\/work"}"#, Image { workdir: Some("/work".into()), ..Image::default() }),
        (
            r#"{"LABELS":{"a":"b"}}"#,
            Image { labels: Some(BTreeMap::from([("a".into(), "b".into())])), ..Image::default() },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(serde_json::from_str::<Image>(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn wrongly_typed_answers_are_named() {
    for (text, key) in [
        (r#"{"id":7}"#, "id"),
        (r#"{"tag":[1]}"#, "tag"),
        (r#"{"userACL":[-1]}"#, "userACL"),
        (r#"{"last_pull":"soon"}"#, "last_pull"),
        (r#"{"LABELS":["x"]}"#, "LABELS"),
    ] {
        let error = serde_json::from_str::<Image>(text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn pull_request_bodies() {
    let ok = |uids: &[u32], gids: &[u32]| {
        Some(PullRequest { allowed_uids: uids.to_vec(), allowed_gids: gids.to_vec() })
    };
    for (body, expected) in [
        ("", ok(&[], &[])),
        (" \n", ok(&[], &[])),
        ("{}", ok(&[], &[])),
        (r#"{"allowed_uids":"","allowed_gids":null}"#, ok(&[], &[])),
        (r#"{"allowed_uids":"1,2","allowed_gids":"3"}"#, ok(&[1, 2], &[3])),
        (r#"{"allowed_uids":" 1 , 2 "}"#, ok(&[1, 2], &[])),
        (r#"{"allowed_uids":"1,,2"}"#, None),
        (r#"{"allowed_uids":"alice"}"#, None),
        (r#"{"allowed_uids":"-5"}"#, None),
        (r#"{"allowed_uids":"+5"}"#, None),
        (r#"{"allowed_uids":"4294967295"}"#, None),
        (r#"{"allowed_uids":[1]}"#, None),
        ("[]", None),
        ("{", None),
    ] {
        assert_eq!(PullRequest::parse(body.as_bytes()).ok(), expected, "{body}");
    }
    let many = vec!["7"; MAX_ACL_IDS + 1].join(",");
    assert_eq!(parse_id_list(&many), Err(IdListError::TooMany));
    let request = PullRequest { allowed_uids: vec![1, 2], allowed_gids: vec![] };
    assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"allowed_uids":"1,2","allowed_gids":""}"#);
}

#[test]
fn error_and_queue_documents() {
    let error = ErrorBody {
        status: 404,
        error: "image not found".into(),
        message: "Not Found: /api/lookup/sysa/docker/x/".into(),
    };
    assert_eq!(
        serde_json::to_string(&error).unwrap(),
        r#"{"status":404,"error":"image not found","message":"Not Found: /api/lookup/sysa/docker/x/"}"#
    );
    let queue = Queue { list: vec![QueueEntry { status: "PULLING".into(), image: "a/b:1".into() }] };
    assert_eq!(serde_json::to_string(&queue).unwrap(), r#"{"list":[{"status":"PULLING","image":"a/b:1"}]}"#);
}
