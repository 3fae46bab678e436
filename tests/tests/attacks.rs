//! A hostile user and a hostile image against the setuid program: each test is one way in, or one way to harm the
//! node, named after what would be seen if it were open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file, symlink};
use std::fs;
use std::os::unix::fs::chown;
use std::time::{Duration, Instant};

fn shell(machine: &Machine, script: &str) -> String {
    let outcome = machine.as_user("alice").run(&["bash", "-c", script]).unwrap();
    format!("{}{}", outcome.out(), outcome.err())
}

#[test]
fn root_builds_no_container_where_a_user_could_swap_the_place() {
    let machine = Machine::new(&shell_image(), "");
    fs::create_dir("/home/alice/place").unwrap();
    chown("/home/alice/place", Some(4201), Some(4201)).unwrap();
    for (key, place) in [
        ("udiMount", "/home/alice/place"),
        ("udiMount", "/home/alice/made"),
        ("loopMount", "/home/alice/place"),
        ("loopMount", "/tmp/made"),
    ] {
        machine.sandbox.write_udiroot(&[(key, place)]).unwrap();
        let said = machine.run("alice", &["true"]).failure(1).unwrap();
        assert!(said.contains("cannot trust"), "{key}={place}: {said}");
        assert!(!fs::exists("/home/alice/made").unwrap() && !fs::exists("/tmp/made").unwrap());
    }
    machine.finish();
}

#[test]
fn a_program_that_waits_for_its_reader_is_the_users_to_kill_and_to_be_counted() {
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.program("shifter").unwrap().display().to_string();
    let image = format!("--image=id:{}", machine.id);
    let unknown = format!("--image=id:{}", "b".repeat(64));
    for words in [format!("-v {image} true"), format!("{unknown} true"), format!("--dry-run {image}")] {
        let script = format!(
            "mkfifo /tmp/full; exec 9<>/tmp/full; dd if=/dev/zero of=/tmp/full bs=4096 oflag=nonblock 2>/dev/null; \
             {program} {words} >&9 2>&9 & sleep 0.7; grep Uid: /proc/$!/status; kill -9 $! && echo killed; \
             rm /tmp/full"
        );
        let out = shell(&machine, &script);
        assert!(out.contains("Uid:\t4201\t4201\t4201\t4201") && out.contains("killed"), "{words}: {out}");
    }
    machine.finish();
}

#[test]
fn a_helper_that_closes_its_output_and_stays_does_not_keep_root_waiting() {
    let machine = Machine::new(&shell_image(), "");
    let helper = machine.sandbox.prefix().join("getent");
    fs::write(&helper, "#!/bin/sh\nexec >&-\nexec sleep 50\n").unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let without: String =
        accounts.lines().filter(|line| !line.contains("alice")).flat_map(|l| [l, "\n"]).collect();
    fs::write("/etc/passwd", without).unwrap();
    let root = |words: &[&str]| machine.sandbox.root().run(words).unwrap().success().unwrap();
    root(&["mount", "--bind", &helper.display().to_string(), "/usr/bin/getent"]);
    let start = Instant::now();
    let said = machine.run("alice", &["true"]).failure(1).unwrap();
    root(&["umount", "/usr/bin/getent"]);
    assert!(said.contains("no account of uid 4201"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    machine.finish();
}

#[test]
fn a_frozen_process_that_holds_the_lock_does_not_stop_the_node() {
    let machine = Machine::new(&shell_image(), "");
    machine.run("alice", &["true"]).success().unwrap(); // makes the lock
    let mut holder =
        machine.sandbox.root().spawn(&["flock", "/run/shifter/loop.lock", "sleep", "30"]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    machine.run("alice", &["true"]).success().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    machine.sandbox.root().run(&["pkill", "-P", &holder.id().to_string()]).unwrap();
    holder.wait().unwrap();
    let out = shell(&machine, "ls /run/shifter; exec 9>/run/shifter/loop.lock");
    assert!(out.matches("Permission denied").count() == 2, "users cannot reach the lock: {out}");
    machine.finish();
}

#[test]
fn a_loop_device_of_another_file_with_the_images_name_is_not_taken_for_the_image() {
    let mut machine = Machine::new(&shell_image(), "");
    let place = machine.sandbox.new_directory("elsewhere").unwrap();
    let image = machine.sandbox.image_file(&machine.id, "squashfs");
    let evil = place.join(image.file_name().unwrap());
    fs::copy(&image, &evil).unwrap();
    let root = |words: &[&str]| machine.sandbox.root().run(words).unwrap().success().unwrap();
    let device = root(&["losetup", "--find", "--show", "--read-only", &evil.display().to_string()]);
    let out = machine.run("alice", &["stat", "-c", "%d", "/bin"]).success().unwrap();
    let number: u32 = device.trim().trim_start_matches("/dev/loop").parse().unwrap();
    root(&["losetup", "--detach", device.trim()]);
    assert_ne!(out.trim().parse::<u32>().unwrap() & 0xff, number, "{device}");
    machine.finish();
}

#[test]
fn an_image_cannot_keep_its_containers_from_starting_or_take_the_runtimes_places() {
    let mut entries = shell_image();
    entries.retain(|entry| entry.name != b"etc");
    entries.extend([
        file("var/shifterConfig.json", "{\"identifier\":\"forged\"}"),
        symlink("etc", "/tmp"),
        symlink("proc", "/tmp"),
        symlink("dev", "../../tmp"),
        symlink("tmp", "/etc"),
        symlink("home", "/etc"),
        symlink("sys", "."),
        symlink("opt/udiImage", "/tmp"),
        symlink("var/tmp", "/"),
        dir("..."),
        dir("new\nline"),
        dir("-rf"),
        dir(b"\xff\xfe"),
        symlink("self", "/proc/self/root"),
    ]);
    let machine = Machine::new(&entries, "");
    let script = "cat /var/shifterConfig.json; ls -d /proc/1 /dev/null /home/alice /etc/passwd; readlink /self; ls -a / | wc -l";
    let out = machine.run("alice", &["sh", "-c", script]).success().unwrap();
    assert!(out.contains(&machine.id) && !out.contains("forged"), "{out}");
    assert!(
        out.contains("/proc/1\n/dev/null\n/home/alice\n/etc/passwd")
            || out.contains("/dev/null\n/etc/passwd\n/home/alice\n/proc/1"),
        "{out}"
    );
    machine.finish();
}

#[test]
fn an_image_with_too_many_names_at_its_top_is_refused() {
    let mut entries = shell_image();
    entries.extend((0..4200).map(|number| file(format!("f{number}"), "")));
    let machine = Machine::new(&entries, "");
    let said = machine.run("alice", &["true"]).failure(1).unwrap();
    assert!(said.contains("more entries than such a directory can have"), "{said}");
    machine.finish();
}

#[test]
fn no_working_directory_leads_out_of_the_container() {
    let mut entries = shell_image();
    entries.push(symlink("round", "/round"));
    let machine = Machine::new(&entries, "WORKDIR: /proc/self/fd/3\n");
    let inside = machine.command_line();
    let script = format!(
        "cd /run; sleep 20 & p=$!; exec 5</ 6</run; for d in /proc/$p/cwd /proc/$p/root /proc/self/fd/5 /proc/self/fd/6 \
         /proc/self/fd/3 /proc/self/fd/4 /proc/self/fd/7 ../../../run /round /$(printf 'a%.0s' $(seq 5000)); do {inside} --workdir=$d sh -c 'pwd; ls -di . / | uniq -w 9 | wc -l'; done; \
         {inside} --workdir sh -c 'pwd; ls -di . / | uniq -w 9 | wc -l'; kill $p"
    );
    let outcome = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap();
    let out = outcome.out();
    let places: Vec<&str> = out.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(places.len(), 11, "{}", outcome.describe());
    assert!(places.iter().all(|place| *place == "/" || *place == "/run"), "{}", outcome.describe());
    assert!(!out.contains("unreachable"), "{}", outcome.describe());
    machine.finish();
}

/// ST18: links of `/proc` lead past every look at names (CVE-2021-30465 and its kin took them for plain ones).
#[test]
fn a_volume_lands_where_a_magic_link_of_the_image_leads() {
    let mut entries = shell_image();
    entries.extend([dir("data"), file("data/of-image", ""), dir("mnt"), symlink("plain", "/mnt")]);
    // ELOOP and EACCES, which C libraries word differently.
    let (loops, forbidden) = ("(os error 40)", "(os error 13)");
    let links = [
        ("root", "/proc/self/root/mnt", loops),
        ("thread", "/proc/thread-self/root/mnt", loops),
        ("init", "/proc/1/root/mnt", forbidden),
        ("cwd", "/proc/self/cwd", loops),
        ("descriptor", "/proc/self/fd/0", loops),
        ("relative", "proc/self/root/mnt", loops),
    ];
    entries.extend(links.map(|(name, to, _)| symlink(name, to)));
    let machine = Machine::new(&entries, "");
    for (name, to, refusal) in links {
        for below in ["", "/below"] {
            let volume = format!("/data:/{name}{below}");
            let said = machine.run("alice", &["-V", &volume, "true"]).failure(1).unwrap();
            assert!(said.contains(refusal) && said.lines().count() == 1, "{volume}, {to}: {said}");
        }
    }
    let out = machine.run("alice", &["-V/data:/plain", "ls", "/mnt"]);
    assert_eq!(out.success().unwrap(), "of-image\n", "other links are followed");
    machine.finish();
}

#[test]
fn a_caller_in_a_user_namespace_gains_nothing() {
    let machine = Machine::new(&shell_image(), "");
    for map in ["--map-root-user", "--map-current-user", "--user"] {
        let script = format!("unshare {map} {} id -u", machine.command_line());
        let outcome = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap();
        assert!(!outcome.status.success() && outcome.out().is_empty(), "{map}: {}", outcome.describe());
    }
    machine.finish();
}

#[test]
fn odd_words_variables_and_limits_do_not_crash_the_program() {
    let machine = Machine::new(&shell_image(), "");
    let inside = machine.command_line();
    let check = |set_up: &str, words: &str, expected: &str| {
        let out = shell(&machine, &format!("{set_up}; {inside} {words}"));
        assert!(out.contains(expected), "{set_up}; {words}: {out}");
    };
    check("export X=$(head -c 100000 /dev/zero | tr '\\0' x)", "sh -c 'echo ${#X}'", "100000\n");
    check("for i in $(seq 20000); do export V$i=$i; done", "sh -c 'echo $V20000'", "20000\n");
    check("export $'B=\\xff\\xfe'", "sh -c 'echo $B | od -An -tx1'", "ff fe");
    check("true", "$'--env=C=\\xff' sh -c 'echo $C | od -An -tx1'", "ff");
    check("true", "$'\\xff/nothing'", "shifter: \u{fffd}/nothing: No such file or directory");
    check("true", "$'--\\xff'", "there is no option --");
    // What the kernel makes of an execve(2) without any word.
    let out = shell(&machine, &format!("exec -a '' {inside} echo nameless"));
    assert_eq!(out, "nameless\n");
    check("ulimit -S -s 256 -i 0 -l 0 -x 0", "sh -c 'echo $((6 * 7))'", "42\n");
    check("mkdir /tmp/gone; cd /tmp/gone; rmdir /tmp/gone", "pwd", "/\n");
    check("mkdir -m 0 /tmp/shut; cd /tmp/shut 2>/dev/null; rmdir /tmp/shut", "echo in", "in\n");
    machine.finish();
}

#[test]
fn users_cannot_place_programs_in_everybodys_containers() {
    let mut machine = Machine::new(&shell_image(), "");
    let tools = machine.sandbox.new_directory("udiImage").unwrap();
    fs::create_dir(tools.join("bin")).unwrap();
    fs::write(tools.join("bin/tool"), "#!/bin/sh\necho tool\n").unwrap();
    let mode = |path: &str, mode: u32| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(tools.join(path), permissions).unwrap();
    };
    machine.sandbox.write_udiroot(&[("optUdiImage", &tools.display().to_string())]).unwrap();
    mode("bin/tool", 0o755);
    assert_eq!(machine.run("alice", &["/opt/udiImage/bin/tool"]).success().unwrap(), "tool\n");
    for path in ["bin", "bin/tool"] {
        mode(path, 0o775);
        let said = machine.run("alice", &["true"]).failure(1).unwrap();
        assert!(said.contains("can be written by group or others"), "{path}: {said}");
        mode(path, 0o755);
        chown(tools.join(path), Some(4201), None).unwrap();
        let said = machine.run("alice", &["true"]).failure(1).unwrap();
        assert!(said.contains("does not belong to root"), "{path}: {said}");
        chown(tools.join(path), Some(0), None).unwrap();
    }
    machine.finish();
}

#[test]
fn the_callers_limits_do_not_choose_where_a_site_hook_dies() {
    let mut machine = Machine::new(&shell_image(), "");
    let hook = machine.sandbox.new_directory("hook").unwrap().join("pre.sh");
    let limits = hook.with_file_name("limits");
    let body = format!("ulimit -a | grep -v pipe > {0}; cat /proc/self/status >> {0}\n", limits.display());
    fs::write(&hook, body).unwrap();
    machine.sandbox.write_udiroot(&[("sitePreMountHook", &hook.display().to_string())]).unwrap();
    let inside = machine.command_line();
    let out = shell(
        &machine,
        &format!(
            "trap '' TERM USR1 CHLD; ulimit -S -s 128 -f 0 -t 50 -n 9; {inside} sh -c 'ulimit -s; ulimit -n; ulimit -f'"
        ),
    );
    assert_eq!(out, "128\n9\n0\n");
    let seen = fs::read_to_string(&limits).unwrap();
    let value = |name: &str| {
        let line = seen.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {seen}"));
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!((value("stack").as_str(), value("nofiles").as_str()), ("8192", "1024"), "{seen}");
    assert_eq!((value("time").as_str(), value("file(").as_str()), ("unlimited", "unlimited"), "{seen}");
    // Signals 32 to 34 are the C libraries' own and cannot be reset through them.
    let ignored = u64::from_str_radix(&value("SigIgn:"), 16).unwrap() & !(7 << 31);
    assert_eq!(ignored, 0, "{seen}");
    fs::remove_file(limits).unwrap();
    machine.finish();
}
