//! A job's epilog, as root on each of its nodes: everything of the job's goes, whatever became of it.
//!
//! It asks nobody what the job wanted: what is there is taken down. It never fails, because Slurm drains a node whose
//! epilog does; what stays is said in slurmd's log, and tried again before the next job that has the node to itself.

use crate::arguments::Arguments;
use crate::node::Node;
use crate::site::Site;
use crate::{Level, Spank, cgroup, prolog};

/// Takes down what the job has on this node.
pub fn epilog(spank: &mut dyn Spank, arguments: &Arguments, node: &Node) {
    let Some(job) = spank.job() else { return };
    let mut faults = Vec::new();
    if node.container(job.id).exists() {
        match Site::read_trusted(arguments.config.as_deref()) {
            Ok(site) => faults.extend(prolog::unsetup(arguments, &site, job.id)),
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
