//! A job's prolog, as root on each of its nodes: the container is built once, before anything of the job's runs.
//!
//! It never fails: Slurm drains a node whose prolog does. What went wrong is noted, and the job's first task tells its
//! user ([`crate::task`]).

use crate::arguments::Arguments;
use crate::hosts::{FIELDS, Layout, STATES, hosts_of_job, unended};
use crate::node::{Node, Note, Prepared};
use crate::program::{self, Ended, last_words};
use crate::request::Request;
use crate::site::{Site, must_be_roots};
use crate::{Job, Level, Spank, cgroup, key};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

/// Longest time for setting a container up: a site's hooks and a slow file system are in it.
const PATIENCE: Duration = Duration::from_secs(240);
/// The program that takes containers down.
pub(crate) const UNSETUP: &str = "unsetupRoot";
/// Longest time for a question to the controller.
const ASKING: Duration = Duration::from_secs(20);

/// Hosts of one word of setupRoot's: the kernel takes none of over 128 KiB, see execve(2).
const HOSTS_OF_A_WORD: usize = 400;

/// Prepares the job's container, if it wants one and may have one here.
pub fn prolog(spank: &mut dyn Spank, arguments: &Arguments, node: &Node, asked: Option<&str>) {
    let Some(job) = spank.job() else { return };
    let wants = asked.is_some() || variable(spank, "SHIFTER_IMAGE").is_some();
    if !wants {
        // What killed daemons have left of an older job of this number would refuse this one's tasks.
        forget(spank, node, job.id);
        return;
    }
    if let Err(reason) = prepare(spank, arguments, node, &job, asked) {
        spank.say(Level::Error, &format!("shifter: job {}: no container was prepared: {reason}", job.id));
        forget(spank, node, job.id);
        if let Err(fault) = node.write(job.id, Note::Failed, &reason) {
            spank.say(Level::Error, &format!("shifter: {fault}"));
        }
    }
}

fn prepare(
    spank: &mut dyn Spank,
    arguments: &Arguments,
    node: &Node,
    job: &Job,
    asked: Option<&str>,
) -> Result<(), String> {
    let site = Site::read_trusted(arguments.config.as_deref())?;
    let find = |name: &str| variable(spank, name);
    let Some(request) = Request::read(&find, asked, &site)? else {
        forget(spank, node, job.id);
        return Ok(());
    };
    let layout = layout(spank, job)?;
    if request.ccm && !(arguments.enable_ccm && layout.exclusive) {
        return Err("--ccm is for jobs that have their nodes to themselves (--exclusive)".to_owned());
    }
    let what = told_apart(spank, job, &request, &layout);
    if node.is_whole(job.id) && Prepared::of(node, job.id).is_some_and(|known| known.request == what) {
        spank.say(Level::Info, &format!("shifter: job {}: its container is prepared already", job.id));
        return Ok(());
    }
    forget(spank, node, job.id);
    if !layout.exclusive && !arguments.shared_jobs {
        spank.say(Level::Debug, &format!("shifter: job {} shares its nodes: nothing is prepared", job.id));
        return Ok(());
    }
    let unsetup_root = site.root_program(UNSETUP)?;
    let living = clear_away(spank, arguments, node, job, &unsetup_root, layout.exclusive);
    let mut with_sshd = arguments.enable_sshd && layout.exclusive;
    if let Some(other) = living.iter().find(|other| with_sshd && node.has_sshd(**other)) {
        let what = format!("suspended job {other} keeps its sshd here, and its port: this one has none");
        spank.say(Level::Error, &format!("shifter: job {}: {what}", job.id));
        with_sshd = false;
    }
    // A --ccm job is for its ssh: it is told that there is none.
    if with_sshd
        && !request.ccm
        && request.key.is_some()
        && let Err(reason) = site.has_sshd()
    {
        spank.say(Level::Error, &format!("shifter: job {}: it has no sshd: {reason}", job.id));
        with_sshd = false;
    }
    let words = setup_words(spank, arguments, job, &request, &site, &layout, with_sshd)?;
    if let Some(base) = arguments.memory_cgroup.as_deref() {
        cgroup::enter(base, job)?;
    }
    // For the epilog: the configuration may be another by then, or none.
    node.write(job.id, Note::Unsetup, &unsetup_root)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = program::run(&words, &[], PATIENCE)?;
    if !ended.out.trim().is_empty() {
        spank.say(Level::Debug, &format!("shifter: {}", last_words(&ended.out)));
    }
    if !ended.well() {
        return Err(last_words(&ended.err));
    }
    let groups = words.iter().find_map(|word| word.strip_prefix("--groups=")).unwrap_or("");
    let groups = groups.split(',').filter_map(|group| group.parse().ok()).collect();
    Prepared { ccm: request.ccm, request: what, groups }.write(node, job.id)
}

/// What another prolog has to be for, to be the same job's: a number alone is given again to a job that begins anew, and
/// to others where Slurm has lost its count.
fn told_apart(spank: &dyn Spank, job: &Job, request: &Request, layout: &Layout) -> String {
    let mut hasher = DefaultHasher::new();
    let nodes = spank.variable("SLURM_JOB_NODELIST").or_else(|| spank.variable("SLURM_NODELIST"));
    format!("{} {} {request:?} {layout:?} {nodes:?}", job.uid, job.gid).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn forget(spank: &mut dyn Spank, node: &Node, job: u32) {
    for fault in node.forget(job) {
        spank.say(Level::Error, &format!("shifter: {fault}"));
    }
}

/// What `setupRoot` is called with.
fn setup_words(
    spank: &dyn Spank,
    arguments: &Arguments,
    job: &Job,
    request: &Request,
    site: &Site,
    layout: &Layout,
    with_sshd: bool,
) -> Result<Vec<String>, String> {
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let user = spank.variable("SLURM_JOB_USER").filter(|user| !user.is_empty());
    let user = user.ok_or("Slurm does not say whose job this is (SLURM_JOB_USER)")?;
    let mut words = vec![site.root_program("setupRoot")?];
    words.extend(own(&["-U", &job.uid.to_string(), "-G", &job.gid.to_string(), "-u", &user]));
    words.extend(groups_of(&user).map(|groups| format!("--groups={groups}")));
    words.push(format!("--job={}", job.id));
    if let Some(config) = &arguments.config {
        words.push(format!("--config={config}"));
    }
    let nodes = spank.variable("SLURM_JOB_NODELIST").or_else(|| spank.variable("SLURM_NODELIST"));
    let cpus = spank.variable("SLURM_JOB_CPUS_PER_NODE");
    let hosts = nodes.and_then(|nodes| hosts_of_job(&nodes, cpus.as_deref(), layout));
    for hosts in hosts.iter().flat_map(|hosts| hosts.chunks(HOSTS_OF_A_WORD)) {
        words.extend(own(&["-N", &hosts.join(" ")]));
    }
    if !request.volumes.is_empty() {
        words.extend(own(&["-v", &request.volumes]));
    }
    if let Some(modules) = &request.modules {
        words.extend(own(&["-m", modules]));
    }
    if let Some(line) = request.key.as_ref().filter(|_| with_sshd) {
        words.extend(own(&["-s", line]));
        words.extend(key::identity(line).map(|file| format!("--identity={file}")));
    }
    words.extend(own(&[request.image.image_type.as_str(), &request.image.tag]));
    Ok(words)
}

/// All groups of a user as Slurm gives them to tasks: the account's own among them, also where the job has another.
/// None: `setupRoot` finds them out by itself.
fn groups_of(user: &str) -> Option<String> {
    let ended = program::run(&["/usr/bin/id", "-G", "--", user], &[], ASKING).ok()?;
    let groups: Vec<&str> = ended.out.split_whitespace().collect();
    let good = ended.well() && !groups.is_empty() && groups.iter().all(|group| group.parse::<u32>().is_ok());
    good.then(|| groups.join(","))
}

/// Takes down what killed daemons have left: of this job's number, and where the job is alone of any other job that
/// Slurm has no longer here. Returns the others that it has: suspended ones, which a job with more rights has pushed
/// aside, come back to what they had.
fn clear_away(
    spank: &mut dyn Spank,
    arguments: &Arguments,
    node: &Node,
    job: &Job,
    unsetup_root: &str,
    alone: bool,
) -> Vec<u32> {
    let (mine, mut others): (Vec<u32>, Vec<u32>) =
        node.containers().into_iter().partition(|old| *old == job.id);
    let mut noted = node.noted();
    noted.retain(|other| *other != job.id && !others.contains(other));
    if !alone {
        others.clear();
        noted.clear();
    }
    let living = match others.is_empty() && noted.is_empty() {
        true => Vec::new(),
        false => living(spank, job).unwrap_or_else(|reason| {
            let what = format!("job {}: what other jobs have left here stays: {reason}", job.id);
            spank.say(Level::Error, &format!("shifter: {what}"));
            others.iter().chain(&noted).copied().collect()
        }),
    };
    for old in noted.into_iter().filter(|old| !living.contains(old)) {
        forget(spank, node, old);
    }
    let (stay, go): (Vec<u32>, Vec<u32>) = others.into_iter().partition(|other| living.contains(other));
    for old in mine.into_iter().chain(go) {
        spank.say(Level::Info, &format!("shifter: taking down what job {old} has left here"));
        if let Some(fault) = unsetup(arguments, unsetup_root, old) {
            spank.say(Level::Error, &format!("shifter: {fault}"));
        }
        if old != job.id {
            forget(spank, node, old);
        }
    }
    stay
}

/// Runs this `unsetupRoot` for a job; returns what it says went wrong.
pub(crate) fn unsetup(arguments: &Arguments, program: &str, job: u32) -> Option<String> {
    let mut words = vec![program.to_owned(), format!("--job={job}")];
    words.extend(arguments.config.as_ref().map(|config| format!("--config={config}")));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match program::run(&words, &[], PATIENCE) {
        Ok(ended) if ended.well() => None,
        Ok(ended) => Some(last_words(&ended.err)),
        Err(reason) => Some(reason),
    }
}

/// Asks the controller how the job is placed.
fn layout(spank: &dyn Spank, job: &Job) -> Result<Layout, String> {
    let ended = ask(spank, &[&format!("--jobs={}", job.id), &format!("--Format={FIELDS}")])?;
    let found = Layout::parse(&ended.out, job.id).filter(|_| ended.well());
    found.ok_or_else(|| {
        format!("Slurm's controller does not say how the job is placed: {}", last_words(&ended.err))
    })
}

/// Asks the controller for the jobs that have not ended on this node. An answer without this job is none.
fn living(spank: &dyn Spank, job: &Job) -> Result<Vec<u32>, String> {
    let here = spank.variable("SLURMD_NODENAME").map(|name| format!("--nodelist={name}"));
    let fields = format!("--Format={STATES}");
    let words: Vec<&str> = here.as_deref().into_iter().chain([fields.as_str()]).collect();
    let ended = ask(spank, &words)?;
    let found = unended(&ended.out);
    match ended.well() && found.contains(&job.id) {
        true => Ok(found),
        false => Err(format!("Slurm's controller does not say which jobs live: {}", last_words(&ended.err))),
    }
}

/// Asks the controller about jobs in whatever state. Not by scontrol, whose answer has texts of the user's in it.
fn ask(spank: &dyn Spank, words: &[&str]) -> Result<Ended, String> {
    let program = squeue();
    let words = [&[program.as_str(), "--noheader", "--states=all"], words].concat();
    let conf = spank.variable("SLURM_CONF");
    let environment: Vec<(&str, &str)> = conf.iter().map(|conf| ("SLURM_CONF", conf.as_str())).collect();
    program::run(&words, &environment, ASKING)
}

/// squeue, of the very Slurm this runs in: its daemons lie in `sbin` beside `bin`.
fn squeue() -> String {
    let own = std::fs::read_link("/proc/self/exe").ok();
    let beside = own.and_then(|own| Some(own.parent()?.parent()?.join("bin/squeue")));
    let found = beside.filter(|path| must_be_roots(path).is_ok());
    found.as_deref().unwrap_or(Path::new("/usr/bin/squeue")).display().to_string()
}

/// What the submission has left for this prolog; else what the site gives all prologs. The original takes the image, but
/// not its type, the other way around: then a site's default would undo every user's choice.
fn variable(spank: &dyn Spank, name: &str) -> Option<String> {
    spank.variable(&format!("SPANK_{name}")).or_else(|| spank.variable(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Context;
    use crate::recording::Recording;

    const JOB: Job = Job { id: 7, uid: 1, gid: 1, step: 0 };

    #[test]
    fn what_a_user_has_chosen_comes_before_what_the_site_gives_all_prologs() {
        for name in ["SHIFTER_IMAGE", "SHIFTER_IMAGETYPE", "SHIFTER_VOLUME", "SHIFTER_MODULE"] {
            let users = format!("SPANK_{name}");
            for (variables, expected) in [
                (&[(name, "site"), (users.as_str(), "user")][..], Some("user")),
                (&[(users.as_str(), "user")], Some("user")),
                (&[(name, "site")], Some("site")),
                (&[], None),
            ] {
                let spank = Recording::new(Context::JobScript, variables);
                assert_eq!(variable(&spank, name).as_deref(), expected, "{variables:?}");
            }
        }
    }

    #[test]
    fn a_plain_jobs_tasks_are_not_refused_for_what_an_older_job_of_its_number_has_left() {
        let place = tempfile::tempdir().unwrap();
        let node = Node::at(place.path());
        node.write(JOB.id, Note::Failed, "an older job's").unwrap();
        let mut spank = Recording::new(Context::JobScript, &[]);
        spank.job = Some(JOB);
        let refused = crate::task::task(&mut spank, &Arguments::default(), &node).unwrap_err();
        assert!(refused.contains("an older job's"), "{refused}");
        prolog(&mut spank, &Arguments::default(), &node, None);
        assert_eq!(crate::task::task(&mut spank, &Arguments::default(), &node), Ok(()));
        assert!(!node.knows(JOB.id));
    }

    #[test]
    fn a_job_that_begins_anew_is_told_from_one_whose_prolog_runs_twice() {
        let place = tempfile::tempdir().unwrap();
        let conf = place.path().join("udiRoot.conf");
        std::fs::write(&conf, "imagePath=/i\nudiRootPath=/usr\n").unwrap();
        let site = Site::read(conf.to_str()).unwrap();
        let of = |job: Job, image: &str, layout: &str, nodes: &str| {
            let spank = Recording::new(Context::JobScript, &[("SLURM_JOB_NODELIST", nodes)]);
            let request = Request::read(&|_| None, Some(&format!("id:{}", image.repeat(64))), &site);
            let layout = Layout::parse(layout, JOB.id).unwrap();
            told_apart(&spank, &job, &request.unwrap().unwrap(), &layout)
        };
        let (line, nodes) = ("7 NO 1 0 1 1 0", "n[1-2]");
        let first = of(JOB, "a", line, nodes);
        assert_eq!(of(Job { step: 9, ..JOB }, "a", line, nodes), first);
        for other in [
            of(Job { uid: 2, ..JOB }, "a", line, nodes),
            of(Job { gid: 2, ..JOB }, "a", line, nodes),
            of(JOB, "b", line, nodes),
            of(JOB, "a", "7 NO 1 0 1 1 1", nodes),
            of(JOB, "a", "7 NO 2 0 1 1 0", nodes),
            of(JOB, "a", line, "n[1-3]"),
        ] {
            assert_ne!(other, first);
        }
    }
}
