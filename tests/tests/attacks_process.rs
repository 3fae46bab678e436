//! Attacks on the process while it is root, on what jobs share, and by file systems that users serve themselves.
//! Numbers such as ST08 are the field's list of attacks that this project's tests try.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, image_with_probes, shell_image};
use shifter_tests::fixture::program_entries;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::{Duration, Instant};

/// ST08: a hook keeps the start in its privileged part for a second; its user can neither stop, kill, trace nor read it,
/// and others start the same image meanwhile.
#[test]
fn a_start_can_be_held_up_by_nobody_while_it_is_root_and_holds_up_nobody() {
    let mut machine = Machine::new(&shell_image(), "");
    let hook = machine.sandbox.new_directory("hook").unwrap().join("pre.sh");
    let flag = hook.with_file_name("here");
    fs::write(&hook, format!("[ -e {0} ] && exit 0; : > {0}; sleep 1\n", flag.display())).unwrap();
    machine.sandbox.write_udiroot(&[("sitePreMountHook", &hook.display().to_string())]).unwrap();
    let script =
        format!("ulimit -c 1000; exec {} grep -c ' 1024000 ' /proc/self/limits", machine.command_line());
    let mut held = machine.as_user("alice").spawn(&["bash", "-c", &script]).unwrap();
    let begin = Instant::now();
    while !flag.exists() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = held.id();
    for (attack, expected) in [
        (format!("kill -STOP {pid}"), "not permitted"),
        (format!("kill -KILL {pid}"), "not permitted"),
        (format!("cat /proc/{pid}/mem"), "denied"),
        (format!("ls /proc/{pid}/fd/"), "denied"),
        (format!("readlink /proc/{pid}/root"), ""),
        (format!("echo x > /proc/{pid}/oom_score_adj"), "denied"),
        (format!("strace -p {pid}"), "not permitted"),
    ] {
        let out = machine.as_user("alice").run(&["bash", "-c", &attack]).unwrap();
        let said = out.err().to_lowercase();
        assert!(!out.status.success() && said.contains(expected), "{attack}: {}", out.describe());
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core: Vec<_> =
        limits.lines().find(|line| line.contains("core")).unwrap().split_whitespace().collect();
    assert_eq!(core[4], "0", "ST09, no core dump while it is root: {limits}");
    let other = Instant::now();
    assert_eq!(machine.run("bob", &["echo", "other"]).success().unwrap(), "other\n");
    assert!(held.try_wait().unwrap().is_none(), "the first was still held");
    assert!(other.elapsed() < Duration::from_millis(900), "{:?}", other.elapsed());
    let out = held.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "1\n", "and the user's limit is back");
    machine.finish();
}

#[test]
fn a_signal_that_comes_during_set_up_is_met_by_the_program_and_not_by_root() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut machine = Machine::new(&shell_image(), "");
    let hook = machine.sandbox.new_directory("hook").unwrap().join("pre.sh");
    let (flag, done) = (hook.with_file_name("here"), hook.with_file_name("done"));
    let body = format!(": > {}; sleep 0.3; : > {}\n", flag.display(), done.display());
    fs::write(&hook, body).unwrap();
    machine.sandbox.write_udiroot(&[("sitePreMountHook", &hook.display().to_string())]).unwrap();
    for (before, ended_by, said) in [("true", Some(2), ""), ("trap '' INT", None, "ran\n")] {
        let script = format!("{before}; exec {} echo ran", machine.command_line());
        let held = machine.as_user("alice").spawn(&["bash", "-c", &script]).unwrap();
        let begin = Instant::now();
        while !flag.exists() {
            assert!(begin.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = held.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let out = held.wait_with_output().unwrap();
        assert!(done.exists(), "the hook was not cut short");
        assert_eq!(out.status.signal(), ended_by, "{before}");
        assert_eq!(String::from_utf8_lossy(&out.stdout), said, "{before}");
        fs::remove_file(&flag).unwrap();
        fs::remove_file(&done).unwrap();
    }
    machine.finish();
}

/// ST33: the image's name is given to a file of somebody else's while containers start: a start that does not see the
/// trusted one is refused.
#[test]
fn an_image_exchanged_between_check_and_mount_is_the_one_that_was_checked() {
    let machine = Machine::new(&shell_image(), "");
    let image = machine.sandbox.image_file(&machine.id, "squashfs");
    let foreign = image.with_extension("foreign");
    fs::copy(&image, &foreign).unwrap();
    chown(&foreign, Some(4202), None).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                renameat_with(CWD, &image, CWD, &foreign, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let (mut good, mut refused) = (0, 0);
        let begin = Instant::now();
        while (good == 0 || refused == 0 || good + refused < 100) && begin.elapsed() < Duration::from_secs(20)
        {
            let out = machine.run("alice", &["true"]);
            if out.status.success() {
                good += 1;
            } else {
                assert!(out.err().contains("does not belong to root"), "{}", out.describe());
                refused += 1;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(good > 0 && refused > 0, "{good} started, {refused} refused: nothing was raced");
    });
    machine.finish();
}

/// ST23: a FUSE file system of the user's answers nobody else, so it cannot be shown elsewhere; the start says so and
/// does not wait for it.
#[test]
fn a_volume_from_a_users_own_fuse_mount_is_refused_at_once() {
    let machine = Machine::new(&shell_image(), "");
    machine.sandbox.write_udiroot(&[("siteFs", "/home:/home:rec")]).unwrap();
    let root = |words: &[&str]| machine.sandbox.root().run(words).unwrap().success().unwrap();
    // The node may be root's alone where no udev runs.
    root(&[
        "sh",
        "-c",
        "touch /run/fuse && mknod -m 666 /run/fuse.node c 10 229 && mount --bind /run/fuse.node /dev/fuse",
    ]);
    fs::create_dir("/home/alice/served").unwrap();
    chown("/home/alice/served", Some(4201), Some(4201)).unwrap();
    let image = machine.sandbox.prefix().join("served.squashfs");
    let image = image.display().to_string();
    root(&["mksquashfs", "/etc/shifter", &image, "-quiet", "-no-progress"]);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o644)).unwrap();
    let alice = |words: &[&str]| machine.as_user("alice").run(words).unwrap();
    alice(&["squashfuse_ll", &image, "/home/alice/served"]).success().unwrap();
    assert!(alice(&["ls", "/home/alice/served"]).success().unwrap().contains("udiRoot.conf"));
    let begin = Instant::now();
    let out = machine.run("alice", &["-V", "/home/alice/served:/mnt", "ls", "/mnt"]);
    let said = out.failure(1).unwrap();
    assert!(
        said.contains("FAILED to find real path for volume \"from\"") && said.lines().count() == 1,
        "{said}"
    );
    assert!(said.contains("allow_other"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    alice(&["fusermount3", "-u", "/home/alice/served"]).success().unwrap();
    root(&["sh", "-c", "umount /dev/fuse; rm /run/fuse /run/fuse.node"]);
    machine.finish();
}

/// ST07: what is mounted below a recursive site mount comes along, its setuid programs and devices do not work.
#[test]
fn setuid_programs_and_devices_below_a_recursive_site_mount_are_inert() {
    let machine = Machine::new(&image_with_probes(), "");
    machine.sandbox.write_udiroot(&[("siteFs", "/home:/home:rec")]).unwrap();
    let root = |script: &str| machine.sandbox.root().run(&["sh", "-ec", script]).unwrap().success().unwrap();
    root(
        "mkdir /home/nested; mount -t tmpfs -o mode=0755 nested /home/nested; cp /usr/bin/id /home/nested/; \
         chmod 6755 /home/nested/id; mknod -m 666 /home/nested/zero c 1 5",
    );
    let script = "/home/nested/id -u; /home/nested/id -g; head -c 1 /home/nested/zero | od -An -tx1; \
                  grep ' /home/nested ' /proc/self/mountinfo | cut -d' ' -f6";
    let outside = machine.as_user("alice").run(&["sh", "-c", script]).unwrap().success().unwrap();
    assert!(outside.starts_with("0\n0\n 00\n"), "on the host they do work: {outside}");
    let out = machine.run("alice", &["sh", "-c", script]);
    let flags = out.out();
    assert!(flags.starts_with("4201\n4201\n"), "{}", out.describe());
    assert!(flags.contains("nosuid,nodev") && out.err().contains("Permission denied"), "{}", out.describe());
    root("umount /home/nested");
    machine.finish();
}

/// ST30: a user is root in a user namespace of their own. Nothing that covers something can be taken off there, and
/// who breaks out of a root of their own making is in the container's.
#[test]
fn a_user_namespace_inside_uncovers_nothing_and_does_not_lead_out() {
    let mut entries = image_with_probes();
    entries.extend(
        program_entries("probes", &["perl"])
            .unwrap()
            .into_iter()
            .filter(|entry| entry.name == b"probes/perl" || !entry.name.starts_with(b"probes")),
    );
    let mut seen = std::collections::BTreeSet::new();
    entries.retain(|entry| seen.insert(entry.name.clone()));
    let machine = Machine::new(&entries, "");
    let allowed = machine.as_user("alice").run(&["unshare", "-Urm", "true"]).unwrap().status.success();
    if !allowed {
        let out = machine.run("alice", &["unshare", "-Urm", "true"]);
        assert!(!out.status.success(), "the node forbids them, a container does not: {}", out.describe());
        return machine.finish();
    }
    let uncover = "id -u; for at in $(cut -d' ' -f5 /proc/self/mountinfo) /; do umount -l $at && echo $at; done; \
        echo done; ls / | tr '\\n' ' '";
    let escape = "mkdir('/tmp/jail'); chroot('/tmp/jail') or die 'no chroot'; rmdir('/jail'); chdir('..') for 1..99; \
        chroot('.') or die 'not again'; opendir($d, '/'); print join(' ', sort readdir $d), qq(\\n); \
        rmdir('/tmp/jail') or die 'no jail'";
    let root: String = machine.run("alice", &["sh", "-c", "ls / | tr '\\n' ' '"]).success().unwrap();
    let out = machine.run("alice", &["unshare", "-Urm", "sh", "-c", uncover]);
    assert_eq!(out.out(), format!("0\ndone\n{root}"), "{}", out.describe());
    let out = machine.run("alice", &["unshare", "-Ur", "/probes/perl", "-e", escape]);
    let seen: Vec<_> = out.out().split_whitespace().map(str::to_owned).collect();
    assert!(seen.iter().any(|name| name == "probes"), "it is the container's root: {}", out.describe());
    let inside: Vec<_> = root.split_whitespace().collect();
    assert!(
        seen.iter().all(|name| name.starts_with('.') || inside.contains(&name.as_str())),
        "{}",
        out.describe()
    );
    machine.finish();
}
