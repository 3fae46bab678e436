//! A job's epilog, as root on each of its nodes: everything of the job's goes, whatever became of it.
//!
//! It asks nobody what the job wanted: what is there is taken down. It never fails, because Slurm drains a node whose
//! epilog does; what stays is said in slurmd's log, and tried again before the next job that has the node to itself.
//!
//! Where the site's configuration has become unusable since, the program that the prolog has noted is run all the same:
//! it ends the job's sshd without one.

use crate::arguments::Arguments;
use crate::node::{Node, Note};
use crate::site::{Site, must_be_roots};
use crate::{Level, Spank, cgroup, prolog};
use std::path::Path;

/// Takes down what the job has on this node.
pub fn epilog(spank: &mut dyn Spank, arguments: &Arguments, node: &Node) {
    let Some(job) = spank.job() else { return };
    let mut faults = Vec::new();
    if node.container(job.id).exists() {
        match unsetup_root(arguments, node, job.id) {
            Ok(program) => faults.extend(prolog::unsetup(arguments, &program, job.id)),
            Err(reason) => faults.push(reason),
        }
    }
    // Last: sshd's keeper may be in it, and has its own way to end what was started through sshd.
    if let Some(base) = arguments.memory_cgroup.as_deref() {
        faults.extend(cgroup::end(base, &job).err());
    }
    faults.extend(node.forget(job.id));
    for fault in faults {
        spank.say(Level::Error, &format!("shifter: job {}: {fault}", job.id));
    }
}

/// The program that takes the job's container down: the site's of today, or else the one noted when it was set up.
fn unsetup_root(arguments: &Arguments, node: &Node, job: u32) -> Result<String, String> {
    let site = Site::read_trusted(arguments.config.as_deref());
    site.and_then(|site| site.root_program(prolog::UNSETUP)).or_else(|reason| {
        let noted = node.read(job, Note::Unsetup).filter(|program| must_be_roots(Path::new(program)).is_ok());
        noted.ok_or(reason)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recording::Recording;
    use crate::{Context, Job};

    #[test]
    fn a_configuration_that_became_unusable_keeps_no_epilog_from_ending_the_jobs_sshd() {
        let place = tempfile::tempdir().unwrap();
        let node = Node::at(place.path());
        let missing = place.path().join("udiRoot.conf").display().to_string();
        let arguments = Arguments { config: Some(missing.clone()), ..Arguments::default() };
        // Any program of root's that says what it was called with.
        let program = "/usr/bin/touch";
        for (noted, expected) in [
            (Some(program), "unrecognized option '--job=7'".to_owned()),
            (Some("/nowhere/unsetupRoot"), format!("{missing}: No such file")),
            (place.path().to_str(), format!("{missing}: No such file")),
            (None, format!("{missing}: No such file")),
        ] {
            std::fs::create_dir_all(node.container(7)).unwrap();
            if let Some(noted) = noted {
                node.write(7, Note::Unsetup, noted).unwrap();
            }
            let mut spank = Recording::new(Context::JobScript, &[]);
            spank.job = Some(Job { id: 7, uid: 1, gid: 1, step: 0 });
            epilog(&mut spank, &arguments, &node);
            let said: Vec<&str> = spank.said.iter().map(|(_, text)| text.as_str()).collect();
            assert!(said.len() == 1 && said[0].contains(&expected), "{noted:?}: {said:?}");
            assert!(node.read(7, Note::Unsetup).is_none());
        }
    }
}
