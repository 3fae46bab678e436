//! Writing `.meta`: the original's lines, then the exact record.

use super::{ACL_LEFT_OUT, Acl, Meta, RICH_PREFIX, Rich};
use crate::json::{Value, write};

impl Meta {
    /// The same without its access list, and with the line that says so. What everybody may run had none.
    #[must_use]
    pub fn without_acl(self) -> Meta {
        Meta { is_acl_left_out: !self.acl.is_public(), acl: Acl::default(), ..self }
    }

    /// The record's text. A value that a line of the original cannot hold unchanged is left out of the legacy
    /// lines, so that no image can write lines of its own (`USERACL:` …) into it.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut line = |key: &str, value: &str| {
            if fits_a_line(value) {
                out.push_str(&format!("{key}: {value}\n"));
            }
        };
        line("FORMAT", &self.format);
        for (key, list) in [("ENTRY", &self.entry), ("CMD", &self.cmd)] {
            if let Some(text) = list.as_deref().and_then(render_list) {
                line(key, &text);
            }
        }
        if let Some(workdir) = &self.workdir {
            line("WORKDIR", workdir);
        }
        if !self.acl.is_public() {
            for (key, ids) in [("USERACL", &self.acl.uids), ("GROUPACL", &self.acl.gids)] {
                if !ids.is_empty() {
                    line(key, &ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
                }
            }
        }
        for variable in self.env.iter().filter(|variable| variable.contains('=')) {
            line("ENV", variable);
        }
        if self.is_acl_left_out {
            out.push_str(&format!("{ACL_LEFT_OUT}\n"));
        }
        if let Some(rich) = &self.rich {
            out.push_str(&format!("{RICH_PREFIX}{}\n", self.render_rich(rich)));
        }
        out
    }

    fn render_rich(&self, rich: &Rich) -> String {
        let mut members =
            vec![("size", Value::Number(rich.size)), ("sha256", Value::Text(rich.sha256.clone()))];
        for (name, text) in
            [("architecture", &rich.architecture), ("user", &rich.user), ("stopSignal", &rich.stop_signal)]
        {
            if !text.is_empty() {
                members.push((name, Value::Text(text.clone())));
            }
        }
        for (name, list) in [("entry", &self.entry), ("cmd", &self.cmd)] {
            if let Some(list) = list {
                members.push((name, Value::List(list.clone())));
            }
        }
        if let Some(workdir) = &self.workdir {
            members.push(("workdir", Value::Text(workdir.clone())));
        }
        members.push(("env", Value::List(self.env.clone())));
        if !rich.volumes.is_empty() {
            members.push(("volumes", Value::List(rich.volumes.clone())));
        }
        if !rich.labels.is_empty() {
            members.push(("labels", Value::Map(rich.labels.clone())));
        }
        if !rich.source.is_empty() {
            members.push(("source", Value::Text(rich.source.clone())));
        }
        write::object(&members)
    }
}

/// Whether the original's reader gives back exactly `value`: it trims, joins lines after a final backslash,
/// and knows no escapes.
fn fits_a_line(value: &str) -> bool {
    !value.is_empty()
        && value.trim() == value
        && !value.ends_with('\\')
        && !value.chars().any(char::is_control)
}

/// The Python list of the original, `['a', 'b']`; `None` if an element cannot stand in it.
fn render_list(list: &[String]) -> Option<String> {
    if list.is_empty() || list.iter().any(|item| item.contains('\'') || item.chars().any(char::is_control)) {
        return None;
    }
    Some(format!("['{}']", list.join("', '")))
}
