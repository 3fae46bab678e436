//! Preparing a container: the first on a node stands at udiMount, where the original's did, in the namespace this
//! program runs in, open to its user and root alone and without the user's volumes; further ones of other jobs exist
//! only as pinned namespaces. Either way the namespace that jobs join is pinned beside a record of what it was made
//! of, and a failure takes everything down again.

use crate::options::Options;
use crate::sshd::{self, Sshd};
use crate::teardown::{self, IMAGE, OWNER, image_place};
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::ImageType;
use shifter_core::udiroot::Module;
use shifter_core::volume;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::image::Image;
use shifter_runtime::plan::{MountPlan, Wanted};
use shifter_runtime::prepared::{self, NO_JOB};
use shifter_runtime::{Error, account, apply, etc};
use shifter_sys::child::output_of;
use shifter_sys::credentials::Caller;
use shifter_sys::directory as dir;
use shifter_sys::keeper::Begun;
use shifter_sys::lockdown::{LockedDown, lock_down_for};
use shifter_sys::namespace::pin;
use shifter_sys::trusted;
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

const GETENT: &str = "/usr/bin/getent";
/// Longest wait for the directory service.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does what `setupRoot` was called for; returns what `-V` shows.
pub fn prepare(options: &Options) -> Result<String, Failure> {
    let [image_type, identifier] = options.words.as_slice() else {
        return Err("two words are needed: the image's type and its identifier".into());
    };
    let image_type = ImageType::parse(&image_type.to_ascii_lowercase()).ok_or_else(|| {
        format!("\"{}\" is no image type: docker, custom, id and local are", image_type.escape_debug())
    })?;
    let descriptor = Descriptor::new(image_type, identifier)?;
    let mut locked = lock_down_for(Caller::of_job(options.uid, options.gid, &[])?)?;
    let groups = match &options.groups {
        Some(groups) => groups.clone(),
        None => groups_of(&locked, &options.user)?,
    };
    locked.act_for(Caller::of_job(options.uid, options.gid, &groups)?);
    let config = configuration(&locked, options.config.as_deref())?;
    prepare_as(options, &descriptor, &locked, &config)
}

/// The configuration, or another one that was named.
pub fn configuration(locked: &LockedDown, path: Option<&str>) -> Result<TrustedConfig, Failure> {
    Ok(match path {
        Some(path) => TrustedConfig::open_at(locked, path)?,
        None => TrustedConfig::open(locked)?,
    })
}

/// The same for `locked`'s user, whose groups are known, and an image whose identifier is.
pub fn prepare_as(
    options: &Options,
    descriptor: &Descriptor,
    locked: &LockedDown,
    config: &TrustedConfig,
) -> Result<String, Failure> {
    let image = match descriptor.image_type {
        ImageType::Local => Image::local(config, &descriptor.tag)?,
        _ => Image::open(config, locked.caller(), &descriptor.tag)?,
    };
    let modules = config.udiroot.select_modules(options.modules.as_deref())?;
    let modules: Vec<Module> = modules.into_iter().cloned().collect();
    for (line, text) in &config.udiroot.warnings {
        crate::say(&format!("udiRoot.conf line {line}: {text}"));
    }
    let volumes = volume::parse_user(&options.volumes, &config.shifter.volumes)?;
    let account = account::of_caller(config, locked)?;
    if account.name != options.user {
        let (uid, other) = (options.uid, &account.name);
        return Err(format!("uid {uid} is {other}'s, not \"{}\"'s", options.user.escape_debug()).into());
    }
    let wanted = Wanted {
        id: &image.id,
        user: &account.name,
        modules: &modules,
        volumes: &volumes,
        etc: etc::site_layer(config, locked, &account)?,
        hosts: options.hosts.clone(),
    };
    let sshd = Sshd::wanted(options, config, locked)?;
    let mut plan = MountPlan::build(config, wanted);
    let record = prepared::describe(config, locked.caller(), &image, &modules, &volumes)?;
    let key = options.job.as_deref().unwrap_or(NO_JOB);
    let jobs = pin::private_directory(&prepared::directory())?;
    if !dir::make_if_absent(&jobs, key, 0o700)? {
        return Err(
            format!("a container for job {key} is prepared already; unsetupRoot takes it down").into()
        );
    }
    let at = format!("{}/{key}", prepared::directory());
    let built = dir::find(&jobs, key, dir::Links::Refuse).map_err(Failure::from).and_then(|job| {
        if let Some(sshd) = &sshd {
            let variables = sshd::variables(config, &image, &modules);
            sshd.add_files(&mut plan, &account.name, &variables, (&job, &at))?;
        }
        build(key, &plan, config, &image, locked)?;
        let begun = match &sshd {
            Some(sshd) => {
                let (pin, _) = trusted::open_file_in(&job, prepared::PIN, &[])?;
                Some(sshd.start(locked, &job, &pin)?)
            }
            None => None,
        };
        // Last: nobody joins what has no record.
        dir::write_new(&job, prepared::RECORD, record.as_bytes())?;
        Ok(begun.map_or(Ok(()), Begun::let_go)?)
    });
    if built.is_err() {
        let faults = teardown::end_sshd(Some(key)).into_iter().chain(teardown::job(key, config));
        faults.for_each(|fault| crate::say(&format!("setupRoot: {fault}")));
    }
    built.map(|()| format!("{record}{plan}"))
}

fn build(
    key: &str,
    plan: &MountPlan,
    config: &TrustedConfig,
    image: &Image,
    locked: &LockedDown,
) -> Result<(), Failure> {
    let jobs = pin::private_directory(&prepared::directory())?;
    let job = dir::find(&jobs, key, dir::Links::Refuse)?;
    dir::make_file(&job, prepared::PIN)?;
    let place = dir::find(&job, prepared::PIN, dir::Links::Refuse)?;
    let said = |error: Error| error.to_string();
    let (image_at, mut in_place) = (image_place(key), None);
    if dir::link_target(&jobs, OWNER).is_none() && dir::make_link(&jobs, OWNER, key).is_ok() {
        dir::make(&job, IMAGE, 0o700)?;
        in_place = apply::assemble_in_place(plan, config, image, locked, &image_at)?;
        if in_place.is_none() {
            dir::remove(&jobs, OWNER)?;
        }
    }
    pin::pin(locked.proc(), &place, || match &in_place {
        Some(container) => container.enter().map_err(said),
        None => apply::apply(plan, config, image, locked, &mut |_| {}).map(drop).map_err(said),
    })?;
    Ok(())
}

/// The groups of a user as the system's directory services know them; never this program's own.
pub fn groups_of(locked: &LockedDown, user: &str) -> Result<Vec<u32>, Failure> {
    let output = output_of(locked, &[GETENT, "initgroups", user], 1 << 20, PATIENCE)?;
    let mut words = output.text.lines().next().unwrap_or("").split_whitespace();
    if output.code != Some(0) || words.next() != Some(user) {
        return Err(format!(
            "the groups of \"{}\" are not to be had from getent initgroups",
            user.escape_debug()
        )
        .into());
    }
    Ok(words.filter_map(|word| word.parse().ok()).collect())
}
