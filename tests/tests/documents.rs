//! The original's documented configurations and hooks, retyped under `tests/documents/`, do what the documents say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::site::{Site, local};
use common::{Machine, shell_image};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::{Image, Layer, request};
use shifter_tests::harness::{GatewayOptions, Location, Mongo, RegistryOptions};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

/// Compiled in: a sandbox covers `/tmp` and `/home`, where the sources may lie.
macro_rules! documents {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("../documents/", $name)))),*] };
}

fn document(name: &str) -> String {
    let all = documents!(
        "imagemanager.json.example" "imagemanager.local.json" "imagemanager.registries.json"
        "imagemanager.remote.json" "postmount.sh" "premount.mpi.sh" "premount.sh" "udiRoot.conf.cluster"
        "udiRoot.conf.example" "udiRoot.conf.mpi"
    );
    all.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no document {name}")).1.to_owned()
}

/// The document with the host's directories moved into the test machine.
fn at_home(machine: &Machine, text: &str) -> String {
    let prefix = machine.sandbox.prefix().display().to_string();
    let images = machine.sandbox.images().display().to_string();
    [
        ("/var/udiMount", format!("{prefix}/udi")),
        ("/var/udiLoopMount", format!("{prefix}/loop")),
        ("/images", images),
        ("udiRootPath=/usr", format!("udiRootPath={prefix}")),
        ("udiRootPath=/opt/shifter/udiRoot", format!("udiRootPath={prefix}")),
        ("/usr/libexec/shifter/opt/udiImage", format!("{prefix}/udiImage")),
        ("/scratch:/", "/home/scratch:/".to_owned()),
        ("/var/opt/cray/alps:/", format!("{prefix}/alps:/")),
        ("/var/opt/cray/dws:/", format!("{prefix}/dws:/")),
        ("/etc/opt/cray/wlm_detect:/", format!("{prefix}/wlm_detect:/")),
        ("/usr/lib/shifter/", format!("{prefix}/lib/")),
        ("/shared/shifter/", format!("{prefix}/shared/")),
        ("/cvmfs_nfs:/", format!("{prefix}/cvmfs_nfs:/")),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

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
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine, &document("udiRoot.conf.example"))).unwrap();
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
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine, &document("udiRoot.conf.example"))).unwrap();
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
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine, &document("udiRoot.conf.cluster"))).unwrap();
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
    fs::write("/etc/shifter/udiRoot.conf", at_home(&machine, &document("udiRoot.conf.mpi"))).unwrap();
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

#[test]
fn every_documented_gateway_configuration_is_accepted_and_its_mongodb_is_the_catalog() {
    // The port that the documents mean by naming none.
    let mongo = Mongo::start(27017).unwrap();
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    fs::create_dir("/home/shifter/.ssh").unwrap();
    fs::write("/home/shifter/.ssh/ssh.key", "").unwrap();
    fs::set_permissions("/home/shifter/.ssh/ssh.key", fs::Permissions::from_mode(0o600)).unwrap();
    for (name, is_served) in [
        ("imagemanager.local.json", true),
        ("imagemanager.remote.json", true),
        ("imagemanager.registries.json", true),
        // On a host "mongo", which is not here.
        ("imagemanager.json.example", false),
    ] {
        let path = format!("/etc/shifter/{name}");
        let run =
            |words: &[&str]| machine.sandbox.root().run(&[&[program.as_str()], words].concat()).unwrap();
        fs::write(&path, at_home(&machine, &document(name))).unwrap();
        let checked = run(&["check-config", "--config", &path]);
        assert!(checked.status.success(), "{name}: {}", checked.describe());
        let listen = format!("127.0.0.1:{}", unused_port());
        let words = ["serve", "--config", &path, "--listen", &listen];
        if is_served {
            let words = [&[program.as_str()], &words[..]].concat();
            let mut serving = machine.sandbox.root().spawn(&words).unwrap();
            let begun = Instant::now();
            let ready = loop {
                match request(&listen, "GET", "/readyz", &[], b"") {
                    Ok(answer) => break answer,
                    Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {error:#}"),
                }
                assert!(serving.try_wait().unwrap().is_none(), "{name}: the gateway ended");
                std::thread::sleep(Duration::from_millis(50));
            };
            let ready: Value = serde_json::from_slice(&ready.body).unwrap();
            assert_eq!(
                (&ready["catalog"], &ready["images"]),
                (&json!(true), &json!(true)),
                "{name}: {ready}"
            );
            serving.kill().unwrap();
            serving.wait().unwrap();
        } else {
            let said = run(&words).failure(1).unwrap();
            assert!(said.contains("opening the catalog mongodb://"), "{name}: {said}");
        }
    }
    drop(mongo);
    machine.finish();
}

/// The pull of the original's manual, word for word.
#[test]
fn the_documented_pull_of_a_tag_with_dashes_works_on_a_catalog_in_mongodb() {
    let built = Image::new(vec![Layer::new(shell_image())]).build().unwrap();
    let mongo = Mongo::start(0).unwrap();
    let mut site = Site::with(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        sandbox.push(&registry, &built, "biocontainers/barrnap", "0.9--3").unwrap();
        let elsewhere = sandbox.registry(RegistryOptions::default()).unwrap();
        let quay = Location { name: "quay.io".to_owned(), ..local(&registry.url) };
        let uri = json!(format!("mongodb://127.0.0.1:{}/Shifter", mongo.port));
        let more = Map::from_iter([("DatabaseURI".to_owned(), uri)]);
        GatewayOptions { locations: vec![local(&elsewhere.url), quay], more, ..GatewayOptions::default() }
    });
    let image = "quay.io/biocontainers/barrnap:0.9--3";
    site.shifterimg("alice", &["pull", image]).success().unwrap();
    // What a restart does not take along is not in memory alone.
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    let images = site.shifterimg("bob", &["images"]).success().unwrap();
    assert!(images.contains(image), "{images}");
    assert_eq!(site.shifterimg("bob", &["lookup", image]).success().unwrap().trim(), built.id());
    assert_eq!(site.run("bob", image, &["echo", "runs"]).success().unwrap(), "runs\n");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    drop(mongo);
    site.finish();
}

fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
