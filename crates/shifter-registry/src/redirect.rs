//! Where a registry may send us, and what goes along.
//!
//! A registry names other addresses twice: by redirects (blobs usually live in an object store) and by the realm
//! of its token service. Both texts are hostile until shown otherwise: they may point at file URLs, at plain http
//! after https, at the gateway's own loopback or a cloud's metadata service, or at a host that collects
//! credentials (CVE-2022-23538). Pure functions; names that resolve to such addresses are not looked up here.

use reqwest::Url;
use std::net::IpAddr;

/// Whether `a` and `b` are one origin in the sense of RFC 6454: scheme, host, port.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// The absolute address that `location`, an answer from `from`, points to; `home` is the registry's own address.
pub(crate) fn target(from: &Url, location: &str, home: &Url) -> Result<Url, String> {
    let url = from.join(location).map_err(|_| "the address is malformed".to_owned())?;
    may_visit(&url, from, home)?;
    Ok(url)
}

/// Whether a request may go to `url`, named by an answer from `from`, for the registry at `home`.
pub(crate) fn may_visit(url: &Url, from: &Url, home: &Url) -> Result<(), String> {
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
    let home_host = home.host_str().unwrap_or_default();
    if host != home_host && reach(host) > reach(home_host) {
        return Err(format!("{host} is an address of this machine or its link, which the registry is not"));
    }
    Ok(())
}

/// Whether the caller's password may go to the token service at `realm`: over TLS, or to the same host where the
/// administrator configured that host with plain http.
pub(crate) fn may_know_password(realm: &Url, home: &Url) -> bool {
    realm.scheme() == "https" || (home.scheme() == "http" && realm.host_str() == home.host_str())
}

/// How close to this machine an address is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Network,
    Loopback,
    Link,
}

fn reach(host: &str) -> Reach {
    if host == "localhost" || host.ends_with(".localhost") || host == "localhost." {
        return Reach::Loopback;
    }
    let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
        return Reach::Network;
    };
    match address.to_canonical() {
        a if a.is_loopback() => Reach::Loopback,
        a if a.is_unspecified() || a.is_multicast() => Reach::Link,
        IpAddr::V4(a) if a.is_link_local() || a.is_broadcast() => Reach::Link,
        IpAddr::V6(a) if a.is_unicast_link_local() => Reach::Link,
        _ => Reach::Network,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

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
            ("https://r.example.org/x", "https://", Err("malformed")),
        ] {
            let from = url(from);
            match (target(&from, location, &from), expected) {
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
    fn passwords_go_to_token_services_only_over_tls_or_to_the_configured_plain_host() {
        for (realm, home, may) in [
            ("https://auth.example.org/token", "https://r.example.org", true),
            ("https://auth.example.org/token", "http://r.example.org", true),
            ("http://r.example.org:5001/token", "http://r.example.org:5000", true),
            ("http://evil.example.net/token", "http://r.example.org:5000", false),
            ("http://r.example.org/token", "https://r.example.org", false),
        ] {
            assert_eq!(may_know_password(&url(realm), &url(home)), may, "{realm} {home}");
        }
    }
}
