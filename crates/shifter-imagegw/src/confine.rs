//! The fence around child processes that read hostile bytes: each reaches the files it was given, and nothing else.
//!
//! Landlock refuses all other files, a list of system calls everything that is no file work (network, programs, mounts,
//! tracing), and resource limits bound memory and file sizes. What this kernel lacks is left out: a process that gives
//! away less is still better than one that does not start. [`probe`] finds out what really holds by trying it, so
//! nothing is claimed that was not seen.
//!
//! Sources: landlock(7), seccomp(2), setrlimit(2), Documentation/userspace-api/landlock.rst in the Linux source.

mod dangers;
mod filter;

use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, make_bitflags,
};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

/// The newest Landlock whose rights we know; of older ones the kernel's part is used.
const LANDLOCK: ABI = ABI::V6;

/// Memory of a child: what a million entries take, and for each processor what compressing there takes.
const MEMORY: u64 = 2 << 30;
const MEMORY_PER_PROCESSOR: u64 = 64 << 20;

/// The largest file a child writes; images may hold 512 GiB of files.
const FILE_BYTES: u64 = 1 << 40;

/// Open files of a child: two for each layer that comes from an earlier image, and a few.
const OPEN_FILES: u64 = 2048;

/// Where the standard library learns how many threads are worth starting.
const QUOTA: &[&str] = &["/proc/self/cgroup", "/sys/fs/cgroup"];

/// How much lower than the gateway a child's priority is.
const NICE: i32 = 10;

/// The files that a child may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reach {
    /// Files, or directories with all below, that are read.
    pub(crate) read: Vec<PathBuf>,
    /// Files that exist and are read and written.
    pub(crate) write: Vec<PathBuf>,
    /// Directories below which anything is made, read, written and removed.
    pub(crate) make: Vec<PathBuf>,
    /// Files, or directories with all below, that are read and run as programs. Without any, nothing is run.
    pub(crate) run: Vec<PathBuf>,
    /// Whether files are linked or moved between directories. Linux before 5.19 can only forbid that, and then
    /// Landlock is left out.
    pub(crate) links: bool,
    /// Whether mode and times of files that are open may be set.
    #[serde(default)]
    pub(crate) attributes: bool,
    /// Whether times of what has a name, as symlinks have nothing else, may be set; Landlock does not keep others' back.
    #[serde(default)]
    pub(crate) times: bool,
    /// Whether open files come over the socket that is standard input.
    #[serde(default)]
    pub(crate) files: bool,
}

impl Reach {
    fn beyond(&self) -> filter::Beyond {
        let (programs, attributes) = (!self.run.is_empty(), self.attributes);
        filter::Beyond { programs, attributes, times: self.times, files: self.files }
    }

    /// Lets programs of the system and their libraries be run.
    pub(crate) fn add_programs(&mut self) {
        const PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];
        const LOADER: &[&str] =
            &["/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d"];
        self.run.extend(existing(PROGRAMS));
        self.read.extend(existing(LOADER));
        self.write.extend(existing(&["/dev/null"]));
    }
}

/// Those of the paths that are there.
pub(crate) fn existing<'a>(paths: &'a [&str]) -> impl Iterator<Item = PathBuf> + 'a {
    paths.iter().map(PathBuf::from).filter(|path| path.exists())
}

/// Shuts this process in, for good: limits, files, system calls. To be called before it starts threads.
pub(crate) fn confine(reach: &Reach) -> Result<(), String> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let memory = MEMORY + processors * MEMORY_PER_PROCESSOR;
    for (resource, most) in
        [(Resource::Data, memory), (Resource::Fsize, FILE_BYTES), (Resource::Nofile, OPEN_FILES)]
    {
        lower(resource, most).map_err(|error| format!("limiting this process failed: {error}"))?;
    }
    behave()?;
    let mut fenced = reach.clone();
    fenced.read.extend(existing(QUOTA));
    fence(&fenced)?;
    filter::install(reach.beyond())
}

/// No core dumps, no new privileges, low priority: what also suits a process that runs the site's own programs.
pub(crate) fn behave() -> Result<(), String> {
    let said = |error: rustix::io::Errno| format!("limiting this process failed: {error}");
    lower(Resource::Core, 0).map_err(said)?;
    rustix::thread::set_no_new_privs(true).map_err(said)?;
    step_back();
    rustix::process::nice(NICE).map(drop).map_err(said)
}

/// Has this thread, and those it starts, run when no request waits for a processor: whoever wakes takes it at once,
/// where a lower priority alone has him wait for the rest of a time slice (sched(7), `SCHED_IDLE`). Where that is
/// refused, as some containers do, the lower priority is what there is.
fn step_back() {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let this = thread_priority::thread_native_id();
    let _refused = thread_priority::set_thread_priority_and_policy(this, ThreadPriority::Min, policy);
}

/// Lowers a limit, which cannot be raised again.
pub(crate) fn lower(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let most = rustix::process::getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// Refuses this thread, and what it starts, all files but these, as far as the kernel has Landlock. Processes
/// outside can then neither be traced nor signaled.
pub(crate) fn fence(reach: &Reach) -> Result<(), String> {
    let said = |error: landlock::RulesetError| format!("confining this process by Landlock failed: {error}");
    let links = if reach.links { CompatLevel::SoftRequirement } else { CompatLevel::BestEffort };
    let rules = Ruleset::default().set_compatibility(links).handle_access(AccessFs::Refer).map_err(said)?;
    let rules = rules.set_compatibility(CompatLevel::BestEffort);
    let rules = rules.handle_access(AccessFs::from_all(LANDLOCK)).map_err(said)?;
    let mut rules = rules.scope(Scope::Signal).map_err(said)?.create().map_err(said)?;
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate});
    let make = write
        | make_bitflags!(AccessFs::{ReadDir | MakeReg | MakeDir | MakeSym | MakeSock | MakeFifo})
        | make_bitflags!(AccessFs::{RemoveFile | RemoveDir | Refer});
    let run = read | AccessFs::Execute;
    for (paths, access) in
        [(&reach.read, read), (&reach.write, write), (&reach.make, make), (&reach.run, run)]
    {
        for path in paths {
            rules = rules.add_rule(rule(path, access)?).map_err(said)?;
        }
    }
    rules.restrict_self().map(drop).map_err(said)
}

fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("opening {} failed: {why}", path.display());
    let is_directory = path.metadata().map_err(|error| failed(&error))?.is_dir();
    let fd = PathFd::new(path).map_err(|error| failed(&error))?;
    let access = if is_directory { access } else { access & AccessFs::from_file(LANDLOCK) };
    Ok(PathBeneath::new(fd, access))
}

/// Refuses this thread, and what it starts, the system calls that no program has honest use for while it reads files.
pub(crate) fn refuse_dangers() -> Result<(), String> {
    dangers::refuse()
}

/// What a confined process was refused when it tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holds {
    files: bool,
    modes: bool,
    network: bool,
    programs: bool,
    memory: bool,
    signals: bool,
}

impl Holds {
    /// What it was not refused; each is a whole sentence.
    pub(crate) fn gaps(&self) -> Vec<&'static str> {
        [
            (self.files, "conversions could read the account's other files; Linux 5.13 or newer with Landlock refuses that"),
            (self.modes, "conversions could make the account's files, such as private images, readable to all; a kernel with seccomp refuses that"),
            (self.network, "conversions could use the network; a kernel with seccomp or network namespaces refuses that"),
            (self.programs, "conversions could run programs; a kernel with seccomp or Landlock refuses that"),
            (self.memory, "conversions have no limit of memory, because setrlimit(2) does not set one"),
            (self.signals, "conversions could end the gateway by a signal; a kernel with seccomp or Linux 6.12 with Landlock refuses that"),
        ]
        .into_iter()
        .filter_map(|(holds, gap)| (!holds).then_some(gap))
        .collect()
    }
}

/// Confines this process to nothing, then tries what must not succeed.
pub(crate) fn probe() -> Result<Holds, String> {
    let said = |error: rustix::io::Errno| format!("trying what a confined process can do failed: {error}");
    let held = rustix::fs::memfd_create("ours", rustix::fs::MemfdFlags::CLOEXEC).map_err(said)?;
    let ours = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    let parent = rustix::process::getppid();
    confine(&Reach::default())?;
    let reads = File::open("/etc/passwd").is_ok();
    let writes = OpenOptions::new().write(true).open("/dev/null").is_ok();
    let program = Command::new("/bin/true").stdin(Stdio::inherit()).status();
    Ok(Holds {
        files: !reads && !writes,
        modes: !changes_mode(&ours),
        network: std::net::UdpSocket::bind("127.0.0.1:0").is_err(),
        programs: program.is_err(),
        memory: rustix::process::getrlimit(Resource::Data).current.is_some(),
        signals: parent.is_none_or(|parent| rustix::process::test_kill_process(parent).is_err()),
    })
}

/// Whether the mode of this file can be changed by its name.
fn changes_mode(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, Mode, chmodat};
    let mode = Mode::RUSR | Mode::WUSR;
    let at = chmodat(CWD, path, mode, AtFlags::empty());
    at.is_ok() || std::fs::set_permissions(path, Permissions::from_mode(mode.bits())).is_ok()
}

#[cfg(test)]
mod tests;
