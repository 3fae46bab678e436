//! Where a registry may send us, and what goes along.
//!
//! A registry names other addresses twice: by redirects (blobs usually live in an object store) and by the realm
//! of its token service. Both texts are hostile until shown otherwise: they may point at file URLs, at plain http
//! after https, at the gateway's own loopback or a cloud's metadata service, or at a host that collects
//! credentials (CVE-2022-23538). Pure functions; what a name resolves to, `resolver` judges by the same measure.

use crate::location::Base;
use reqwest::Url;
use std::net::IpAddr;

/// Whether `a` and `b` are one origin in the sense of RFC 6454: scheme, host, port.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// The absolute address that `location`, an answer from `from`, points to, for the registry at `home`.
pub(crate) fn target(from: &Url, location: &str, home: &Base) -> Result<Url, String> {
    let url = from.join(location).map_err(|_| "the address is malformed".to_owned())?;
    may_visit(&url, from, home)?;
    Ok(url)
}

/// Whether a request may go to `url`, named by an answer from `from`, for the registry at `home`.
pub(crate) fn may_visit(url: &Url, from: &Url, home: &Base) -> Result<(), String> {
    match url.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" => return Err("it leads from https to plain http".to_owned()),
        other => return Err(format!("it is a {other} address, not http or https")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address holds credentials".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    if !home.trusts(url) && reach(host) > home_reach(home) {
        return Err(too_near(host));
    }
    Ok(())
}

/// Whether the registry itself may be asked at all: not where a user named an address of this machine.
pub(crate) fn is_reachable(home: &Base) -> Result<(), String> {
    let host = home.url.host_str().unwrap_or_default();
    if !home.trusts(&home.url) && reach(host) > Reach::Network { Err(too_near(host)) } else { Ok(()) }
}

/// How near an address the registry's hosts may have: as near as its own, where that is written as an address.
pub(crate) fn home_reach(home: &Base) -> Reach {
    if home.trusts(&home.url) { reach(home.url.host_str().unwrap_or_default()) } else { Reach::Network }
}

pub(crate) fn too_near(host: &str) -> String {
    format!("{host} is an address of this machine or its link, which the registry is not")
}

/// Whether the caller's password may go to the token service at `realm`. It must be the registry's own host, a host
/// of the same domain (the registry's host without its first part, or the domain that the registry's host is in),
/// or one that the administrator named; over TLS, or in plain http where the registry itself is configured so.
pub(crate) fn may_know_password(realm: &Url, home: &Base) -> Result<(), String> {
    let host = realm.host_str().unwrap_or_default();
    let home_host = home.url.host_str().unwrap_or_default();
    let named = home.trusts(realm);
    let is_plain = realm.scheme() != "https";
    if is_plain && !(home.url.scheme() == "http" && (host == home_host || named)) {
        return Err(format!("{host} would get the password over plain http"));
    }
    let is_address =
        |host: &str| host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    // At least two parts: "org" is nobody's domain.
    let below = |host: &str, domain: &str| {
        domain.contains('.') && host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    let domain = home_host.split_once('.').map_or("", |(_, domain)| domain);
    let is_kin = !is_address(host)
        && !is_address(home_host)
        && (below(host, domain) || below(host, home_host) || below(home_host, host));
    if host == home_host || named || is_kin {
        return Ok(());
    }
    Err(format!("{host} has another domain than the registry; trustedHosts of the location may name it"))
}

/// How close to this machine an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Network,
    Loopback,
    /// Addresses of the link, and those at which clouds serve machines' secrets.
    Link,
}

fn reach(host: &str) -> Reach {
    let host = host.trim_end_matches('.');
    if host == "localhost" || host.ends_with(".localhost") {
        return Reach::Loopback;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(Reach::Network, reach_of)
}

/// How close `address` is.
pub(crate) fn reach_of(address: IpAddr) -> Reach {
    /// Metadata services that are at no link-local address: AWS by IPv6, Azure, Alibaba.
    const METADATA: [&str; 3] = ["fd00:ec2::254", "168.63.129.16", "100.100.100.200"];
    match address.to_canonical() {
        a if a.is_loopback() => Reach::Loopback,
        a if a.is_unspecified() || a.is_multicast() => Reach::Link,
        a if METADATA.contains(&a.to_string().as_str()) => Reach::Link,
        IpAddr::V4(a) if a.is_link_local() || a.is_broadcast() => Reach::Link,
        IpAddr::V6(a) if a.is_unicast_link_local() => Reach::Link,
        _ => Reach::Network,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Location;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn home(url: &str, trusted: &str) -> Base {
        let trusted_hosts = trusted.split_whitespace().map(str::to_owned).collect();
        Location { url: Some(url.to_owned()), trusted_hosts, ..Location::named("x") }.base().unwrap()
    }

    /// ST43.
    #[test]
    fn redirects_lead_only_where_a_registry_may_send_us() {
        for (from, location, expected) in [
            ("https://r.example.org/v2/x", "/y", Ok("https://r.example.org/y")),
            (
                "https://r.example.org/v2/x",
                "https://s3.example.net/z?sig=1",
                Ok("https://s3.example.net/z?sig=1"),
            ),
            ("https://r.example.org/v2/x", "//cdn.example.net/z", Ok("https://cdn.example.net/z")),
            ("http://r.example.org/v2/x", "http://10.1.2.3/z", Ok("http://10.1.2.3/z")),
            ("http://r.example.org/v2/x", "https://s3.example.net/", Ok("https://s3.example.net/")),
            ("http://127.0.0.1:5000/x", "http://localhost:6000/", Ok("http://localhost:6000/")),
            ("http://127.0.0.1:5000/x", "http://127.0.0.1:6000/", Ok("http://127.0.0.1:6000/")),
            ("https://r.example.org/x", "http://r.example.org/y", Err("plain http")),
            ("https://r.example.org/x", "file:///etc/passwd", Err("file address")),
            ("https://r.example.org/x", "ftp://r.example.org/", Err("ftp address")),
            ("https://r.example.org/x", "https://u:p@s3.example.net/", Err("credentials")),
            ("https://r.example.org/x", "https://localhost/", Err("this machine")),
            ("https://r.example.org/x", "https://127.0.0.1:8080/", Err("this machine")),
            ("http://r.example.org/x", "http://169.254.169.254/latest/meta-data/", Err("this machine")),
            ("http://r.example.org/x", "http://0x7f.1/", Err("this machine")),
            ("http://r.example.org/x", "http://[::ffff:127.0.0.1]/", Err("this machine")),
            ("http://r.example.org/x", "http://[fe80::1]/", Err("this machine")),
            ("http://r.example.org/x", "http://0.0.0.0/", Err("this machine")),
            ("http://127.0.0.1:5000/x", "http://169.254.169.254/", Err("this machine")),
            ("http://r.example.org/x", "http://[fd00:ec2::254]/latest", Err("this machine")),
            ("http://r.example.org/x", "http://168.63.129.16/machine", Err("this machine")),
            ("http://r.example.org/x", "http://localhost./", Err("this machine")),
            ("https://r.example.org/x", "https://", Err("malformed")),
        ] {
            let origin = url(from).origin().ascii_serialization();
            match (target(&url(from), location, &home(&origin, "")), expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url.as_str(), expected),
                (Err(cause), Err(part)) => assert!(cause.contains(part), "{location}: {cause}"),
                (got, _) => assert!(got.is_ok() == expected.is_ok(), "{location}: {got:?}"),
            }
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (a, b, same) in [
            ("https://h/x", "https://h:443/y", true),
            ("https://h/", "http://h/", false),
            ("http://h:5000/", "http://h:5001/", false),
            ("https://h/", "https://h.example.org/", false),
        ] {
            assert_eq!(same_origin(&url(a), &url(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn an_administrator_may_name_hosts_of_this_machine_a_user_may_not() {
        let from = url("http://r.example.org/x");
        for (trusted, location, good) in [
            ("127.0.0.1", "http://127.0.0.1:9000/z", true),
            ("127.0.0.1:9000", "http://127.0.0.1:9000/z", true),
            ("127.0.0.1:9000", "http://127.0.0.1:9001/z", false),
            ("Storage.localhost", "http://storage.localhost/z", true),
            ("", "http://storage.localhost/z", false),
        ] {
            let got = target(&from, location, &home("http://r.example.org", trusted));
            assert_eq!(got.is_ok(), good, "{trusted}: {location}");
        }
        for (name, good) in [("quay.io", true), ("localhost:5000", false), ("169.254.169.254", false)] {
            let location = Location { named_by_user: true, ..Location::named(name) };
            assert_eq!(is_reachable(&location.base().unwrap()).is_ok(), good, "{name}");
            assert!(is_reachable(&Location::named(name).base().unwrap()).is_ok(), "{name}");
        }
    }

    #[test]
    fn passwords_go_only_to_the_registrys_own_token_service() {
        for (realm, at, trusted, refused) in [
            ("https://r.example.org/token", "https://r.example.org", "", ""),
            ("https://auth.docker.io/token", "https://registry-1.docker.io", "", ""),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", "", ""),
            ("https://auth.r.example.org/token", "https://r.example.org", "", ""),
            ("https://auth.example.org/token", "http://r.example.org", "", ""),
            ("http://r.example.org:5001/token", "http://r.example.org:5000", "", ""),
            ("https://evil.example.net/token", "https://r.example.org", "", "another domain"),
            ("https://evilexample.org/token", "https://r.example.org", "", "another domain"),
            ("https://evil.org/token", "https://example.org", "", "another domain"),
            ("https://org/token", "https://example.org", "", "another domain"),
            ("https://1.2.3.5/token", "https://1.2.3.4", "", "another domain"),
            ("https://login.example.net/token", "https://r.example.org", "login.example.net", ""),
            ("http://login.example.net/token", "https://r.example.org", "login.example.net", "plain http"),
            ("http://login.example.net/token", "http://r.example.org", "login.example.net", ""),
            ("http://auth.example.org/token", "http://r.example.org:5000", "", "plain http"),
            ("http://r.example.org/token", "https://r.example.org", "", "plain http"),
        ] {
            let cause = may_know_password(&url(realm), &home(at, trusted)).err().unwrap_or_default();
            let as_expected = if refused.is_empty() { cause.is_empty() } else { cause.contains(refused) };
            assert!(as_expected, "{realm} for {at} ({trusted}): {cause}");
        }
    }
}
