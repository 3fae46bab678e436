//! Names to addresses, with an eye on where they lead.
//!
//! A registry may redirect to any host; a name under its control may resolve to this machine or to a cloud's
//! metadata service (and to something else each time it is asked, so checking beforehand is no use). Connections
//! are made to what is returned here, and addresses nearer than the registry's own are not returned, unless an
//! administrator named the host: as the registry, as one of its trusted hosts, or as a proxy. Where a proxy
//! resolves names, the proxy decides.

use crate::location::Base;
use crate::redirect::{Reach, home_reach, reach_of, too_near};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

/// The system's resolver without addresses that a registry may not send us to.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    trusted: Vec<String>,
    nearest: Reach,
}

/// All addresses of a name were too near.
#[derive(Debug)]
pub(crate) struct TooNear(String);

impl fmt::Display for TooNear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&too_near(&self.0))
    }
}

impl Error for TooNear {}

impl Resolver {
    /// For the registry at `home`, and the proxies that `variable` of the environment names.
    pub(crate) fn new(home: &Base, variable: impl Fn(&str) -> Option<String>) -> Self {
        let without_port = |host: &String| host.rsplit_once(':').map_or(host.clone(), |(h, _)| h.to_owned());
        let mut trusted: Vec<String> = home.trusted.iter().map(without_port).collect();
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            for name in [name.to_owned(), name.to_ascii_uppercase()] {
                trusted.extend(variable(&name).as_deref().and_then(proxy_host));
            }
        }
        Self { trusted, nearest: home_reach(home) }
    }

    fn judge(&self, host: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, TooNear> {
        let is_trusted = self.trusted.iter().any(|t| t.eq_ignore_ascii_case(host));
        let (good, near): (Vec<_>, Vec<_>) =
            found.partition(|address| is_trusted || reach_of(address.ip()) <= self.nearest);
        if good.is_empty() && !near.is_empty() { Err(TooNear(host.to_owned())) } else { Ok(good) }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses = this.judge(name.as_str(), found)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Host of a proxy as `http_proxy` and the like name it, with or without a scheme.
fn proxy_host(text: &str) -> Option<String> {
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    url.ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Location;

    #[test]
    fn names_lead_to_this_machine_only_where_an_administrator_said_so() {
        let proxy = |name: &str| match name {
            "https_proxy" => Some("http://proxy.site:3128".to_owned()),
            "ALL_PROXY" => Some("socks.site:1080".to_owned()),
            _ => None,
        };
        let public = ["8.8.8.8:0", "127.0.0.1:0"].as_slice();
        for (home, trusted, host, found, expected) in [
            ("https://r.site:5000", "", "r.site", &["127.0.0.1:0"][..], Some(1)),
            ("https://r.site", "", "R.site", &["127.0.0.1:0"], Some(1)),
            ("https://r.site", "", "evil.net", &["127.0.0.1:0"], None),
            ("https://r.site", "", "evil.net", &["[::1]:0", "169.254.169.254:0"], None),
            ("https://r.site", "", "evil.net", &["[::ffff:127.0.0.1]:0"], None),
            ("https://r.site", "", "evil.net", public, Some(1)),
            ("https://r.site", "", "nowhere.net", &[], Some(0)),
            ("https://r.site", "s3.site:9000", "s3.site", public, Some(2)),
            ("https://r.site", "", "proxy.site", public, Some(2)),
            ("https://r.site", "", "socks.site", public, Some(2)),
            ("http://localhost:5000", "", "other.site", &["127.0.0.1:0"], Some(1)),
            ("http://localhost:5000", "", "other.site", &["169.254.169.254:0"], None),
        ] {
            let trusted_hosts = trusted.split_whitespace().map(str::to_owned).collect();
            let location = Location { url: Some(home.to_owned()), trusted_hosts, ..Location::named("x") };
            let resolver = Resolver::new(&location.base().unwrap(), proxy);
            let got = resolver.judge(host, found.iter().map(|a| a.parse().unwrap()));
            assert_eq!(got.ok().map(|a| a.len()), expected, "{home} {host} {found:?}");
        }
    }

    #[test]
    fn a_registry_that_a_user_named_is_not_at_this_machine() {
        let location = Location { named_by_user: true, ..Location::named("evil.net") };
        let resolver = Resolver::new(&location.base().unwrap(), |_| None);
        assert!(resolver.judge("evil.net", ["127.0.0.1:0".parse().unwrap()].into_iter()).is_err());
    }
}
