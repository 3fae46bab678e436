//! The OpenAPI 3.1 document, written from the table of routes. What the table does not say, how the
//! documents look, is said here: one schema per name that the table uses.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::http::LONGEST_BODY;
use crate::routes::{self, FILE, Kind, Route, Who};

/// Status codes that routes of a system may answer with beside 200, whichever they are.
const ALWAYS: [u16; 8] = [400, 404, 405, 408, 413, 414, 500, 503];

/// The answer of the one route whose 503 is an answer, too.
const READINESS: &str = "Readiness";

/// The document.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(write)
}

fn write() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            methods.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Shifter image gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Paths are the same with and without a slash at their end. Status 200 is the only \
                success; all others have the same error document, save 503 of /readyz."
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "munge": {
                "type": "apiKey", "in": "header", "name": "authentication",
                "description": "A MUNGE credential of the system that the path names, for one request. Its payload \
                    is empty or a JSON object with authorized_locations (user:password by registry) and request \
                    (what the credential is for)."
            } }
        }
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for (name, meaning) in [
        ("system", "the cluster"),
        ("itype", "the type of the image: docker, custom, ..."),
        ("tag", "the image's name, percent-encoded"),
    ] {
        if route.path.contains(&format!("{{{name}}}")) {
            let schema = json!({ "type": "string", "minLength": 1, "pattern": "^[^/]" });
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "description": meaning, "schema": schema
            }));
        }
    }
    parameters.extend(route.query.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": "query", "required": false,
            "description": parameter.meaning, "schema": kind(parameter.kind)
        })
    }));
    let mut responses = Map::new();
    let content = match route.reply {
        "Text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        name => json!({ "application/json": { "schema": reference(name) } }),
    };
    responses.insert("200".to_owned(), json!({ "description": "Done.", "content": content }));
    let refusals = ALWAYS.iter().chain(route.refusals).chain((route.who != Who::Anyone).then_some(&401));
    for status in refusals {
        // Who is not ready says what is missing in the same words.
        let schema = if route.reply == READINESS && *status == 503 { READINESS } else { "Error" };
        let content = json!({ "application/json": { "schema": reference(schema) } });
        responses.insert(status.to_string(), json!({ "description": reason(*status), "content": content }));
    }
    let security = match route.who {
        Who::Anyone => json!([]),
        // Where the site says so.
        Who::Reader => json!([{ "munge": [] }, {}]),
        Who::User => json!([{ "munge": [] }]),
    };
    let mut operation = json!({
        "operationId": route.action, "summary": route.summary, "parameters": parameters,
        "responses": responses, "security": security
    });
    if let (Some(body), Value::Object(operation)) = (route.body, &mut operation) {
        let (kind, text) = match body {
            FILE => ("application/octet-stream", "The file.".to_owned()),
            _ => (
                "application/json",
                format!("Whatever its type says, it is read as JSON; at most {LONGEST_BODY} bytes."),
            ),
        };
        let content = json!({ kind: { "schema": reference(body) } });
        let body = json!({ "description": text, "content": content });
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Text(longest) => json!({ "type": "string", "maxLength": longest }),
        Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Flag => json!({ "type": "integer", "enum": [0, 1] }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "The request cannot be read.",
        401 => "No credential, or not a good one.",
        403 => "Not for this caller.",
        404 => "There is no such route, system or image, or not for this caller.",
        405 => "Another method is meant.",
        408 => "The request did not arrive in time.",
        409 => "It contradicts what is there.",
        413 => "The body is too long.",
        414 => "The path or its parameters are too long.",
        422 => "It can be read, but not be done.",
        429 => "Asked too often; Retry-After says when again.",
        503 => "Not now; Retry-After says when again.",
        _ => "The gateway failed; its log says more.",
    }
}

/// A value, or the text that stands for none.
fn or_missing(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "const": shifter_api::wire::MISSING }] })
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn image() -> Map<String, Value> {
    let ids = || json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } });
    let text = || json!({ "type": "string" });
    let labels = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let fields = [
        ("id", or_missing(json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }))),
        ("system", text()),
        ("itype", text()),
        ("tag", texts()),
        ("status", text()),
        ("userACL", or_missing(ids())),
        ("groupACL", or_missing(ids())),
        ("ENV", or_missing(texts())),
        ("ENTRY", or_missing(texts())),
        ("WORKDIR", text()),
        ("LABELS", or_missing(labels)),
        ("last_pull", or_missing(json!({ "type": "number" }))),
        ("status_message", text()),
    ];
    fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn object(properties: impl Into<Map<String, Value>>) -> Value {
    let properties: Map<String, Value> = properties.into();
    let required: Vec<&String> = properties.keys().collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// Every name that the table uses.
fn schemas() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let list_of = |name: &str| object(map([("list", json!({ "type": "array", "items": reference(name) }))]));
    let ids = json!({ "type": "string", "description": "numbers with commas between them", "pattern": "^[0-9, ]*$" });
    let stages = ["waiting", "fetching", "fetched", "remembered", "converting", "converted"];
    let layer = object(map([
        ("digest", text()),
        ("stage", json!({ "type": "string", "enum": stages })),
        ("done", json!({ "type": "integer", "minimum": 0 })),
        ("total", json!({ "type": "integer", "minimum": 0 })),
    ]));
    let mut progress = object(map([
        ("stage", text()),
        ("done", json!({ "type": "integer", "minimum": 0 })),
        ("total", json!({ "type": ["integer", "null"], "minimum": 0 })),
    ]));
    progress["properties"]["layers"] =
        json!({ "type": "array", "items": layer, "description": "oldest first; absent where none is made" });
    let pulled = json!({ "allOf": [reference("Image"), {
        "type": "object",
        "properties": { "state": text(), "progress": progress },
        "description": "state and progress only where wait or seen was given"
    }] });
    map([
        (
            "Error",
            object(map([("status", json!({ "type": "integer" })), ("error", text()), ("message", text())])),
        ),
        ("Status", object(map([("status", text())]))),
        ("Document", json!({ "type": "object", "additionalProperties": true })),
        (
            READINESS,
            object(map(
                ["ready", "catalog", "images", "munge"].map(|name| (name, json!({ "type": "boolean" })))
            )),
        ),
        ("Image", object(image())),
        ("ImageList", list_of("Image")),
        ("Queue", list_of("QueueEntry")),
        ("QueueEntry", object(map([("status", text()), ("image", text())]))),
        ("Pulled", pulled),
        ("Done", object(map([("status", json!({ "type": ["boolean", "null"] }))]))),
        (
            "Restored",
            json!({ "type": "object", "required": ["status"], "properties":
                { "status": { "type": ["boolean", "null"] }, "file": { "type": "boolean" } } }),
        ),
        ("Expired", object(map([("status", json!({ "anyOf": [texts(), { "const": false }] }))]))),
        ("Uses", json!({ "type": "array", "items": reference("Use") })),
        (
            "Use",
            object(map([
                ("user", text()),
                ("uid", json!({ "type": "integer", "minimum": 0 })),
                ("system", text()),
                ("type", text()),
                ("tag", text()),
                ("id", text()),
                ("time", json!({ "type": "number" })),
            ])),
        ),
        ("History", list_of("Meaning")),
        ("Meaning", object(map([("id", text()), ("since", json!({ "type": "number" }))]))),
        (
            "Inspected",
            json!({ "allOf": [reference("Image"), { "type": "object", "properties": {
                "format": text(), "size": { "type": "integer" }, "sha256": text(), "architecture": text(),
                "cmd": { "type": ["array", "null"] }, "user": text(), "volumes": texts(), "stop_signal": text(),
                "expiration": { "type": "number" }, "pinned": { "type": "boolean" }, "tags": texts()
            } }] }),
        ),
        (
            "PullRequest",
            json!({ "type": "object", "properties": { "allowed_uids": ids.clone(), "allowed_gids": ids.clone() } }),
        ),
        ("File", json!({ "type": "string", "format": "binary" })),
        (
            "ImportRequest",
            json!({ "type": "object", "required": ["filepath", "format"], "properties": {
                "filepath": { "type": "string", "pattern": "^/" }, "format": text(),
                "allowed_uids": ids.clone(), "allowed_gids": ids.clone(), "verbatim": { "type": "boolean" } } }),
        ),
        ("LoginRequest", object(map([("location", json!({ "type": "string", "maxLength": 256 }))]))),
        (
            "LoginReply",
            json!({ "type": "object", "required": ["status"],
                "properties": { "status": { "type": "boolean" }, "message": text() } }),
        ),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::routes::Run;

    /// All values of a key, at any depth.
    fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get(key));
                map.values().for_each(|value| all(value, key, found));
            }
            Value::Array(list) => list.iter().for_each(|value| all(value, key, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_documented_and_every_schema_that_is_named_is_there() {
        let document = document();
        for route in routes::all() {
            let operation = &document["paths"][route.path][route.method.to_ascii_lowercase()];
            assert_eq!(operation["operationId"], route.action, "{route:?}");
            let places = route.path.matches('{').count();
            let parameters = operation["parameters"].as_array().unwrap();
            assert_eq!(parameters.len(), places + route.query.len(), "{route:?}");
            assert_eq!(matches!(route.run, Run::System(_)), route.path.contains("{system}"), "{route:?}");
        }
        let actions: std::collections::BTreeSet<_> = routes::all().map(|route| route.action).collect();
        assert_eq!(actions.len(), routes::all().count(), "operation ids are unique");
        let mut references = Vec::new();
        all(document, "$ref", &mut references);
        for reference in references {
            let pointer = reference.as_str().unwrap().trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
