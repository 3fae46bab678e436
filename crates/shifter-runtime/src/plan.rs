//! What will be done, as a list: built without touching anything, printed by `--dry-run`, carried out by
//! `apply` in this order. The order is the original's (its documents promise sites what comes after what).

use crate::config::TrustedConfig;
use crate::etc::File;
use shifter_core::udiroot::Module;
use shifter_core::volume::{self, PerNodeCache, VolumeMap};
use shifter_sys::mount::{self, Depth, Flags, Propagation};
use std::fmt;

/// One thing to do.
#[derive(Debug)]
pub enum Step {
    /// Mount the image read-only, from the loop device its file has or gets.
    MountImage {
        /// Directory of the host, made if missing.
        at: String,
    },
    /// Mount a new, empty root.
    NewRoot {
        /// `tmpfs` or `ramfs`.
        kind: String,
        /// Directory of the host, made if missing.
        at: String,
    },
    /// Make a directory in the root.
    Directory {
        /// Path in the container.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Run a script of the site as root, in the root being assembled.
    Hook {
        /// Its path on the host.
        script: String,
        /// What is said when it fails.
        failure: String,
    },
    /// Mount something of the host.
    Bind(Bind),
    /// Show a copy of a tree of the site, over what the root has there.
    Copy {
        /// Directory of the host.
        from: String,
        /// Directory in the container.
        to: String,
        /// Whether root hooks may change it; the source never changes.
        writable: bool,
    },
    /// Write a file of the `/etc` site layer.
    EtcFile(File),
    /// Make a symbolic link in the root.
    Link {
        /// Path in the container.
        path: String,
        /// What it points to.
        target: String,
    },
    /// Mount each entry of a directory of the image where the root has none of that name.
    MergeImage {
        /// Path in the image and in the root.
        tree: &'static str,
    },
    /// Lay the root's `/etc` over the image's.
    OverlayEtc,
    /// Mount a perNodeCache of the site's.
    Cache(VolumeMap, PerNodeCache),
    /// Mount what the user asked for.
    Volume(VolumeMap, Propagation),
    /// Write a file in `/var`.
    VarFile {
        /// Its name.
        name: &'static str,
        /// Its whole text.
        content: String,
    },
    /// Write a file of root's, readable by all: path in the container, whole text.
    #[cfg(feature = "setup")]
    File(String, String),
    /// Make the root itself read-only.
    SealRoot,
}

/// A mount of a place of the host.
#[derive(Debug)]
pub struct Bind {
    /// Absolute path of the host.
    pub from: String,
    /// Absolute path in the container.
    pub to: String,
    /// With the mounts below it, or without.
    pub depth: Depth,
    /// Flags set on it and on all that comes along.
    pub flags: Flags,
    /// What it exchanges with the host later.
    pub propagation: Propagation,
    /// Whether a missing source only means no mount.
    pub optional: bool,
}

/// Name in `/var` of the record by which old versions find a container again.
pub(crate) const STATE_FILE: &str = "shifterConfig.json";
/// Where the site's own tree is shown.
pub const UDI_IMAGE: &str = "/opt/udiImage";

/// Directories every container has, in the order they are made.
const DIRECTORIES: [(&str, u32); 14] = [
    ("/etc", 0o755),
    ("/etc/udiImage", 0o755),
    ("/opt", 0o755),
    (UDI_IMAGE, 0o755),
    ("/opt/udiImage/modules", 0o755),
    ("/var", 0o755),
    ("/var/spool", 0o755),
    ("/var/run", 0o755),
    ("/var/tmp", 0o755),
    ("/var/empty", 0o700),
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/dev", 0o755),
    ("/tmp", 0o755),
];

/// The steps, in order.
#[derive(Debug)]
pub struct MountPlan {
    /// What `apply` does, one after the other.
    pub steps: Vec<Step>,
}

/// What a plan is made for, beside the site's configuration.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// The image's identifier, for the state file.
    pub id: &'a str,
    /// The user's name, for the state file.
    pub user: &'a str,
    /// Active modules, in order.
    pub modules: &'a [Module],
    /// What the user wants mounted.
    pub volumes: &'a [VolumeMap],
    /// The site layer of `/etc`.
    pub etc: Vec<File>,
    /// The job's hosts, one a line, each as often as it has tasks.
    pub hosts: Option<String>,
}

impl MountPlan {
    /// Decides everything that can be decided without looking at the image's content.
    pub fn build(config: &TrustedConfig, wanted: Wanted<'_>) -> Self {
        let (conf, modules) = (&config.udiroot, wanted.modules);
        let usual = match conf.mount_propagation {
            Some(volume::Propagation::Slave) => Propagation::Slave,
            _ => Propagation::Private,
        };
        let mut steps = vec![
            Step::MountImage { at: conf.loop_mount.clone() },
            Step::NewRoot { kind: conf.rootfs_type.clone(), at: conf.udi_mount.clone() },
        ];
        steps.extend(DIRECTORIES.map(|(path, mode)| Step::Directory { path: path.to_owned(), mode }));
        steps.extend(hook(&conf.site_pre_mount_hook, "Site premount hook failed. Exiting."));
        steps.extend(conf.site_fs.iter().map(|map| site_mount(map, usual)));
        steps.extend(hook(&conf.site_post_mount_hook, "Site postmount hook failed."));
        let of_modules = modules.iter().flat_map(|module| &module.site_fs);
        steps.extend(of_modules.clone().map(|map| site_mount(map, usual)));
        steps.push(Step::Link { path: "/etc/mtab".to_owned(), target: "/proc/mounts".to_owned() });
        steps.extend(wanted.etc.into_iter().map(Step::EtcFile));
        let copied = modules.iter().filter_map(|module| {
            Some((module.copy_path.clone()?, format!("{UDI_IMAGE}/modules/{}", module.name)))
        });
        let copied: Vec<_> = Some((conf.opt_udi_image.clone(), UDI_IMAGE.to_owned()))
            .into_iter()
            .filter(|(from, _)| !from.is_empty())
            .chain(copied)
            .collect();
        // Before the first of them is shown read-only.
        let places = copied.iter().map(|(_, to)| Step::Directory { path: to.clone(), mode: 0o755 });
        steps.extend(places);
        let writable = modules.iter().any(|module| module.roothook.is_some());
        steps.extend(copied.into_iter().map(|(from, to)| Step::Copy { from, to, writable }));
        if let Some(content) = wanted.hosts {
            steps.push(Step::VarFile { name: "hostsfile", content });
            let link = |path: &str| Step::Link { path: path.to_owned(), target: "hostsfile".to_owned() };
            steps.extend(["/var/hostslist", "/var/nodeslist"].map(link));
        }
        steps.extend(modules.iter().filter_map(|module| {
            hook(module.roothook.as_deref()?, &format!("{} module roothook failed.", module.name))
        }));
        steps.extend(
            [
                // The host's own proc mount, not a new one: a new one would not have its hidepid= options.
                ("/proc", Depth::One, mount::SAFE_NO_EXEC, false),
                ("/sys", Depth::One, mount::SAFE, false),
                ("/dev", Depth::Recursive, mount::NO_SETUID, false),
                ("/tmp", Depth::One, mount::SAFE, false),
                ("/var/tmp", Depth::One, mount::SAFE, true),
            ]
            .map(|(path, depth, flags, optional)| {
                let propagation = if depth == Depth::Recursive { Propagation::Private } else { usual };
                let bind = plain_bind(path.to_owned(), path.to_owned(), propagation);
                Step::Bind(Bind { depth, flags, optional, ..bind })
            }),
        );
        steps.extend(["/", "/var", "/opt"].map(|tree| Step::MergeImage { tree }));
        // Hidden as in the original, so that no image's ssh settings meet the site's.
        steps.push(Step::Directory { path: "/etc/ssh".to_owned(), mode: 0o755 });
        steps.push(Step::OverlayEtc);
        // The overlay covers what the site mounted below /etc: the hooks had to see it there before.
        let below_etc = conf.site_fs.iter().chain(of_modules).filter(|map| map.to.starts_with("/etc/"));
        steps.extend(below_etc.map(|map| site_mount(map, usual)));
        // Before the user's volumes: nothing of root's is made where they chose what is mounted.
        let content = state_record(wanted.id, wanted.user, wanted.volumes, modules);
        steps.push(Step::VarFile { name: STATE_FILE, content });
        steps.extend(wanted.volumes.iter().map(|map| Step::Volume(map.clone(), usual)));
        if !conf.mount_udi_root_writable {
            steps.push(Step::SealRoot);
        }
        Self { steps }
    }
}

fn hook(script: &str, failure: &str) -> Option<Step> {
    (!script.is_empty()).then(|| Step::Hook { script: script.to_owned(), failure: failure.to_owned() })
}

fn plain_bind(from: String, to: String, propagation: Propagation) -> Bind {
    Bind { from, to, depth: Depth::One, flags: mount::SAFE, propagation, optional: false }
}

fn site_mount(map: &VolumeMap, usual: Propagation) -> Step {
    if let Some(cache) = &map.cache {
        return Step::Cache(map.clone(), cache.clone());
    }
    let mut flags = mount::SAFE;
    if map.from == "/dev" || map.from.starts_with("/dev/") {
        flags = mount::NO_SETUID;
    }
    if map.read_only {
        flags |= Flags::MOUNT_ATTR_RDONLY;
    }
    let propagation = map.propagation.map_or(usual, |wanted| match wanted {
        volume::Propagation::Private => Propagation::Private,
        volume::Propagation::Slave => Propagation::Slave,
        volume::Propagation::Shared => Propagation::Shared,
    });
    let depth = if map.recursive { Depth::Recursive } else { Depth::One };
    Step::Bind(Bind { depth, flags, ..plain_bind(map.from.clone(), map.to.clone(), propagation) })
}

/// The original's record, byte for byte. Only a backslash in a volume's path needs escaping: quotes and control
/// characters are refused there, names have neither.
fn state_record(id: &str, user: &str, volumes: &[VolumeMap], modules: &[Module]) -> String {
    let volumes = volume::signature(volumes).replace('\\', "\\\\");
    let modules: String = modules.iter().map(|module| format!("{},", module.name)).collect();
    format!(
        "{{\"identifier\":\"{id}\",\"user\":\"{user}\",\"volMap\":\"{volumes}\",\"modules\":\"{modules}\"}}\n"
    )
}

impl fmt::Display for MountPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MountImage { at } => write!(f, "image      {at} (ro,nosuid,nodev)"),
            Step::NewRoot { kind, at } => write!(f, "root       {at} ({kind},nosuid,nodev)"),
            Step::Directory { path, mode } => write!(f, "directory  {path} ({mode:04o})"),
            Step::Hook { script, .. } => write!(f, "hook       {script}"),
            Step::Bind(bind) => bind.fmt(f),
            Step::Copy { from, to, .. } => write!(f, "copy       {from} -> {to}"),
            Step::EtcFile(file) => write!(f, "file       /etc/{} ({} bytes)", file.name, file.content.len()),
            Step::Link { path, target } => write!(f, "link       {path} -> {target}"),
            Step::MergeImage { tree } => write!(f, "merge      image:{tree} -> {tree}"),
            Step::OverlayEtc => f.write_str("overlay    /etc over image:/etc (ro,nosuid,nodev)"),
            Step::Volume(map, _) | Step::Cache(map, _) => write!(f, "volume     {}", map.signature),
            Step::VarFile { name, .. } => write!(f, "file       /var/{name}"),
            #[cfg(feature = "setup")]
            Step::File(path, content) => {
                let size = content.len();
                write!(f, "file       {path} ({size} bytes)")
            }
            Step::SealRoot => f.write_str("read-only  /"),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bind       {} -> {} (", self.from, self.to)?;
        for (flag, name) in [
            (Flags::MOUNT_ATTR_RDONLY, "ro,"),
            (Flags::MOUNT_ATTR_NOSUID, "nosuid,"),
            (Flags::MOUNT_ATTR_NODEV, "nodev,"),
            (Flags::MOUNT_ATTR_NOEXEC, "noexec,"),
        ] {
            if self.flags.contains(flag) {
                f.write_str(name)?;
            }
        }
        if self.depth == Depth::Recursive {
            f.write_str("rec,")?;
        }
        f.write_str(match self.propagation {
            Propagation::Private => "private)",
            Propagation::Slave => "slave)",
            Propagation::Shared => "shared)",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan(text: &str, choice: &str, volumes: &str) -> String {
        let config = TrustedConfig::of(text).unwrap();
        let etc = vec![File { name: "passwd".to_owned(), content: "alice".to_owned() }];
        let modules: Vec<_> =
            config.udiroot.select_modules(Some(choice)).unwrap().into_iter().cloned().collect();
        let volumes = volume::parse_user(volumes, &config.shifter.volumes).unwrap();
        let wanted =
            Wanted { id: "0123", user: "alice", modules: &modules, volumes: &volumes, etc, hosts: None };
        MountPlan::build(&config, wanted).to_string()
    }

    #[test]
    fn the_plan_names_every_mount_with_its_flags_in_order() {
        let text = plan(
            "imagePath=/images\nsiteFs=/home;/scratch:/global/s:ro:rec:slave;/dev/hugepages;/a:/etc/opt/a\n\
             mountPropagationStyle=slave\nmountUdiRootWritable=0\nsitePreMountHook=/pre.sh\n\
             sitePostMountHook=/post.sh\noptUdiImage=/usr/libexec/udiImage/\n\
             module_mpich_copyPath=/opt/mpich\nmodule_mpich_siteFs=/m\nmodule_gpu_roothook=/gpu.sh",
            "mpich,gpu",
            "/scratch:/mnt:ro",
        );
        let mounts: Vec<&str> = text
            .lines()
            .filter(|line| {
                !line.starts_with("directory") && !line.starts_with("link") && !line.starts_with("file")
            })
            .collect();
        assert_eq!(
            mounts,
            [
                "image      /var/udiLoopMount (ro,nosuid,nodev)",
                "root       /var/udiMount (tmpfs,nosuid,nodev)",
                "hook       /pre.sh",
                "bind       /home -> /home (nosuid,nodev,slave)",
                "bind       /scratch -> /global/s (ro,nosuid,nodev,rec,slave)",
                "bind       /dev/hugepages -> /dev/hugepages (nosuid,slave)",
                "bind       /a -> /etc/opt/a (nosuid,nodev,slave)",
                "hook       /post.sh",
                "bind       /m -> /m (nosuid,nodev,slave)",
                "copy       /usr/libexec/udiImage -> /opt/udiImage",
                "copy       /opt/mpich -> /opt/udiImage/modules/mpich",
                "hook       /gpu.sh",
                "bind       /proc -> /proc (nosuid,nodev,noexec,slave)",
                "bind       /sys -> /sys (nosuid,nodev,slave)",
                "bind       /dev -> /dev (nosuid,rec,private)",
                "bind       /tmp -> /tmp (nosuid,nodev,slave)",
                "bind       /var/tmp -> /var/tmp (nosuid,nodev,slave)",
                "merge      image:/ -> /",
                "merge      image:/var -> /var",
                "merge      image:/opt -> /opt",
                "overlay    /etc over image:/etc (ro,nosuid,nodev)",
                "bind       /a -> /etc/opt/a (nosuid,nodev,slave)",
                "volume     /scratch:/mnt:ro",
                "read-only  /",
            ]
        );
    }

    #[test]
    fn the_state_record_is_the_originals() {
        let module = |name: &str| Module { name: name.to_owned(), ..Module::default() };
        for (volumes, modules, expected) in [
            ("", &[][..], "\"volMap\":\"\",\"modules\":\"\""),
            ("/b:/c;/a:/x:ro", &["m1", "m2"], "\"volMap\":\"/a:/x:ro;/b:/c\",\"modules\":\"m1,m2,\""),
            ("/b\\:/c", &[], "\"volMap\":\"/b\\\\:/c\",\"modules\":\"\""),
        ] {
            let volumes = volume::parse_user(volumes, &volume::UserRules::default()).unwrap();
            let modules: Vec<_> = modules.iter().copied().map(module).collect();
            assert_eq!(
                state_record("abc", "alice", &volumes, &modules),
                format!("{{\"identifier\":\"abc\",\"user\":\"alice\",{expected}}}\n")
            );
        }
    }
}
