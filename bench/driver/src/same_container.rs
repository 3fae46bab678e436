//! The floor program is only a floor while it makes the very container that `shifter` makes: the same mounts, the
//! same site files and the same rights. What each costs is not looked at here.

use crate::image::SHARED;
use crate::mountinfo;
use crate::variants::{Keeper, PAYLOAD, command, of_image, program};
use anyhow::{Context as _, Result, bail};
use bench_layout::ETC;

/// Fails unless floor and shifter show the program the same mounts, the same site files and the same rights.
pub(crate) fn compare(keeper: &Keeper) -> Result<()> {
    let shifter = [program("shifter"), of_image(SHARED), PAYLOAD.to_owned()];
    let floor = [program("floor"), keeper.device().to_owned(), PAYLOAD.to_owned()];
    let both = |path: &str| Ok::<_, anyhow::Error>((shown(&shifter, path)?, shown(&floor, path)?));
    let (ours, floors) = both("/proc/self/mountinfo")?;
    mountinfo::compare(&mountinfo::parse(&ours)?, &mountinfo::parse(&floors)?)?;
    for (name, _) in ETC {
        let path = format!("/etc/{}", name.to_string_lossy());
        let (ours, floors) = both(&path)?;
        if ours != floors {
            bail!("{path} differs: shifter has {ours:?}, the floor program {floors:?}");
        }
    }
    let (ours, floors) = both("/proc/self/status")?;
    if credentials(&ours) != credentials(&floors) {
        bail!(
            "credentials differ: shifter has {:?}, the floor {:?}",
            credentials(&ours),
            credentials(&floors)
        );
    }
    let (ours, floors) = both("/var/shifterConfig.json")?;
    if ours.len() != floors.len() {
        bail!("shifterConfig.json has {} bytes, the floor program's {}", ours.len(), floors.len());
    }
    Ok(())
}

/// The lines of /proc/PID/status that say what a process may do.
fn credentials(status: &str) -> Vec<&str> {
    let names = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:"];
    status.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect()
}

/// The content of a file as a container shows it.
pub(crate) fn shown(start: &[String], path: &str) -> Result<String> {
    let argv = [start, &[path.to_owned()]].concat();
    let output = command(&argv).output().with_context(|| format!("run {}", argv[0]))?;
    if !output.status.success() {
        bail!("{}: {}: {}", argv.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{path} is not UTF-8"))
}
