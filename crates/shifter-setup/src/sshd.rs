//! `-s KEY`: an sshd in the prepared container, run as the job's user, that lets in only the job's user with the job's
//! key. Its host key is made for this job by root and lies, like all its files, in directories that only root can
//! write and only this user can enter.
//!
//! The programs are the site's, below optUdiImage (`dist/openssh/build` makes them). They are believed because nobody
//! but root could have written them; only ssh-keygen runs as root, before the container, and reads nothing of a user's.

pub mod text;

use crate::options::Options;
use shifter_core::udiroot::Module;
use shifter_runtime::config::TrustedConfig;
use shifter_runtime::environment::{self, Sources};
use shifter_runtime::image::Image;
use shifter_runtime::plan::{MountPlan, Step};
use shifter_sys::child::{output_of, run_as_root};
use shifter_sys::keeper::{self, Begun, Program};
use shifter_sys::lockdown::LockedDown;
use shifter_sys::{Error, directory as dir, trusted};
use std::os::fd::OwnedFd;
use std::time::Duration;
use text::PLACE;

type Failure = Box<dyn std::error::Error>;

/// The file in a job's directory by which its sshd is ended: [`keeper::end`]'s words.
pub const RECORD: &str = "sshd";
/// Name of the host key, in the job's directory while it is made, and in the container.
const HOST_KEY: &str = "ssh_host_ed25519_key";
/// Largest settings of a site, in bytes.
const LARGEST: u64 = 1 << 20;
/// Longest wait for a program of the site's.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for everything that was started through an sshd to end.
const LONGEST_END: Duration = Duration::from_secs(10);

/// The sshd that a job asked for.
#[derive(Debug)]
pub struct Sshd {
    key: String,
    hosts: String,
    identity: Option<String>,
    programs: String,
    of_site: [String; 2],
}

impl Sshd {
    /// What `-s` asks for; `None` without it. The site's files are read and checked.
    pub fn wanted(
        options: &Options,
        config: &TrustedConfig,
        locked: &LockedDown,
    ) -> Result<Option<Self>, Failure> {
        let Some(key) = &options.key else { return Ok(None) };
        let hosts = options.hosts.clone().filter(|hosts| !hosts.is_empty());
        let hosts = hosts.ok_or("-s needs -N: the hosts between which the key is for")?;
        let key = text::authorized_key(key)
            .ok_or("the value of -s must be one line of a public key file, such as \"ssh-ed25519 AAAA…\"")?;
        let programs = config.udiroot.opt_udi_image.trim_end_matches('/').to_owned();
        for program in ["sbin/sshd", "bin/ssh", "bin/ssh-keygen"] {
            drop(trusted::open(&format!("{programs}/{program}"), trusted::Kind::File).map_err(|error| {
                format!("{error}: -s needs OpenSSH below optUdiImage, which dist/openssh/build makes")
            })?);
        }
        let of_site = [("sshd_config", text::USUAL_SSHD), ("ssh_config", text::USUAL_SSH)]
            .map(|(name, usual)| of_site(&programs, name, usual));
        let [Ok(of_sshd), Ok(of_ssh)] = of_site else {
            return Err(of_site.into_iter().find_map(Result::err).unwrap_or_else(|| "no settings".into()));
        };
        let known =
            output_of(locked, &[&format!("{programs}/bin/ssh"), "-Q", "key"], 1 << 16, PATIENCE)?.text;
        let kind = key.split(' ').next().unwrap_or("");
        if !known.lines().any(|line| line == kind) {
            let known = known.split_whitespace().filter(|name| !name.contains("cert")).collect::<Vec<_>>();
            return Err(format!(
                "a key of type {kind} is of no use to the sshd here, which knows {}",
                known.join(", ")
            )
            .into());
        }
        Ok(Some(Self {
            key,
            hosts,
            identity: options.identity.clone(),
            programs,
            of_site: [of_sshd, of_ssh],
        }))
    }

    /// Adds the job's files to what will be built, the host key among them; `job` is the job's directory.
    pub fn add_files(
        &self,
        plan: &mut MountPlan,
        user: &str,
        variables: &[Vec<u8>],
        (job, path): (&OwnedFd, &str),
    ) -> Result<(), Failure> {
        let file = |name: &str, content: String| Step::File(format!("{PLACE}/etc/{name}"), content);
        let hosts = text::names(&self.hosts);
        let [of_sshd, of_ssh] = &self.of_site;
        let ssh_config = text::ssh_config(of_ssh, &hosts, self.identity.as_deref());
        let [private, public] = self.new_host_key(job, path)?;
        let ours = vec![
            Step::Directory { path: format!("{PLACE}/etc"), mode: 0o755 },
            file(HOST_KEY, private),
            file(&format!("{HOST_KEY}.pub"), public),
            file("user_auth_keys", self.key.clone()),
            file("sshd_config", text::sshd_config(of_sshd, user, variables)),
            file("ssh_config", ssh_config.clone()),
        ];
        // Below the site's tree, which is then laid under them.
        let first_copy = plan.steps.iter().position(|step| matches!(step, Step::Copy { .. }));
        let at = first_copy.ok_or("-s needs optUdiImage")?;
        plan.steps.splice(at..at, ours).for_each(drop);
        // For an ssh of the image's own.
        let is_place = |step: &Step| matches!(step, Step::Directory { path, .. } if path == "/etc/ssh");
        if let Some(at) = plan.steps.iter().position(is_place) {
            plan.steps.insert(at + 1, Step::File("/etc/ssh/ssh_config".to_owned(), ssh_config));
        }
        Ok(())
    }

    /// Starts it in the pinned container; it stays when the result is let go.
    pub fn start(&self, locked: &LockedDown, job: &OwnedFd, pin: &OwnedFd) -> Result<Begun, Failure> {
        // What sshd does last before it takes connections is to write its pid file: that says it is ready.
        let (sshd, config) = (format!("{PLACE}/sbin/sshd"), format!("{PLACE}/etc/sshd_config"));
        let argv = [sshd.as_str(), "-D", "-f", &config, "-o", "PidFile=/proc/self/fd/1"];
        let program = Program { name: "sshd", argv: &argv, pin, record: (job, RECORD) };
        let begun = keeper::begin(locked, &program).map_err(|error| {
            let port = text::port(&self.of_site[0]);
            format!("FAILED to start sshd: {error}; does another job's on this node have port {port}?")
        })?;
        dir::write_new(job, RECORD, begun.identity().as_bytes())?;
        Ok(begun)
    }

    fn new_host_key(&self, job: &OwnedFd, path: &str) -> Result<[String; 2], Failure> {
        let (program, place) = (format!("{}/bin/ssh-keygen", self.programs), format!("{path}/{HOST_KEY}"));
        let made = run_as_root(&[&program, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &place])?;
        if made.code != Some(0) {
            return Err(format!("ssh-keygen made no host key: {}", made.text.trim()).into());
        }
        let names = [HOST_KEY.to_owned(), format!("{HOST_KEY}.pub")];
        let [private, public] = names.map(|name| {
            let text = trusted::open_file_in(job, &name, &[])
                .and_then(|(file, _)| trusted::read_all(file, &name, LARGEST));
            text.and_then(|text| dir::remove(job, &name).map(|()| text))
        });
        Ok([private?, public?])
    }
}

/// Ends the sshd of a job, and everything that was started through it.
pub fn end(job: &OwnedFd) -> Result<(), Error> {
    let read = |file| trusted::read_all(file, RECORD, LARGEST);
    let identity = match trusted::open_file_in(job, RECORD, &[]).and_then(|(file, _)| read(file)) {
        Err(error) if error.errno() == Some(2) => return Ok(()),
        other => other?,
    };
    keeper::end(&identity, LONGEST_END)?;
    if dir::has(job, RECORD)? {
        let rule = "the process that watched over it was killed; what was started by ssh may still run";
        return Err(Error::refused("end", "sshd", rule));
    }
    Ok(())
}

/// The process id of the keeper of a job's sshd, as recorded.
pub fn keeper(job: &OwnedFd) -> Option<String> {
    let (file, _) = trusted::open_file_in(job, RECORD, &[]).ok()?;
    trusted::read_all(file, RECORD, LARGEST).ok()?.split_whitespace().nth(1).map(str::to_owned)
}

/// What a session starts with: what a start of `shifter --clearenv` has.
pub fn variables(config: &TrustedConfig, image: &Image, modules: &[Module]) -> Vec<Vec<u8>> {
    let mut variables = environment::build(&Sources {
        inherited: &[],
        request: &image.id,
        id: &image.id,
        image: &image.meta.env,
        file: &[],
        command_line: &[],
        modules,
        site: &config.udiroot.site_env,
    });
    // Last, so that the image's own ssh is found first.
    let ours = format!("{PLACE}/bin");
    let has_it = |path: &[u8]| path.split(|byte| *byte == b':').any(|part| part == ours.as_bytes());
    if !variables.get(b"PATH").is_some_and(has_it) {
        variables.append(format!("PATH={ours}").as_bytes());
    }
    variables.entries().to_vec()
}

/// A settings file of the site's; a site without it gets the usual one.
fn of_site(programs: &str, name: &str, usual: &str) -> Result<String, Failure> {
    match trusted::read(&format!("{programs}/etc/{name}"), LARGEST) {
        Err(error) if error.errno() == Some(2) => Ok(usual.to_owned()),
        other => Ok(other?),
    }
}
