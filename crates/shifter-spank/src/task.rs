//! What happens in each task before it becomes the user's, still as root: a job whose container failed is told so, a
//! task waits for the site's extern step, and a `--ccm` job's task enters the container.

use crate::arguments::Arguments;
use crate::enter::enter;
use crate::extern_step;
use crate::node::{Node, Note, Prepared};
use crate::{EXTERN_STEP, Job, Level, Spank};
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
    match Prepared::of(node, job.id).filter(|prepared| prepared.ccm) {
        Some(prepared) => enter(spank, node, &job, &prepared),
        None => Ok(()),
    }
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
