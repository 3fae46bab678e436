//! What the Slurm plugin does at each hook, against [`Spank`]: Slurm itself in `shifter-slurm`, a recording in tests.
//!
//! Three rules hold everywhere. What reaches a node from a user is hostile until [`request`] has read it again. A
//! user's mistake is told to the user and never fails a prolog or epilog, because Slurm drains a node for that. And
//! nothing of HTTP, TLS or JSON is here: images are looked up by running `shifterimg lookup` as the user.
//!
//! What it deliberately does not do: build or take down containers (`setupRoot` and `unsetupRoot` do, run from here),
//! and end the process it is in.

pub mod arguments;
pub mod cgroup;
mod enter;
pub mod epilog;
pub mod extern_step;
pub mod hosts;
pub mod key;
pub mod node;
pub mod options;
pub mod program;
pub mod prolog;
pub mod request;
pub mod site;
pub mod submit;
pub mod task;

#[cfg(test)]
mod recording;

use options::Choice;

/// Where a hook runs, `spank_context(3)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// srun, as the user.
    Local,
    /// sbatch and salloc, as the user.
    Allocator,
    /// A step's daemon, as root.
    Remote,
    /// slurmd, or what Slurm cannot name.
    Daemon,
    /// Prolog and epilog of a job, as root.
    JobScript,
}

/// How loud something is said: users of srun, sbatch and salloc see errors, slurmd's log has what its level lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Worth a line in a normal log.
    Info,
    /// For whoever looks closely.
    Debug,
}

/// A job as Slurm knows it, not as its environment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: u32,
    /// Its owner.
    pub uid: u32,
    /// The group it runs with, which need not be the owner's primary one.
    pub gid: u32,
    /// The step's number.
    pub step: u32,
}

/// The step that Slurm starts on every node before a job's own, `SLURM_EXTERN_CONT`.
pub const EXTERN_STEP: u32 = 0xffff_fffc;

/// What Slurm offers a plugin.
pub trait Spank {
    /// Where this is.
    fn context(&self) -> Context;
    /// The job; none where Slurm has none.
    fn job(&self) -> Option<Job>;
    /// Offers an option to the user under this name.
    fn register(&mut self, choice: Choice, name: &str) -> Result<(), String>;
    /// A variable: of this process in clients, prolog and epilog; of the job in a step.
    fn variable(&self, name: &str) -> Option<String>;
    /// Sets a variable of the job's own environment: this process's in clients, the step's in steps.
    fn set_variable(&mut self, name: &str, value: &str);
    /// Sets what prolog and epilog see as `SPANK_NAME`, and the job as `SLURM_SPANK_NAME`. Clients only.
    fn set_for_prolog(&mut self, name: &str, value: &str);
    /// Leaves this process's mount namespace for a copy of it, see unshare(2). Tasks only, which have one thread.
    fn unshare_mounts(&mut self) -> std::io::Result<()>;
    /// Says something, in Slurm's own way.
    fn say(&mut self, level: Level, text: &str);
}
