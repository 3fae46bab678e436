//! What an attack review found in the setuid program: each test is one finding, named after what would be seen if it
//! were back. Those about prepared containers are in `attacks_jobs.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file, symlink};
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// A site tree, a module's tree, and the configuration that shows both.
fn machine_with_copies() -> Machine {
    let machine = Machine::new(&shell_image(), "");
    let at = machine.sandbox.prefix().display().to_string();
    machine.host(&format!(
        "mkdir -p {at}/tree/bin {at}/module/lib; echo tool > {at}/tree/bin/tool; echo library > {at}/module/lib/so"
    ));
    let keys = [("optUdiImage", &*format!("{at}/tree")), ("module_m_copyPath", &*format!("{at}/module"))];
    machine.sandbox.write_udiroot(&keys).unwrap();
    machine
}

fn shows_copies(machine: &Machine) {
    let script = "cd /opt/udiImage; ls . modules/m; cat bin/tool modules/m/lib/so";
    let out = machine.run("alice", &["-m", "m", "sh", "-c", script]);
    assert_eq!(out.success().unwrap(), ".:\nbin\nmodules\n\nmodules/m:\nlib\ntool\nlibrary\n");
}

/// Somebody who holds the lock of copies until their standard input ends.
fn holder_of_copies(machine: &Machine) -> Child {
    let holder = machine.sandbox.root().spawn(&["flock", "/run/shifter/copies/lock", "cat"]).unwrap();
    while machine
        .sandbox
        .root()
        .run(&["flock", "-n", "/run/shifter/copies/lock", "true"])
        .unwrap()
        .status
        .success()
    {}
    holder
}

#[test]
fn a_held_or_full_directory_of_copies_keeps_containers_from_starting() {
    let machine = machine_with_copies();
    machine.run("alice", &["true"]).success().unwrap(); // copies the site's tree, not the module's
    let mut holder = holder_of_copies(&machine);
    shows_copies(&machine);
    machine.host("rm -r /run/shifter/copies/????????????????");
    shows_copies(&machine);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    machine.host("mkdir /run/shifter/copies/{1..40}");
    shows_copies(&machine);
    machine.host("rmdir /run/shifter/copies/{1..40}");
    shows_copies(&machine);
    assert_eq!(machine.host("ls -d /run/shifter/copies/???????????????? | wc -l").trim(), "2");
    machine.finish();
}

#[test]
fn whoever_starves_a_process_that_holds_the_lock_of_copies_slows_every_start() {
    let machine = machine_with_copies();
    machine.run("alice", &["true"]).success().unwrap();
    machine.host("rm -r /run/shifter/copies/????????????????");
    let mut holder = holder_of_copies(&machine);
    machine.host("touch -d '11 seconds ago' /run/shifter/copies/lock");
    let begin = Instant::now();
    machine.run("alice", &["-m", "m", "true"]).success().unwrap();
    assert!(begin.elapsed() < Duration::from_millis(900), "one wait is a second: {:?}", begin.elapsed());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    machine.finish();
}

#[test]
fn a_volume_of_proc_shows_a_process_that_hidepid_hides() {
    let machine = Machine::new(&shell_image(), "");
    let sleeper = |user| machine.as_user(user).spawn(&["sleep", "60"]).unwrap();
    let (mut hidden, mut own) = (sleeper("bob"), sleeper("alice"));
    // setpriv has become sleep.
    let asleep =
        |child: &std::process::Child| fs::read(format!("/proc/{}/comm", child.id())).unwrap() == b"sleep\n";
    while !asleep(&hidden) || !asleep(&own) {}
    machine.host("mount -t proc -o hidepid=2 proc /proc");
    let attempt = |pid: u32, name: &str| {
        let volume = format!("/proc/{pid}/{name}:/mnt/a");
        machine.run("alice", &["-V", &volume, "cat", "/mnt/a"])
    };
    let on_host = machine.shell("alice", &format!("ls -d /proc/{}", hidden.id()));
    // More than the kernel's largest.
    let nobodys = 4_194_305;
    let mine = attempt(own.id(), "comm");
    let mut others = Vec::new();
    for name in ["cmdline", "comm", "status", "fdinfo/0"] {
        let same = |pid: u32| attempt(pid, name).failure(1).map(|said| said.replace(&pid.to_string(), "PID"));
        others.push((name, same(hidden.id()), same(nobodys)));
    }
    machine.host("umount /proc");
    for child in [&mut hidden, &mut own] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(on_host.err().contains("No such file"), "{}", on_host.describe());
    assert_eq!(mine.success().unwrap(), "sleep\n");
    for (name, found, absent) in others {
        let (found, absent) = (found.unwrap(), absent.unwrap());
        assert!(found.contains("FAILED to find real path for volume \"from\""), "{name}: {found}");
        assert_eq!(found, absent, "{name}");
    }
    machine.finish();
}

/// A machine whose hook says something, waits for `pause` seconds and writes down that it came to its end.
fn machine_with_slow_hook(pause: &str) -> (Machine, PathBuf) {
    let machine = Machine::new(&shell_image(), "");
    let log = machine.sandbox.prefix().join("log");
    let text = format!(
        "echo begun > {0}; echo one; sleep {pause}; echo two; echo two >&2; readlink /proc/$$/fd/* >> {0}; echo ended >> {0}\n",
        log.display()
    );
    let hook = machine.script("pre.sh", &text);
    machine.sandbox.write_udiroot(&[("sitePreMountHook", &hook)]).unwrap();
    (machine, log)
}

#[test]
fn a_user_ends_roots_hook_by_closing_its_output() {
    let (machine, log) = machine_with_slow_hook("0.3");
    let script = format!("{} true | true; exit ${{PIPESTATUS[0]}}", machine.command_line());
    machine.shell("alice", &script).success().unwrap();
    assert!(fs::read_to_string(log).unwrap().ends_with("\nended\n"));
    let out = machine.shell("alice", &format!("{} echo mine >&- 2>&-", machine.command_line()));
    assert!(out.out().is_empty() && out.err().is_empty(), "{}", out.describe());
    machine.finish();
}

#[test]
fn a_user_ends_or_stops_roots_hook_from_the_keyboard() {
    let (machine, log) = machine_with_slow_hook("0.6");
    for key in ["003", "032", "034"] {
        // Job control, so that the hook's process group is not an orphaned one, which no key stops.
        let script = format!(
            "(until [ -s {log} ]; do sleep 0.05; done; sleep 0.1; printf '\\{key}'; sleep 0.2) | \
             timeout -s KILL 6 script -qefc 'bash -mc \"{} echo at the end; true\"' /dev/null",
            machine.command_line(),
            log = log.display(),
        );
        let out = machine.shell("alice", &script);
        let seen = fs::read_to_string(&log).unwrap();
        assert!(seen.ends_with("\nended\n"), "{key}: {seen}\n{}", out.describe());
        assert!(!seen.contains("/pts/"), "{key}: {seen}");
        fs::remove_file(&log).unwrap();
    }
    machine.finish();
}

#[test]
fn a_file_of_the_users_is_open_in_roots_hook() {
    let (machine, log) = machine_with_slow_hook("0");
    let script = format!(
        "exec 3>/tmp/mine 4>/tmp/mine 5</tmp/mine; {} true >/tmp/mine 2>/tmp/mine; rm /tmp/mine",
        machine.command_line()
    );
    machine.shell("alice", &script).success().unwrap();
    let seen = fs::read_to_string(log).unwrap();
    assert!(seen.contains("/dev/null\n") && !seen.contains("/tmp/mine"), "{seen}");
    machine.finish();
}

#[test]
fn what_a_hook_printed_is_lost_or_lands_in_the_users_output() {
    let machine = Machine::new(&shell_image(), "");
    let hook = machine.script("fails.sh", "echo no license >&2; exit 3\n");
    for key in ["sitePreMountHook", "sitePostMountHook"] {
        machine.sandbox.write_udiroot(&[(key, &hook)]).unwrap();
        let out = machine.run("alice", &["true"]);
        assert!(out.out().is_empty(), "{}", out.describe());
        let said = out.failure(1).unwrap();
        assert!(said.ends_with("fails.sh must end with status 0; it said: no license\n"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let hook = machine.script("tells.sh", "echo to out; echo to err >&2\n");
    machine.sandbox.write_udiroot(&[("sitePreMountHook", &hook)]).unwrap();
    let out = machine.run("alice", &["echo", "mine"]);
    assert_eq!((out.out().as_str(), out.err().as_str()), ("mine\n", ""));
    let out = machine.run("alice", &["--verbose", "echo", "mine"]);
    assert_eq!(out.out(), "mine\n");
    let told = |line: &str| out.err().lines().any(|found| found.contains(&format!(" said       {line} ")));
    assert!(told("to out") && told("to err"), "{}", out.describe());
    machine.finish();
}

#[test]
fn names_of_the_image_are_made_in_a_host_directory_that_a_hook_mounted() {
    let mut entries = shell_image();
    entries.extend([dir("opt/evil"), symlink("opt/link", "/etc/cron.d"), file("opt/file", "x")]);
    entries.extend([dir("var/evil"), dir("etc/evil")]);
    let machine = Machine::new(&entries, "");
    let host = machine.sandbox.prefix().join("hosts");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("of-the-host"), "").unwrap();
    let names = || common::site::names(&host);
    for key in ["sitePreMountHook", "sitePostMountHook"] {
        for place in ["opt", "var", "etc"] {
            let hook = machine.script("mounts.sh", &format!("mount --bind {} {place}\n", host.display()));
            machine.sandbox.write_udiroot(&[(key, &hook)]).unwrap();
            let out = machine.run("alice", &["ls", "/opt"]);
            assert_eq!(names(), ["of-the-host"], "{key} on {place}: {}", out.describe());
            if place == "opt" {
                assert_eq!(out.success().unwrap(), "of-the-host\n", "{key}");
            } else {
                let said = out.failure(1).unwrap();
                let expected = "its parent belongs to another mount, in which nothing is made";
                let clear = said.contains(expected) && said.contains(&format!("/{place}/"));
                assert!(clear && said.lines().count() == 1, "{key} on {place}: {said}");
            }
        }
    }
    machine.finish();
}

#[test]
fn a_volume_uncovers_what_a_mount_below_it_hides() {
    let machine = Machine::new(&shell_image(), "");
    machine.host(
        "mkdir -p /home/p/hidden; echo underlying > /home/p/hidden/f; \
         mount -t tmpfs -o mode=0755 over /home/p/hidden; echo over > /home/p/hidden/f",
    );
    machine.sandbox.write_udiroot(&[("siteFs", "/home:/home:rec")]).unwrap();
    for (volume, path) in [
        ("/home/alice:/mnt", "/home/p/hidden/f"),
        ("/home/p:/mnt", "/mnt/hidden/f"),
        ("/home:/mnt:ro", "/mnt/p/hidden/f"),
    ] {
        let out = machine.run("alice", &["-V", volume, "cat", path]);
        assert_eq!(out.success().unwrap(), "over\n", "{volume}");
    }
    let out =
        machine.run("alice", &["-V", "/home/p:/mnt:ro", "cat", "/proc/self/mountinfo"]).success().unwrap();
    for at in [" /mnt ro,nosuid,nodev", " /mnt/hidden ro,nosuid,nodev"] {
        assert!(out.contains(at), "what lies below has the volume's flags, {at}: {out}");
    }
    machine.host("umount /home/p/hidden");
    machine.finish();
}

#[test]
fn root_writes_into_a_users_volume_on_var() {
    let machine = Machine::new(&shell_image(), "");
    fs::write("/etc/shifter/shifter.conf", "volumeAllow=/var\n").unwrap();
    machine.host("mkdir /home/ro_dir /home/alice/own; chown alice: /home/alice/own");
    for source in ["/home/ro_dir", "/home/alice/own"] {
        for _ in 0..2 {
            let out = machine.run("alice", &["-V", &format!("{source}:/var"), "ls", "-A", "/var"]);
            assert_eq!(out.success().unwrap(), "", "{source}");
        }
        assert_eq!(fs::read_dir(source).unwrap().count(), 0, "{source}");
    }
    let record = machine.run("alice", &["cat", "/var/shifterConfig.json"]).success().unwrap();
    assert!(record.contains(&machine.id), "{record}");
    machine.finish();
}

#[test]
fn many_small_caches_take_more_than_the_sites_limit() {
    let machine = Machine::new(&shell_image(), "");
    let place = machine.sandbox.prefix().join("caches");
    fs::create_dir(&place).unwrap();
    let place = place.display().to_string();
    let cache = |number: u32, fs: &str| format!("/x:/m{number}:perNodeCache=size=16M,fs={fs}");
    let run = |keys: &[(&str, &str)], volumes: &[String]| {
        machine.sandbox.write_udiroot(keys).unwrap();
        machine.run("alice", &["-V", &volumes.join(";"), "true"])
    };
    let path = ("perNodeCachePath", place.as_str());
    let limited = [path, ("perNodeCacheSizeLimit", "40M")];
    for kinds in [["tmpfs", "tmpfs"], ["ext4", "ext4"], ["tmpfs", "ext4"]] {
        run(&limited, &[cache(1, kinds[0]), cache(2, kinds[1])]).success().unwrap();
        let out = run(&limited, &[cache(1, kinds[0]), cache(2, kinds[1]), cache(3, kinds[0])]);
        let said = out.failure(1).unwrap();
        assert!(said.contains("the perNodeCaches of a container may have 41943040 bytes here"), "{said}");
    }
    let of_site = [&limited[..], &[("siteFs", "/home:/home;/x:/s:perNodeCache=size=16M,fs=tmpfs")]].concat();
    run(&of_site, &[cache(1, "tmpfs")]).success().unwrap();
    assert!(run(&of_site, &[cache(1, "tmpfs"), cache(2, "tmpfs")]).failure(1).is_ok(), "with the site's own");
    machine.finish();
}

#[test]
fn caches_in_memory_are_there_where_the_site_configured_none() {
    let machine = Machine::new(&shell_image(), "");
    let volume = "/x:/m:perNodeCache=size=1T,fs=tmpfs";
    let said = machine.run("alice", &["-V", volume, "true"]).failure(1).unwrap();
    assert!(said.contains("neither perNodeCachePath nor perNodeCacheAllowedFsType"), "{said}");
    machine.sandbox.write_udiroot(&[("perNodeCacheAllowedFsType", "tmpfs")]).unwrap();
    machine.run("alice", &["-V", volume, "true"]).success().unwrap();
    machine.finish();
}

/// A stream may be a file in which root's writing does what the caller's would not (CVE-2012-0056, CVE-2014-0181).
#[test]
fn a_refused_command_line_is_written_about_with_roots_rights() {
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.program("shifter").unwrap().display().to_string();
    for (user, uid, words) in [
        ("alice", 4201, "--no-such-option-but-any-text-i-like"),
        ("alice", 4201, "--image"),
        ("alice", 4201, "--help"),
        ("dave", 4204, "--image=id:zz true"), // the primary group 0 is refused while shutting the caller out
    ] {
        let script = format!(
            "mkfifo /tmp/full; exec 9<>/tmp/full; dd if=/dev/zero of=/tmp/full bs=4096 oflag=nonblock 2>/dev/null; \
             {program} {words} >&9 2>&9 & sleep 0.5; grep Uid: /proc/$!/status; kill -9 $! && echo killed; rm /tmp/full"
        );
        let out = machine.shell(user, &script);
        let ids = format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n");
        assert!(out.out().contains(&ids) && out.out().contains("killed"), "{words}: {}", out.describe());
    }
    machine.finish();
}
