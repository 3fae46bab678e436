//! The original's example, and what breaks.
#![allow(clippy::unwrap_used)]

use super::*;

/// Every key and value of the original's packaged example, retyped without its comments.
const EXAMPLE: &str = "
udiMount=/var/udiMount
loopMount=/var/udiLoopMount
imagePath=/images
udiRootPath=/usr
sitePreMountHook=/etc/shifter/premount.sh
sitePostMountHook=/etc/shifter/postmount.sh
optUdiImage=/usr/libexec/shifter/opt/udiImage
etcPath=/etc/shifter/shifter_etc_files
allowLocalChroot=1
autoLoadKernelModule=0
mountUdiRootWritable=1
maxGroupCount=31
modprobePath=/sbin/modprobe
insmodPath=/sbin/insmod
cpPath=/bin/cp
mvPath=/bin/mv
chmodPath=/bin/chmod
ddPath=/bin/dd
mkfsXfsPath=/sbin/mkfs.xfs
rootfsType=tmpfs
gatewayTimeout=10
kmodBasePath=/lib/modules
kmodCacheFile=/tmp/udiRootKmodCache.txt
siteFs=/home:/home;\\
    /scratch:/scratch:rec:slave
siteEnv=SHIFTER_RUNTIME=1
siteEnvAppend=PATH=/opt/udiImage/bin
siteEnvUnset=LOADEDMODULES _LMFILES_
imageGateway=http://imagegwapi:5000 http://other:5000/
batchType=slurm
system=mycluster
defaultImageType=docker
perNodeCachePath=/tmp
perNodeCacheSizeLimit=200g
perNodeCacheAllowedFsType=xfs ext4
populateEtcDynamically=1
allowLibcPwdCalls=1
usersToImport=sshd nobody
mountPropagationStyle=slave
module_mpich_copypath=/shared/mpich
module_mpich_siteEnvPrepend=LD_LIBRARY_PATH=/opt/udiImage/modules/mpich/lib64
module_my_cvmfs_siteFs=/cvmfs_nfs:/cvmfs
module_my_cvmfs_siteEnv=SHIFTER_MODULE_CVMFS=1
module_my_cvmfs_conflict=mpich
module_my_cvmfs_enabled=0
defaultModules=mpich
siteResources=/opt/shifter/site-resources";

#[test]
fn the_originals_example_is_accepted_whole() {
    let conf = UdiRootConf::parse(EXAMPLE).unwrap();
    assert_eq!(conf.image_path, "/images");
    assert_eq!(conf.site_fs.len(), 2);
    assert_eq!(conf.image_gateway, ["http://imagegwapi:5000", "http://other:5000"]);
    assert_eq!(conf.site_env.unset, ["LOADEDMODULES", "_LMFILES_"]);
    assert_eq!(conf.default_image_type, Some(ImageType::Docker));
    assert_eq!(conf.per_node_cache_size_limit, Some(200 << 30));
    assert_eq!(conf.mount_propagation, Some(Propagation::Slave));
    let (mpich, cvmfs) = (&conf.modules[0], &conf.modules[1]);
    assert_eq!(mpich.copy_path.as_deref(), Some("/shared/mpich"));
    assert_eq!(
        (cvmfs.name.as_str(), cvmfs.disabled, cvmfs.conflict[0].as_str()),
        ("my_cvmfs", true, "mpich")
    );
    assert_eq!(conf.site_resources, "/opt/shifter/site-resources");
}

#[test]
fn keys_once_required_have_the_documents_defaults() {
    let conf = UdiRootConf::parse("imagePath=/images/").unwrap();
    for (got, expected) in [
        (conf.udi_mount.as_str(), "/var/udiMount"),
        (&conf.loop_mount, "/var/udiLoopMount"),
        (&conf.udi_root_path, "/opt/shifter/default"),
        (&conf.rootfs_type, "tmpfs"),
        (&conf.image_path, "/images"),
    ] {
        assert_eq!(got, expected);
    }
    assert!(conf.mount_udi_root_writable && conf.max_group_count == 31);
}

#[test]
fn every_fault_names_line_and_key() {
    for (text, expected) in [
        ("imagePath=/i\nudiMonut=/x", "line 2: unknown key \"udiMonut\"; did you mean \"udiMount\"?"),
        ("imagePath=/i\ncolour=red", "line 2: unknown key \"colour\""),
        ("", "\"imagePath\" is not set, and it has no default"),
        ("imagePath=/i\nudiMount=\n", "\"udiMount\" is not set, and it has no default"),
        ("imagePath=images", "line 1: the value of \"imagePath\" must be an absolute path"),
        ("imagePath=/i\nrootfsType=ext4", "line 2: the value of \"rootfsType\" must be tmpfs or ramfs"),
        (
            "imagePath=/i\nmountPropagationStyle=x",
            "line 2: the value of \"mountPropagationStyle\" must be private or slave",
        ),
        (
            "imagePath=/i\nimageGateway=host:5000",
            "line 2: the value of \"imageGateway\" must be URLs that begin with http:// or https://, separated by spaces",
        ),
        ("imagePath=/i\nmaxGroupCount=x", "line 2: the value of \"maxGroupCount\" must be a whole number"),
        (
            "imagePath=/i\nsiteFs=/a:/etc",
            "line 2: \"siteFs\": volume map \"/a:/etc\": \"/etc\" is filled by Shifter and cannot be a target",
        ),
        ("imagePath=/i\ndefaultModules=a", "\"defaultModules\" names the module \"a\", which is not defined"),
        (
            "imagePath=/i\nmodule_a_conflict=b",
            "\"module_a_conflict\" names the module \"b\", which is not defined",
        ),
        ("imagePath=/i\n=x", "line 2: unknown key \"\""),
        (
            "imagePath=/i\nmodule_x=1",
            "line 2: the value of \"module_x\" must be set through a key of the form module_<name>_<attribute>",
        ),
    ] {
        assert_eq!(UdiRootConf::parse(text).unwrap_err().to_string(), expected, "{text:?}");
    }
}

#[test]
fn scalars_repeat_lists_accumulate_and_odd_attributes_only_warn() {
    let conf = UdiRootConf::parse(
        "imagePath=/a\nimagePath=/b\nsiteEnv=A=1\nsiteEnv=B=2 C=3\nmountUdiRootWritable=0 # off\n\
         module_x_copyPaht=/y\ncpPath=/nowhere\nallowLocalChroot=yes",
    )
    .unwrap();
    assert_eq!(conf.image_path, "/b");
    assert_eq!(conf.site_env.set, ["A=1", "B=2", "C=3"]);
    assert!(!conf.mount_udi_root_writable && !conf.allow_local_chroot);
    assert_eq!(
        conf.warnings,
        [
            (6, "module \"x\" has no attribute \"copyPaht\"; did you mean \"copyPath\"?".to_owned()),
            (7, "\"cpPath\" has no meaning any more".to_owned()),
        ]
    );
}

#[test]
fn every_key_has_a_meaning_and_a_default_it_accepts() {
    for known in KEYS {
        assert!(!known.meaning.is_empty(), "{}", known.name);
        if !known.default.is_empty() {
            assert!((known.set)(&mut UdiRootConf::default(), known.default).is_ok(), "{}", known.name);
        }
    }
}

#[test]
fn modules_are_chosen_in_order_and_exclude_one_another_both_ways() {
    let conf = UdiRootConf::parse(
        "imagePath=/i\nmodule_mpich_siteEnv=A=1\nmodule_gpu_siteEnv=B=1\nmodule_gpu_conflict=cpu\n\
         module_cpu_siteEnv=C=1\nmodule_off_enabled=0\ndefaultModules=mpich",
    )
    .unwrap();
    let own = str::to_owned;
    for (choice, expected) in [
        (None, Ok(&["mpich"][..])),
        (Some("none"), Ok(&[])),
        (Some(" NONE "), Ok(&[])),
        (Some(""), Ok(&[])),
        (Some("gpu, mpich,gpu"), Ok(&["gpu", "mpich"])),
        (Some("none,gpu"), Err(ModuleError::Unknown(own("none")))),
        (Some("GPU"), Err(ModuleError::Unknown(own("GPU")))),
        (Some("off"), Err(ModuleError::Disabled(own("off")))),
        (Some("gpu,cpu"), Err(ModuleError::Conflict(own("gpu"), own("cpu")))),
        (Some("cpu,gpu"), Err(ModuleError::Conflict(own("cpu"), own("gpu")))),
    ] {
        let chosen = conf.select_modules(choice);
        let names =
            chosen.map(|modules| modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>());
        assert_eq!(names, expected.map(<[&str]>::to_vec), "{choice:?}");
    }
}
