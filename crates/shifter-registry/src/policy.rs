//! Which images a site lets its users pull: lists of registries and repositories, allowed and denied.
//!
//! A rule is `REGISTRY` or `REGISTRY/REPOSITORY`. The registry is a name of a location, a host, a host and port,
//! `*.DOMAIN` for every host below a domain, or `*`. The repository is written in full (`library/debian`), or ends
//! in `/*` for everything below it. What is denied is denied. What is not denied is allowed if no `allow` list is
//! given and the registry is configured, or if a rule of that list says so; such a rule may then also open a
//! registry that is not configured. Pure decisions; finding the registry of an image is done in `registries`.

use crate::error::{RegistryError, quote};
use crate::location::is_hub_name;

/// What a site lets its users pull. The default: everything of the configured registries, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    registry: Pattern,
    repository: Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    Exactly(String),
    /// Everything that ends so (registries, `.example.org`).
    EndsWith(String),
    /// Everything that begins so (repositories, `group/`).
    BeginsWith(String),
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Exactly(wanted) => text == wanted,
            Pattern::EndsWith(end) => text.ends_with(end.as_str()),
            Pattern::BeginsWith(start) => text.starts_with(start.as_str()),
        }
    }
}

impl Policy {
    /// Reads the lists of a configuration. `allow` absent means: every configured registry. An empty list allows
    /// nothing.
    pub fn parse(allow: Option<&[String]>, deny: &[String]) -> Result<Self, RegistryError> {
        let rules = |list: &[String]| list.iter().map(|text| Rule::parse(text)).collect::<Result<_, _>>();
        Ok(Self { allow: allow.map(rules).transpose()?, deny: rules(deny)? })
    }

    /// Whether `repository`, in full, may be pulled from the registry known by `names`, its location's name and its
    /// host; `configured`: whether it is one of the locations. The refusal says which list decided.
    pub(crate) fn check(&self, names: &[&str], configured: bool, repository: &str) -> Result<(), String> {
        let matched = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(names, repository));
        if matched(&self.deny) {
            return Err("this site's policy denies it".to_owned());
        }
        match &self.allow {
            Some(rules) if matched(rules) => Ok(()),
            Some(_) => Err("this site's policy does not allow it".to_owned()),
            None if configured => Ok(()),
            None => Err("it is not one of the registries that this site pulls from".to_owned()),
        }
    }

    /// Whether anything at all may be pulled from the registry known by `names`.
    pub(crate) fn opens(&self, names: &[&str], configured: bool) -> bool {
        let is_of = |rule: &&Rule| names.iter().any(|name| rule.registry.matches(&canonical(name)));
        let is_denied = self.deny.iter().filter(is_of).any(|rule| rule.repository == Pattern::Any);
        !is_denied && self.allow.as_ref().map_or(configured, |rules| rules.iter().any(|rule| is_of(&rule)))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, RegistryError> {
        let fail = |rule: &str| RegistryError::Name {
            what: "rule of a pull policy",
            name: quote(text),
            rule: rule.to_owned(),
        };
        let (registry, repository) = text.split_once('/').unwrap_or((text, "*"));
        let registry = match registry.strip_prefix('*') {
            Some("") => Pattern::Any,
            Some(rest) if rest.starts_with('.') && rest.len() > 1 => Pattern::EndsWith(canonical(rest)),
            None if !registry.is_empty() => Pattern::Exactly(canonical(registry)),
            _ => return Err(fail("the registry is a name, host, host:port, *.domain or *")),
        };
        let repository = match repository.strip_suffix('*') {
            Some("") => Pattern::Any,
            Some(start) if start.ends_with('/') => Pattern::BeginsWith(start.to_owned()),
            None if !repository.is_empty() => Pattern::Exactly(repository.to_owned()),
            _ => return Err(fail("the repository is a full name, or ends in /* for all below it")),
        };
        let stars = |pattern: &Pattern| match pattern {
            Pattern::Any => false,
            Pattern::Exactly(t) | Pattern::EndsWith(t) | Pattern::BeginsWith(t) => t.contains('*'),
        };
        if stars(&registry) || stars(&repository) || text.contains(char::is_whitespace) {
            return Err(fail("a * stands only for the first part of a registry or the end of a repository"));
        }
        Ok(Self { registry, repository })
    }

    fn matches(&self, names: &[&str], repository: &str) -> bool {
        names.iter().any(|name| self.registry.matches(&canonical(name)))
            && self.repository.matches(repository)
    }
}

/// One name for the registry that has several, and for hosts written in capitals.
fn canonical(registry: &str) -> String {
    let registry = registry.to_ascii_lowercase();
    if is_hub_name(&registry) { "docker.io".to_owned() } else { registry }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy(allow: Option<&str>, deny: &str) -> Policy {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        Policy::parse(allow.map(list).as_deref(), &list(deny)).unwrap()
    }

    #[test]
    fn a_site_decides_what_is_pulled_from_where() {
        let configured: &[&str] = &["quay.io", "hub", "registry-1.docker.io", "h:5000"];
        for (allow, deny, registry, repository, allowed) in [
            (None, "", "quay.io", "a/b", true),
            (None, "", "ghcr.io", "a/b", false),
            (None, "quay.io", "quay.io", "a/b", false),
            (None, "quay.io/a/b", "quay.io", "a/b", false),
            (None, "quay.io/a/b", "quay.io", "a/bc", true),
            (None, "quay.io/a/*", "quay.io", "a/b/c", false),
            (None, "quay.io/a/*", "quay.io", "ab/c", true),
            (None, "*/a/*", "h:5000", "a/x", false),
            (None, "Quay.IO", "quay.io", "a/b", false),
            (None, "docker.io", "registry-1.docker.io", "library/x", false),
            (None, "index.docker.io/library/*", "registry-1.docker.io", "library/x", false),
            (Some(""), "", "quay.io", "a/b", false),
            (Some("quay.io"), "", "quay.io", "a/b", true),
            (Some("quay.io"), "", "h:5000", "a/b", false),
            (Some("h:5000"), "", "h:5000", "a/b", true),
            (Some("h"), "", "h:5000", "a/b", false),
            (Some("ghcr.io/org/*"), "", "ghcr.io", "org/x", true),
            (Some("ghcr.io/org/*"), "", "ghcr.io", "other/x", false),
            (Some("*.example.org"), "", "r.example.org", "x", true),
            (Some("*.example.org"), "", "example.org", "x", false),
            (Some("*.example.org"), "", "evilexample.org", "x", false),
            (Some("*"), "ghcr.io", "ghcr.io", "x", false),
            (Some("*"), "ghcr.io", "other.io", "x", true),
            (Some("docker.io/library/*"), "", "docker.io", "library/debian", true),
            (Some("docker.io/library/*"), "", "docker.io", "org/debian", false),
        ] {
            let verdict = policy(allow, deny).check(&[registry], configured.contains(&registry), repository);
            assert_eq!(verdict.is_ok(), allowed, "{allow:?} {deny:?}: {registry}/{repository}: {verdict:?}");
        }
        // A name of one's own for a registry does not open what its host is denied for.
        let denied = policy(None, "quay.io").check(&["mine", "quay.io"], true, "a/b");
        assert_eq!(denied.unwrap_err(), "this site's policy denies it");
    }

    #[test]
    fn rules_that_would_mean_something_else_than_they_say_are_refused() {
        for text in
            ["", "/a", "quay.io/", "q*y.io", "*io", "*.", "quay.io/a*", "quay.io/*/b", "**", "a b", "*.*.x"]
        {
            assert!(Policy::parse(None, &[text.to_owned()]).is_err(), "{text:?}");
        }
    }
}
