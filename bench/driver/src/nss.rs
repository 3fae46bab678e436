//! The user as only a directory service knows them; libnss-extrausers stands in for LDAP.
//!
//! The same user starts the same container, while `/etc/passwd` and `/etc/group` are exchanged for ones without them:
//! so nothing differs but where the name comes from.

use crate::image::SHARED;
use crate::root_shell::RootShell;
use crate::same_container::shown;
use crate::sandbox::{make_directory, write};
use crate::variants::{PAYLOAD, Row, Variant, of_image, program};
use anyhow::{Context as _, Result, bail};
use bench_layout::{OTHER_GROUP, USER};
use std::fs;
use std::path::Path;

/// Where libnss-extrausers keeps its accounts.
const SERVICE: &str = "/var/lib/extrausers";
const LIBRARIES: [&str; 3] = ["/usr/lib", "/usr/lib64", "/lib"];
const TITLE: &str = "shifter, further, user known by NSS only";
/// Tells that the line came from the service.
const COMMENT: &str = "known to the service";

/// Fills the service, and lays ready both versions of the host's files; this process must be root still, and
/// `/etc/passwd` and `/etc/group` must be written.
pub(crate) fn furnish() -> Result<()> {
    if !installed() {
        return Ok(());
    }
    make_directory(SERVICE)?;
    let ((user, uid, gid), (group, group_id)) = (USER, OTHER_GROUP);
    let account = format!("{user}:x:{uid}:{gid}:{COMMENT}:/home/{user}:/bin/sh\n");
    write(&format!("{SERVICE}/passwd"), account.as_bytes(), 0o644)?;
    let groups = format!("{user}:x:{gid}:\n{group}:x:{group_id}:{user}\n");
    write(&format!("{SERVICE}/group"), groups.as_bytes(), 0o644)?;
    for directory in ["with", "without"] {
        make_directory(&format!("/etc/{directory}"))?;
    }
    for name in ["passwd", "group"] {
        let all = fs::read_to_string(format!("/etc/{name}")).with_context(|| format!("read /etc/{name}"))?;
        let theirs = |line: &&str| !line.starts_with(user) && !line.starts_with(group);
        let others: String = all.lines().filter(theirs).map(|line| format!("{line}\n")).collect();
        write(&format!("/etc/with/{name}"), all.as_bytes(), 0o644)?;
        write(&format!("/etc/without/{name}"), others.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The row, once it was seen that the service is asked.
pub(crate) fn row(root: &RootShell) -> Result<Row> {
    if !installed() {
        return Ok(Row::Absent(TITLE, "libnss-extrausers is not installed".to_owned()));
    }
    let argv = [program("shifter"), of_image(SHARED), PAYLOAD.to_owned()];
    let [without, with] =
        ["without", "with"].map(|files| format!("cp /etc/{files}/passwd /etc/{files}/group /etc"));
    root.run(&without)?;
    let passwd = shown(&argv, "/etc/passwd");
    let group = shown(&argv, "/etc/group");
    root.run(&with)?;
    let (passwd, group) = (passwd?, group?);
    if !passwd.contains(COMMENT) || !group.contains(OTHER_GROUP.0) {
        bail!("the service was not asked: the container's files are {passwd:?} and {group:?}");
    }
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    Ok(Row::Measured(Variant::new("nss", TITLE, &argv).around(root, &without, &with)))
}

fn installed() -> bool {
    let directories = LIBRARIES
        .iter()
        .flat_map(|path| [(*path).to_owned(), format!("{path}/{}-linux-gnu", std::env::consts::ARCH)]);
    directories.into_iter().any(|path| Path::new(&path).join("libnss_extrausers.so.2").exists())
}
