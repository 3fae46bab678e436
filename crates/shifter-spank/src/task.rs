//! What happens in each task before it becomes the user's, still as root: a job whose container failed is told so, a
//! task waits for the site's extern step, and a `--ccm` job's task enters the container.

use crate::arguments::Arguments;
use crate::extern_step;
use crate::node::{Node, Note};
use crate::{EXTERN_STEP, Job, Level, Spank};
use rustix::fs::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Longest wait for the extern step, as the original's.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prepares a task; a sentence says why it may not start.
pub fn task(spank: &mut dyn Spank, arguments: &Arguments, node: &Node) -> Result<(), String> {
    let Some(job) = spank.job().filter(|job| job.step != EXTERN_STEP) else { return Ok(()) };
    if extern_step::is_wanted(arguments) && node.read(job.id, Note::Prepared).is_some() {
        wait_for_extern(spank, node, &job);
    }
    if let Some(reason) = node.read(job.id, Note::Failed) {
        return Err(format!("the container of this job could not be prepared: {reason}"));
    }
    let in_ccm = node.read(job.id, Note::Prepared).is_some_and(|how| how == "ccm");
    if in_ccm { enter(node, &job) } else { Ok(()) }
}

fn wait_for_extern(spank: &mut dyn Spank, node: &Node, job: &Job) {
    let started = Instant::now();
    while node.read(job.id, Note::Extern).is_none() && node.read(job.id, Note::Failed).is_none() {
        if started.elapsed() > PATIENCE {
            spank.say(
                Level::Error,
                &format!("shifter: job {}: the extern step is not ready: going on", job.id),
            );
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Enters the prepared container, keeping the directory where the user may: looked for with the user's own rights.
fn enter(node: &Node, job: &Job) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("cannot enter the container of this job: {error}");
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let pin = File::open(node.container(job.id).join("ns")).map_err(|error| said(&error))?;
    move_into_link_name_space(pin.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(|error| said(&error))?;
    let (root, user) = (Uid::ROOT, Uid::from_raw(job.uid));
    let (roots_group, group) = (Gid::ROOT, Gid::from_raw(job.gid));
    let become_user = rustix::thread::set_thread_res_gid(roots_group, group, roots_group)
        .and_then(|()| rustix::thread::set_thread_res_uid(root, user, root));
    let entered = become_user.is_ok()
        && [directory.as_path(), "/tmp".as_ref()]
            .iter()
            .any(|place| std::env::set_current_dir(place).is_ok());
    let back = rustix::thread::set_thread_res_uid(root, root, root)
        .and_then(|()| rustix::thread::set_thread_res_gid(roots_group, roots_group, roots_group));
    back.map_err(|error| said(&error))?;
    // As for everything else that runs in containers: nothing in it gives more rights than the user has.
    rustix::thread::set_no_new_privs(true).map_err(|error| said(&error))?;
    if entered { Ok(()) } else { Err(said(&"neither the working directory nor /tmp can be entered")) }
}
