//! The original's documented configurations of nodes and their hooks, retyped under `tests/documents/`, do what the documents say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::documented::{at_home, document};
use common::{Machine, shell_image};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn the_example_configuration_and_its_hooks_start_containers() {
    let machine = Machine::new(&shell_image(), "ENV: LOADEDMODULES=x\n");
    let prefix = machine.sandbox.prefix();
    fs::create_dir_all(prefix.join("udiImage/bin")).unwrap();
    fs::write(prefix.join("udiImage/bin/site-tool"), "#!/bin/sh\necho site tool\n").unwrap();
    fs::set_permissions(prefix.join("udiImage/bin/site-tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all("/home/scratch/data").unwrap();
    for hook in ["premount.sh", "postmount.sh"] {
        fs::write(format!("/etc/shifter/{hook}"), document(hook)).unwrap();
    }
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine.sandbox, &document("udiRoot.conf.example")))
        .unwrap();
    let script = "site-tool; ls /scratch; echo $PATH; echo modules=$LOADEDMODULES; cut -d: -f1 /etc/passwd; ls -d /var/opt/cray";
    let out = machine.run("alice", &["sh", "-c", script]).success().unwrap();
    assert!(out.starts_with("site tool\ndata\n/site/bin:"), "{out}");
    assert!(out.contains(":/opt/udiImage/bin\nmodules=\nalice\nnobody\n/var/opt/cray\n"), "{out}");
    machine.finish();
}

#[test]
fn the_example_configurations_modules_bring_libraries_file_systems_and_their_users_hook() {
    let machine = Machine::new(&shell_image(), "ENV: LD_LIBRARY_PATH=/usr/lib\n");
    let prefix = machine.sandbox.prefix();
    let mpich = prefix.join("shared/modules/mpich");
    for directory in ["bin", "lib64"] {
        fs::create_dir_all(mpich.join(directory)).unwrap();
    }
    fs::write(mpich.join("lib64/libmpi.so"), "the site's\n").unwrap();
    fs::write(mpich.join("bin/init.sh"), "#!/bin/sh\necho hook of $(id -un), $LD_LIBRARY_PATH\n").unwrap();
    fs::set_permissions(mpich.join("bin/init.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(prefix.join("cvmfs_nfs/atlas")).unwrap();
    fs::create_dir_all(prefix.join("udiImage")).unwrap();
    fs::create_dir("/home/scratch").unwrap();
    for hook in ["premount.sh", "postmount.sh"] {
        fs::write(format!("/etc/shifter/{hook}"), document(hook)).unwrap();
    }
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine.sandbox, &document("udiRoot.conf.example")))
        .unwrap();
    let script = "cat ${LD_LIBRARY_PATH%%:*}/libmpi.so; echo cvmfs=$SHIFTER_MODULE_CVMFS; ls /cvmfs; true";
    let libraries = "/opt/udiImage/modules/mpich/lib64:/usr/lib";
    let mpi = format!("hook of alice, {libraries}\nthe site's\n");
    for (module, expected) in [
        ("--module=mpich", format!("{mpi}cvmfs=\n")),
        ("--module=cvmfs", "cvmfs=1\natlas\n".to_owned()),
        ("--module=mpich,cvmfs", format!("{mpi}cvmfs=1\natlas\n")),
        ("--module=none", "cvmfs=\n".to_owned()),
    ] {
        let out = machine.run("alice", &[module, "sh", "-c", script]);
        assert_eq!(out.out(), expected, "{module}: {}", out.describe());
    }
    // A hook that fails is the end of the start.
    fs::write(mpich.join("bin/init.sh"), "#!/bin/sh\nexit 3\n").unwrap();
    let said = machine.run("alice", &["--module=mpich", "echo", "ran"]).failure(1).unwrap();
    assert!(said.contains("/opt/udiImage/modules/mpich/bin/init.sh"), "{said}");
    machine.finish();
}

#[test]
fn the_documented_cluster_configuration_starts_containers() {
    let machine = Machine::new(&shell_image(), "");
    fs::create_dir_all("/home/scratch/data").unwrap();
    fs::create_dir("/etc/shifter/shifter_etc_files").unwrap();
    for (name, source) in
        [("passwd", "/etc/passwd"), ("group", "/etc/group"), ("nsswitch.conf", "/etc/nsswitch.conf")]
    {
        fs::copy(source, format!("/etc/shifter/shifter_etc_files/{name}")).unwrap();
    }
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine.sandbox, &document("udiRoot.conf.cluster")))
        .unwrap();
    let out =
        machine.run("alice", &["sh", "-c", "id -un; ls /scratch; ls -d /home/alice"]).success().unwrap();
    assert_eq!(out, "alice\ndata\n/home/alice\n");
    machine.finish();
}

#[test]
fn the_documented_mpi_and_datawarp_configuration_shows_libraries_and_late_mounts() {
    let machine = Machine::new(&shell_image(), "ENV: LD_LIBRARY_PATH=/usr/lib\n");
    let prefix = machine.sandbox.prefix();
    for (file, text) in [
        ("alps/state", "alps\n"),
        ("wlm_detect/active", "slurm\n"),
        ("lib/opt/mpich-7.7/lib64/libmpi.so", "copied\n"),
        ("lib/modules/mpich/lib64/libmpi.so", "mounted\n"),
        ("dws/mounts/here", ""),
    ] {
        let path = prefix.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write("/etc/shifter/premount.mpi.sh", document("premount.mpi.sh")).unwrap();
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine.sandbox, &document("udiRoot.conf.mpi"))).unwrap();
    let script = "cat /var/opt/cray/alps/state /etc/opt/cray/wlm_detect/active; echo $SHIFTER_MODULE_MPICH; \
        echo $LD_LIBRARY_PATH; cat ${LD_LIBRARY_PATH%%:*}/libmpi.so";
    let run =
        |words: &[&str]| machine.run("alice", &[words, &["sh", "-c", script]].concat()).success().unwrap();
    assert_eq!(run(&[]), "alps\nslurm\n1\n/opt/udiImage/modules/mpich/lib64:/usr/lib\ncopied\n");
    assert_eq!(run(&["--module=mpichfs"]), "alps\nslurm\n\n/shifter/mpich/lib64:/usr/lib\nmounted\n");
    let late = prefix.join("dws/mounts").display().to_string();
    let mut running = machine.start("alice", "read x; cat /var/opt/cray/dws/mounts/job");
    machine.sandbox.root().run(&["mount", "-t", "tmpfs", "dw", &late]).unwrap().success().unwrap();
    fs::write(prefix.join("dws/mounts/job"), "data warp\n").unwrap();
    std::io::Write::write_all(running.stdin.as_mut().unwrap(), b"\n").unwrap();
    let out = running.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "data warp\n");
    machine.sandbox.root().run(&["umount", &late]).unwrap().success().unwrap();
    machine.finish();
}
