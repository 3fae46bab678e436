//! One object of `imagemanager.json`, read key by key; problems are collected, not thrown, so that
//! an administrator sees all of them at once. Knows JSON types and paths, nothing of meanings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};
use shifter_core::nearest::nearest;

use super::keys::Key;

/// What was found wrong or odd so far.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// An object with the dotted path that leads to it.
pub(crate) struct Section<'a> {
    path: String,
    map: &'a Map<String, Value>,
    notes: &'a mut Notes,
}

impl<'a> Section<'a> {
    /// Opens an object and reports the keys that are not in the table.
    pub(crate) fn new(
        path: String,
        map: &'a Map<String, Value>,
        known: &[Key],
        notes: &'a mut Notes,
    ) -> Self {
        let section = Section { path, map, notes };
        for key in map.keys().filter(|key| !known.iter().any(|k| k.name == key.as_str())) {
            let hint = nearest(key, known.iter().map(|k| k.name))
                .map(|name| format!("; did you mean {name}?"))
                .unwrap_or_default();
            let warning = format!("{}: unknown key, ignored{hint}", section.path_of(key));
            section.notes.warnings.push(warning);
        }
        section
    }

    /// The key with the sections that lead to it, as `Platforms.sys.local.imageDir`.
    pub(crate) fn path_of(&self, key: &str) -> String {
        let shown = key.chars().take(64).flat_map(char::escape_default).collect::<String>();
        if self.path.is_empty() { shown } else { format!("{}.{shown}", self.path) }
    }

    pub(crate) fn problem(&mut self, key: &str, what: &str) {
        let problem = format!("{}: {what}", self.path_of(key));
        self.notes.problems.push(problem);
    }

    pub(crate) fn warning(&mut self, key: &str, what: &str) {
        let warning = format!("{}: {what}", self.path_of(key));
        self.notes.warnings.push(warning);
    }

    fn get<T>(&mut self, key: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.problem(key, &format!("must be {expected}"));
        }
        read
    }

    /// Whether the key is there with a value.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        self.get(key, "a string", Value::as_str)
    }

    pub(crate) fn bool(&mut self, key: &str) -> Option<bool> {
        self.get(key, "true or false", Value::as_bool)
    }

    pub(crate) fn integer(&mut self, key: &str, least: u64, most: u64) -> Option<u64> {
        let expected = format!("a whole number from {least} to {most}");
        self.get(key, &expected, |value| value.as_u64().filter(|n| (least..=most).contains(n)))
    }

    pub(crate) fn decimal(&mut self, key: &str, least: f64, most: f64) -> Option<f64> {
        let expected = format!("a number from {least} to {most}");
        self.get(key, &expected, |value| value.as_f64().filter(|n| (least..=most).contains(n)))
    }

    pub(crate) fn choice(&mut self, key: &str, choices: &[&'static str]) -> Option<&'static str> {
        let expected = format!("one of {}", choices.join(", "));
        self.get(key, &expected, |value| {
            let text = value.as_str()?;
            choices.iter().copied().find(|choice| choice.eq_ignore_ascii_case(text))
        })
    }

    /// A list of strings, or one string as a list of one: `"root"` names root and nobody else.
    pub(crate) fn names(&mut self, key: &str) -> Vec<String> {
        self.get(key, "a string or a list of strings", |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(values) => values.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => None,
        })
        .unwrap_or_default()
    }

    pub(crate) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.get(key, "an absolute path", |value| {
            value.as_str().filter(|text| text.starts_with('/') && !text.contains('\0')).map(PathBuf::from)
        })
    }

    pub(crate) fn required_text(&mut self, key: &str) -> Option<String> {
        self.report_missing(key);
        self.text(key).map(str::to_owned)
    }

    pub(crate) fn required_path(&mut self, key: &str) -> Option<PathBuf> {
        self.report_missing(key);
        self.path(key)
    }

    fn report_missing(&mut self, key: &str) {
        if !self.is_set(key) {
            self.problem(key, "missing");
        }
    }

    /// Reads a nested object; `None` where the key is absent or no object.
    pub(crate) fn object<T>(
        &mut self,
        key: &str,
        known: &[Key],
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> Option<T> {
        let map = self.get(key, "an object", Value::as_object)?;
        let path = self.path_of(key);
        Some(read(&mut Section::new(path, map, known, self.notes)))
    }

    /// Reads an object of named objects, all with the same keys.
    pub(crate) fn objects<T>(
        &mut self,
        key: &str,
        known: &[Key],
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> BTreeMap<String, T> {
        self.report_missing(key);
        let Some(map) = self.get(key, "an object of named objects", Value::as_object) else {
            return BTreeMap::new();
        };
        let outer = self.path_of(key);
        let mut found = BTreeMap::new();
        for (name, value) in map {
            let Value::Object(inner) = value else {
                self.problem(&format!("{key}.{name}"), "must be an object");
                continue;
            };
            let mut section = Section::new(format!("{outer}.{name}"), inner, known, self.notes);
            found.insert(name.clone(), read(&mut section));
        }
        found
    }
}
