//! The files of a job's sshd and ssh, as text: what the site wrote for all jobs, and what is this job's alone. Nothing
//! is read or written here.
//!
//! sshd takes the first value it meets, so what no site may change comes first (sshd_config(5)); ssh takes the first
//! of those blocks that name the host (ssh_config(5)).

/// Where in the container the site's OpenSSH lies, which is also what it was built for.
pub use shifter_runtime::plan::UDI_IMAGE as PLACE;

/// What a site without an `sshd_config` of its own gets.
pub const USUAL_SSHD: &str = include_str!("../../../../dist/openssh/sshd_config");
/// What a site without an `ssh_config` of its own gets.
pub const USUAL_SSH: &str = include_str!("../../../../dist/openssh/ssh_config");
/// The port of sites that name none.
const PORT: u16 = 1204;
/// Cheap for a server without OpenSSL, and every client since OpenSSH 6.5 knows it. It is the server's to say: a client
/// older than 8.0, as an image may have, refuses settings with names it does not know.
const KEY_EXCHANGE: &str = "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org\n";
/// Longest `Host` line, in bytes: ssh before OpenSSH 7.8 reads 1,024 at a time.
const LONGEST: usize = 900;
/// Variables that sshd sets by itself, from the user's account.
const OF_SSHD: [&[u8]; 7] = [b"HOME", b"LOGNAME", b"USER", b"SHELL", b"MAIL", b"TZ", b"TERM"];

/// The user's public key, as a line of `authorized_keys` without options or comment.
pub fn authorized_key(key: &str) -> Option<String> {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte);
    let key = key.trim();
    let mut words = key.split(' ').filter(|word| !word.is_empty());
    let (name, data) = (words.next()?, words.next()?);
    let one_line = !key.contains(|letter: char| letter.is_control());
    // Each begins with the length of its type's name, which is short.
    let fits = name.bytes().all(is_name) && data.starts_with("AAAA") && data.bytes().all(is_base64);
    (one_line && fits).then(|| format!("{name} {data}\n"))
}

/// The hosts of a job, each once, in order.
pub fn names(hosts: &str) -> Vec<&str> {
    let mut seen = std::collections::BTreeSet::new();
    hosts.lines().filter(|host| seen.insert(*host)).collect()
}

/// The port that the site's `sshd_config` names.
pub fn port(site: &str) -> u16 {
    before_match(site).find_map(|line| value(line, "Port")?.parse().ok()).unwrap_or(PORT)
}

/// `sshd_config`: the job's user with the job's key and nobody else, whatever the site's file says.
pub fn sshd_config(site: &str, user: &str, environment: &[Vec<u8>]) -> String {
    // What stands behind an @ would be a host; the key is this user's alone.
    let user = user.replace('@', "?");
    let mut text = format!(
        "# Written by setupRoot: first this job's, then the site's.\n\
         AllowUsers {user}\nHostKey {PLACE}/etc/ssh_host_ed25519_key\n\
         AuthorizedKeysFile {PLACE}/etc/user_auth_keys\nAuthorizedKeysCommand none\n\
         AuthorizedPrincipalsCommand none\nTrustedUserCAKeys none\nAuthenticationMethods publickey\n\
         PubkeyAuthentication yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         HostbasedAuthentication no\nPermitRootLogin no\nPermitUserEnvironment no\n"
    );
    if before_match(site).all(|line| value(line, "Port").is_none()) {
        text.push_str(&format!("Port {PORT}\n"));
    }
    if before_match(site).all(|line| value(line, "KexAlgorithms").is_none()) {
        text.push_str(KEY_EXCHANGE);
    }
    // Only one such line counts, and in it the first of a name.
    let of_site = before_match(site).filter_map(|line| value(line, "SetEnv")).map(str::to_owned);
    let words: Vec<String> = of_site.chain(environment.iter().filter_map(|entry| quoted(entry))).collect();
    if !words.is_empty() {
        text.push_str(&format!("SetEnv {}\n", words.join(" ")));
    }
    text.push('\n');
    let template = |line: &&str| line.trim() != "AllowUsers ToBeReplaced";
    text.extend(site.lines().filter(template).map(|line| format!("{line}\n")));
    text
}

/// `ssh_config`: what the site wrote for all hosts holds for the job's alone, so that other hosts keep what the user
/// has for them.
pub fn ssh_config(site: &str, hosts: &[&str], identity: Option<&str>) -> String {
    let mut lines = vec![String::new()];
    for host in hosts {
        match lines.last_mut().filter(|line| line.len() + host.len() < LONGEST) {
            Some(line) => line.push_str(&format!(" {host}")),
            None => lines.push(format!(" {host}")),
        }
    }
    let mut sections: Vec<(Option<&str>, String)> = vec![(None, String::new())];
    for line in site.lines() {
        let section = value(line, "Host").or_else(|| value(line, "Match"));
        match section {
            Some("*" | "ToBeReplaced") => sections.push((None, String::new())),
            Some(_) => sections.push((Some(line), String::new())),
            None => {
                sections.iter_mut().rev().take(1).for_each(|(_, body)| body.push_str(&format!("{line}\n")))
            }
        }
    }
    let mut text = "# Written by setupRoot: the site's settings, for the nodes of this job.\n".to_owned();
    for (line, file) in lines.iter().flat_map(|line| Some((line, identity?))) {
        text.push_str(&format!("Host{line}\n    IdentityFile \"{file}\"\n"));
    }
    for (of, body) in sections.iter().filter(|(of, body)| of.is_some() || says_something(body)) {
        match of {
            Some(header) => text.push_str(&format!("{header}\n{body}")),
            None => text.extend(lines.iter().map(|line| format!("Host{line}\n{body}"))),
        }
    }
    text
}

fn says_something(body: &str) -> bool {
    body.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The lines that hold for every connection.
fn before_match(site: &str) -> impl Iterator<Item = &str> {
    site.lines().take_while(|line| value(line, "Match").is_none())
}

/// What a line says of a keyword: `Keyword value` or `Keyword=value`, in any letters.
fn value<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let line = line.trim();
    let name = line.get(..keyword.len()).filter(|name| name.eq_ignore_ascii_case(keyword))?;
    let rest = &line[name.len()..];
    let value = rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '=');
    (value.len() < rest.len()).then_some(value)
}

/// `NAME=VALUE` as one word of a configuration line; `None` for what cannot be one, and for what sshd sets itself.
fn quoted(entry: &[u8]) -> Option<String> {
    let entry = std::str::from_utf8(entry).ok()?;
    let (name, _) = entry.split_once('=')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty()
        || !name.bytes().all(is_name)
        || OF_SSHD.contains(&name.as_bytes())
        || name.starts_with("SSH_")
        || entry.contains(|letter: char| letter.is_control())
    {
        return None;
    }
    Some(format!("\"{}\"", entry.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_one_plain_key_line_is_a_key() {
        for (given, expected) in [
            ("ssh-ed25519 AAAAC3Nz+/x== alice@login\n", Some("ssh-ed25519 AAAAC3Nz+/x==\n")),
            ("  ssh-rsa  AAAAB3Nz  ", Some("ssh-rsa AAAAB3Nz\n")),
            ("ssh-ed25519 AAAAC3Nz\nssh-ed25519 AAAAD", None),
            ("command=\"x\" ssh-ed25519 AAAAC3Nz", None),
            ("ssh-ed25519 AAAA\"C", None),
            ("ssh-ed25519", None),
            ("", None),
        ] {
            assert_eq!(authorized_key(given).as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn the_jobs_lines_come_before_the_sites_and_the_sites_stay() {
        let site = "# ours\nPort 2204\nAllowUsers ToBeReplaced\nAuthorizedKeysFile /anything\nsetenv A=1\n\
                    Match User x\nPort 7\n";
        let variables =
            [&b"PATH=/a:/b"[..], b"HOME=/root", b"Q=a \"b\\", b"N=a\nb", b"bad"].map(<[u8]>::to_vec);
        let text = sshd_config(site, "alice", &variables);
        let lines: Vec<&str> = text.lines().collect();
        let at = |wanted: &str| {
            lines.iter().position(|line| *line == wanted).unwrap_or_else(|| panic!("{wanted}: {text}"))
        };
        assert!(
            at("AuthorizedKeysFile /opt/udiImage/etc/user_auth_keys") < at("AuthorizedKeysFile /anything")
        );
        assert!(at("SetEnv A=1 \"PATH=/a:/b\" \"Q=a \\\"b\\\\\"") < at("setenv A=1"));
        assert!(at("AllowUsers alice") < at("Match User x"));
        assert!(!text.contains("ToBeReplaced") && !text.contains("Port 1204"), "{text}");
        assert_eq!(port(site), 2204);
        assert_eq!((port(""), port("Match all\nPort 7")), (1204, 1204));
        assert!(sshd_config("", "alice", &[]).contains("\nPort 1204\n"));
    }

    #[test]
    fn handshakes_are_cheap_whatever_settings_the_site_has_kept_unless_it_says_otherwise() {
        let original = include_str!("../../../../tests/documents/sshd_config.original");
        for (site, expected) in [
            (original, KEY_EXCHANGE.trim_end()),
            (USUAL_SSHD, KEY_EXCHANGE.trim_end()),
            ("", KEY_EXCHANGE.trim_end()),
            ("Match all\nKexAlgorithms x\n", KEY_EXCHANGE.trim_end()),
            (
                "Port 7\nkexalgorithms=diffie-hellman-group14-sha256\n",
                "kexalgorithms=diffie-hellman-group14-sha256",
            ),
        ] {
            let text = sshd_config(site, "alice", &[]);
            let first = text.lines().find(|line| value(line, "KexAlgorithms").is_some());
            assert_eq!(first, Some(expected), "{site}");
        }
    }

    #[test]
    fn our_own_sshd_finds_nothing_to_complain_of_in_the_usual_settings() {
        // Its complaint would be all that is told where it does not start.
        let build = include_str!("../../../../dist/openssh/build");
        for (left_out, keyword) in [("--disable-lastlog", "PrintLastLog"), ("--without-pam", "UsePAM")] {
            assert!(build.contains(left_out), "{left_out}");
            assert!(USUAL_SSHD.lines().all(|line| value(line, keyword).is_none()), "{keyword}");
        }
    }

    #[test]
    fn a_user_of_a_domain_is_no_user_at_a_host() {
        for (user, expected) in [
            ("alice", "AllowUsers alice"),
            ("al@corp.org", "AllowUsers al?corp.org"),
            ("a@b@c", "AllowUsers a?b?c"),
        ] {
            assert_eq!(sshd_config("", user, &[]).lines().nth(1), Some(expected));
        }
    }

    #[test]
    fn the_sites_ssh_settings_hold_for_the_jobs_hosts_alone() {
        let site = "LogLevel ERROR\nHost *\n  Port 1204\nHost git\n  User git\nhost=*\n  Compression no\n";
        assert_eq!(
            ssh_config(site, &["n1", "n2"], Some("~/.udiRoot/job 7")),
            "# Written by setupRoot: the site's settings, for the nodes of this job.\n\
             Host n1 n2\n    IdentityFile \"~/.udiRoot/job 7\"\n\
             Host n1 n2\nLogLevel ERROR\nHost n1 n2\n  Port 1204\nHost git\n  User git\n\
             Host n1 n2\n  Compression no\n"
        );
        let many: Vec<String> = (0..1000).map(|number| format!("node{number:05}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = ssh_config(USUAL_SSH, &many, None);
        assert!(text.lines().all(|line| line.len() < 1000) && !text.contains("ToBeReplaced"), "{text}");
        let named: usize = text
            .lines()
            .filter(|line| line.starts_with("Host "))
            .map(|line| line.split(' ').count() - 1)
            .sum();
        assert_eq!(named, 1000);
    }

    #[test]
    fn each_host_is_named_once() {
        assert_eq!(names("b\nb\na\nb\n"), ["b", "a"]);
    }
}
