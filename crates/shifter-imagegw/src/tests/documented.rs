//! Whether an answer is what the OpenAPI document says of its route and status: its type, its schema, and strictly, so
//! that a property the document does not name is a fault. Only the keywords that the document uses are known; another
//! one in it is a fault, too.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{openapi, route};

/// What is wrong with an answer; `head` in small letters.
pub(crate) fn check_answer(
    method: &str,
    target: &str,
    status: u16,
    head: &str,
    body: &str,
) -> Result<(), String> {
    let said = "content-type: ";
    let kind = head.lines().find_map(|line| line.strip_prefix(said)).ok_or("it has no type")?;
    let kind = kind.split(';').next().unwrap_or(kind);
    let error = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
    let content = match operation(method, target) {
        Some(operation) => &operation["responses"][status.to_string()]["content"],
        None if matches!(status, 400 | 404 | 405 | 414) => &error,
        None => return Err("it is of no route".to_owned()),
    };
    if content.is_null() {
        return Err("its status is not documented".to_owned());
    }
    let schema = content.get(kind).ok_or_else(|| format!("{kind} is not documented: {content}"))?;
    if method == "HEAD" {
        return if body.is_empty() { Ok(()) } else { Err("HEAD is answered with a body".to_owned()) };
    }
    let value = match kind {
        "application/json" => serde_json::from_str(body).map_err(|error| error.to_string())?,
        _ => Value::from(body),
    };
    check(&schema["schema"], &value, "")
}

/// The document's words on what answers a request, where anything does.
fn operation(method: &str, target: &str) -> Option<&'static Value> {
    let path = route::decode(target.split('?').next()?).ok()?;
    let found = route::find(&path).ok()?;
    let method = if method == "HEAD" { "GET" } else { method };
    let route = found.routes.iter().find(|route| route.method == method)?;
    Some(&openapi::document()["paths"][route.path][method.to_ascii_lowercase()])
}

/// Which of an object's properties a schema names.
#[derive(Default)]
struct Named {
    names: BTreeSet<String>,
    /// Those that it does not name are described, too.
    all: bool,
}

/// Compares a value with a schema; `at` says where the value stands.
pub(super) fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let mut named = Named::default();
    compare(schema, value, at, &mut named)?;
    let keys = value.as_object().into_iter().flatten().map(|(key, _)| key);
    match keys.into_iter().find(|key| !named.all && !named.names.contains(*key)) {
        Some(key) => Err(format!("{at}/{key}: the document does not name it")),
        None => Ok(()),
    }
}

fn compare(schema: &Value, value: &Value, at: &str, named: &mut Named) -> Result<(), String> {
    let wrong = |what: &Value| Err(format!("{at}: {value} is not {what}"));
    for (keyword, said) in schema.as_object().ok_or("a schema is an object")? {
        let holds = match keyword.as_str() {
            "description" => true,
            "$ref" => {
                let pointer = said.as_str().unwrap_or_default().trim_start_matches('#');
                let meant = openapi::document().pointer(pointer).ok_or_else(|| format!("no {pointer}"))?;
                compare(meant, value, at, named)?;
                true
            }
            "allOf" => {
                for part in list(said) {
                    compare(part, value, at, named)?;
                }
                true
            }
            "anyOf" => {
                named.all = true;
                list(said).iter().any(|part| check(part, value, at).is_ok())
            }
            "const" => value == said,
            "enum" => list(said).contains(value),
            "type" if said.is_array() => list(said).iter().any(|name| has_type(value, name)),
            "type" => has_type(value, said),
            "minimum" => value.as_f64().is_none_or(|number| Some(number) >= said.as_f64()),
            "pattern" if said == "^[0-9a-f]{64}$" => value.as_str().is_none_or(|text| {
                text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }),
            "items" => {
                for (number, item) in list(value).iter().enumerate() {
                    check(said, item, &format!("{at}/{number}"))?;
                }
                true
            }
            "required" => list(said).iter().all(|name| value.get(name.as_str().unwrap_or("")).is_some()),
            "properties" => {
                for (name, schema) in said.as_object().ok_or("properties are an object")? {
                    named.names.insert(name.clone());
                    if let Some(value) = value.get(name) {
                        check(schema, value, &format!("{at}/{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                named.all = true;
                let known = schema.get("properties");
                for (name, value) in value.as_object().into_iter().flatten() {
                    if *said != true && known.is_none_or(|known| known.get(name).is_none()) {
                        check(said, value, &format!("{at}/{name}"))?;
                    }
                }
                true
            }
            other => return Err(format!("{at}: {other} is a keyword that this test does not know")),
        };
        if !holds {
            return wrong(&json!({ keyword: said }));
        }
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn has_type(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

#[test]
fn an_answer_that_is_not_as_documented_is_found() {
    let object = |more: &str| format!(r#"{{"status":404,"error":"a","message":"b"{more}}}"#);
    let json = "content-type: application/json";
    let lookup = "/api/lookup/s/docker/a";
    let image = |id: &str, more: &str| {
        format!(
            r#"{{"id":{id},"system":"s","itype":"docker","tag":["a"],"status":"READY","userACL":"MISSING",
            "groupACL":[1],"ENV":["a=b"],"ENTRY":"MISSING","WORKDIR":"/","LABELS":{{"a":"b"}},"last_pull":1.5,
            "status_message":"ok"{more}}}"#
        )
    };
    let id = format!("\"{}\"", "a1".repeat(32));
    let cases: &[(&str, &str, u16, &str, String, &str)] = &[
        ("GET", lookup, 404, json, object(""), ""),
        ("GET", "/nothing", 404, json, object(""), ""),
        ("GET", "/", 200, "content-type: text/plain", "{lookup}".to_owned(), ""),
        ("GET", lookup, 200, json, image(&id, ""), ""),
        ("GET", lookup, 200, json, image("\"MISSING\"", ""), ""),
        ("POST", "/api/pull/s/docker/a", 200, json, image(&id, r#","state":"1""#), ""),
        ("GET", "/nothing", 404, json, object(r#","more":1"#), "/more: the document does not name it"),
        ("GET", "/nothing", 404, json, r#"{"status":404,"error":"a"}"#.to_owned(), "\"required\""),
        ("GET", "/nothing", 404, json, object("").replace("404", "\"404\""), "/status: \"404\" is not"),
        ("GET", "/nothing", 422, json, object(""), "it is of no route"),
        ("GET", lookup, 429, json, object(""), "its status is not documented"),
        ("GET", lookup, 404, "content-type: text/html", object(""), "text/html is not documented"),
        ("GET", lookup, 404, "content-length: 3", object(""), "it has no type"),
        ("GET", lookup, 404, json, "{".to_owned(), "EOF"),
        ("GET", lookup, 200, json, image("\"a1\"", ""), "/id: \"a1\" is not"),
        ("GET", lookup, 200, json, image(&id, r#","state":"1""#), "/state: the document does not name it"),
        ("GET", lookup, 200, json, image(&id, "").replace("[1]", "[-1]"), "/groupACL: [-1] is not"),
        ("GET", lookup, 200, json, image(&id, "").replace(r#"{"a":"b"}"#, r#"{"a":1}"#), "/LABELS: "),
        ("HEAD", "/api/status", 200, json, "{}".to_owned(), "HEAD is answered with a body"),
        (
            "POST",
            "/api/pull/s/docker/a",
            200,
            json,
            image(&id, r#","progress":{"stage":"a","done":0,"layers":[{}]}"#),
            "/progress/layers/0: {} is not",
        ),
    ];
    for (method, target, status, head, body, expected) in cases {
        let found = check_answer(method, target, *status, head, body).err().unwrap_or_default();
        assert_eq!(found.is_empty(), expected.is_empty(), "{method} {target} {status} {body}: {found}");
        assert!(found.contains(expected), "{found}");
    }
    assert!(check(&json!({ "maximum": 3 }), &json!(5), "").unwrap_err().contains("does not know"));
}
