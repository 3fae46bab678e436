//! What a user finds inside a container: their own identity and nothing more, the image, the site's files.
//! Each assertion is made by a program running in the container, started by an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file, symlink};

#[test]
fn the_user_is_who_they_were_without_group_0() {
    let machine = Machine::new(&shell_image(), "");
    for (user, expected) in [
        ("alice", "uid=4201(alice) gid=4201(alice) groups=4201(alice),4301(physics),4302(chemistry)"),
        ("bob", "uid=4202(bob) gid=4202(bob) groups=4202(bob),4301(physics)"),
        ("carol", "uid=4203(carol) gid=4203(carol) groups=4203(carol),4302(chemistry)"),
    ] {
        let out = machine.run(user, &["id"]).success().unwrap();
        let numbers = |text: &str| {
            let mut all: Vec<_> = text.split([' ', ',', '=']).map(str::to_owned).collect();
            all.sort();
            all.dedup();
            all
        };
        assert_eq!(numbers(out.trim()), numbers(expected), "{user}");
    }
    machine.finish();
}

#[test]
fn every_capability_set_is_empty_and_nothing_can_be_regained() {
    let machine = Machine::new(&shell_image(), "");
    let status = machine.run("alice", &["cat", "/proc/self/status"]).success().unwrap();
    for line in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert!(status.contains(&format!("{line}\t0000000000000000\n")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    assert!(status.contains("Uid:\t4201\t4201\t4201\t4201\n"), "{status}");
    assert!(status.contains("Gid:\t4201\t4201\t4201\t4201\n"), "{status}");
    machine.finish();
}

#[test]
fn mounts_are_nosuid_and_nodev_outside_dev_and_lead_nowhere_else() {
    let machine = Machine::new(&shell_image(), "");
    let mounts = machine.run("alice", &["cat", "/proc/self/mountinfo"]).success().unwrap();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (place, flags) = (fields[4], fields[5]);
        assert!(flags.split(',').any(|flag| flag == "nosuid"), "{line}");
        let below_dev = place == "/dev" || place.starts_with("/dev/");
        assert!(below_dev || flags.split(',').any(|flag| flag == "nodev"), "{line}");
        // Optional fields say with whom a mount shares: nothing of ours may send anything out.
        assert!(!line.contains(" shared:"), "{line}");
    }
    for place in ["/opt/shifter-test", "/run", "/images"] {
        assert!(!mounts.lines().any(|line| line.contains(&format!(" {place} "))), "{place}\n{mounts}");
    }
    // Nothing stands above the container's root.
    let script = "ls -di / /.. | sort -u -k1,1 | wc -l; ls /proc/1/root 2>&1; pwd";
    let out = machine.run("alice", &["sh", "-c", script]).out();
    assert!(out.starts_with("1\n") && out.contains("Permission denied") && out.ends_with("/\n"), "{out}");
    machine.finish();
}

/// Whether `ls -l /proc/self/fd` shows this descriptor on the null device, wherever its path begins.
fn is_null(list: &str, number: &str) -> bool {
    list.lines().any(|line| line.contains(&format!(" {number} -> ")) && line.ends_with("/dev/null"))
}

#[test]
fn only_descriptors_that_lead_nowhere_are_inherited() {
    let machine = Machine::new(&shell_image(), "");
    // With many and high ones, too: they are found in another way.
    let few = "for n in $(seq 10 254); do eval \"exec $n<&-\"; done";
    let mut out = String::new();
    for (others, kept, closed) in [
        (few, &["7", "9"][..], &["5", "6", "8"][..]),
        ("exec 90</etc/hostname 91</ 92<.", &["7", "9", "90"], &["5", "6", "8", "91", "92"]),
    ] {
        let script = format!(
            "{others}; exec 5</ 6</proc/self/ns/mnt 7</etc/hostname 8<. 9>/tmp/kept; {} ls -l /proc/self/fd <&8",
            machine.command_line()
        );
        out = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().success().unwrap();
        let open: Vec<&str> =
            out.lines().filter_map(|line| line.split(" -> ").next()?.split(' ').next_back()).collect();
        for number in kept {
            assert!(open.contains(number), "{number} must stay:\n{out}");
        }
        for number in closed {
            assert!(!open.contains(number), "{number} must be closed:\n{out}");
        }
    }
    std::fs::remove_file("/tmp/kept").unwrap();
    assert!(is_null(&out, "0"), "a directory on standard input is replaced:\n{out}");
    machine.finish();
}

#[test]
fn closed_standard_streams_do_not_become_files_of_the_container() {
    let machine = Machine::new(&shell_image(), "");
    let script =
        format!("{} sh -c 'ls -l /proc/self/fd > /tmp/list' <&- 2>&-; cat /tmp/list", machine.command_line());
    let out = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().success().unwrap();
    assert!(is_null(&out, "0") && is_null(&out, "2"), "{out}");
    std::fs::remove_file("/tmp/list").unwrap();
    machine.finish();
}

#[test]
fn umask_limits_and_signal_dispositions_are_the_callers() {
    let machine = Machine::new(&shell_image(), "");
    let probe = r"umask; ulimit -a | grep -v pipe; ulimit -Ha | grep -v pipe; grep -E '^Sig(Ign|Blk)' /proc/self/status; /bin/busybox awk '{print \$19}' /proc/self/stat";
    // SIG_BLOCK, and a set of all; rt_sigprocmask(2) has these numbers on the processors we know.
    let number = match std::env::consts::ARCH {
        "x86_64" => 14,
        "powerpc64" => 174,
        _ => 135,
    };
    let all_blocked = &format!(
        "perl -e '$m = pack q(Q), ~0; syscall({number}, 0, $m, 0, 8) == 0 or die $!; exec @ARGV or die $!'"
    );
    for (set_up, with) in [
        ("umask 077; trap '' PIPE", ""),
        ("umask 002; trap '' HUP USR1; trap - PIPE", ""),
        ("ulimit -t 100; ulimit -f 20480; ulimit -n 64; ulimit -c 0; nice -n 3 true", ""),
        ("ulimit -S -v 4000000; ulimit -u 5000", ""),
        ("trap '' INT", "env --block-signal=HUP,USR1,RTMAX"),
        ("true", "env --block-signal=INT,QUIT,PIPE,TERM,ALRM,CHLD,CONT,TSTP,USR2,SEGV"),
        // A C library keeps 32 to 34 to itself; others let programs block 34, and the kernel knows no difference.
        ("true", "env --block-signal=RTMIN"),
        ("true", all_blocked),
        ("true", &format!("env --ignore-signal=RTMIN,RTMAX {all_blocked}")),
    ] {
        let inside = machine.command_line();
        let script = format!(
            "{set_up}; {with} /bin/busybox sh -c \"{probe}\"; echo ===; {with} {inside} /bin/busybox sh -c \"{probe}\""
        );
        let out = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().success().unwrap();
        let (outside, inside) = out.split_once("===\n").unwrap();
        assert_eq!(inside, outside, "{set_up}; {with}");
        assert_eq!(outside.contains("SigBlk:\t0000000000000000\n"), with.is_empty(), "{with}: {outside}");
    }
    machine.finish();
}

#[test]
fn a_tiny_limit_of_files_or_size_does_not_stop_the_set_up() {
    let machine = Machine::new(&shell_image(), "");
    for (limit, its_value, expected) in [
        ("ulimit -S -n 3", "ulimit -n", "3\n"),
        ("ulimit -S -f 0", "ulimit -f", "0\n"),
        ("ulimit -S -v 20000", "ulimit -v", "20000\n"),
        ("ulimit -S -u 0", "ulimit -u", "0\n"),
    ] {
        let script = format!("{limit}; exec {} /bin/busybox sh -c '{its_value}'", machine.command_line());
        let out = machine.as_user("alice").run(&["/bin/busybox", "sh", "-c", &script]).unwrap();
        assert_eq!(out.success().unwrap(), expected, "{limit}: it is the user's again");
    }
    machine.finish();
}

#[test]
fn variables_a_setuid_program_must_not_trust_are_gone_and_the_order_of_sources_holds() {
    let record = "ENV: FROM_IMAGE=1\nENV: EMPTY=\nENV: BOTH=image\nENV: PATH=/usr/bin:/bin\n";
    let machine = Machine::new(&shell_image(), record);
    let user = machine
        .as_user("alice")
        .env("LD_PRELOAD", "/tmp/x.so")
        .env("LD_LIBRARY_PATH", "/tmp")
        .env("LD_AUDIT", "/tmp/x.so")
        .env("GCONV_PATH", "/tmp")
        .env("GLIBC_TUNABLES", "x=y")
        .env("MALLOC_TRACE", "/tmp/m")
        .env("TMPDIR", "/tmp/t")
        .env("BOTH", "caller")
        .env("MINE", "kept");
    let out = user.run(&machine.words(&["--env=LINE=a b", "env"])).unwrap().success().unwrap();
    let has = |line: &str| out.lines().any(|found| found == line);
    for gone in ["LD_", "GCONV_PATH", "GLIBC_TUNABLES", "MALLOC_TRACE", "TMPDIR"] {
        assert!(!out.lines().any(|line| line.starts_with(gone)), "{gone}:\n{out}");
    }
    for line in [
        "FROM_IMAGE=1",
        "EMPTY=",
        "BOTH=image",
        "MINE=kept",
        "LINE=a b",
        "SHIFTER_RUNTIME=1",
        "PATH=/usr/bin:/bin",
    ] {
        assert!(has(line), "{line}:\n{out}");
    }
    assert!(has(&format!("SHIFTER_IMAGE={}", machine.id)), "{out}");
    assert!(has(&format!("SHIFTER_IMAGEREQUEST=id:{}", machine.id)), "{out}");
    let out = user.run(&machine.words(&["--clearenv", "env"])).unwrap().success().unwrap();
    assert!(!out.contains("MINE=") && out.contains("FROM_IMAGE=1"), "{out}");
    machine.finish();
}

#[test]
fn the_images_files_are_there_and_the_sites_win() {
    let mut entries = shell_image();
    entries.extend([
        file("etc/os-release", "PRETTY_NAME=\"of the image\"\n"),
        file("etc/passwd", "evil:x:4201:0::/:/bin/sh\n"),
        file("etc/shadow", "root::0::::::\n"),
        file("etc/big", vec![b'x'; 6 << 20]),
        dir("etc/ssh"),
        file("etc/ssh/ssh_config", "of the image"),
        dir("home"),
        file("home/hidden", "x"),
        file(b"odd name @\xff", "odd"),
        file("large", vec![b'y'; 6 << 20]),
        symlink("link", "large"),
        dir("opt"),
        dir("opt/app"),
        file("opt/app/run", "app"),
        dir("var"),
        dir("var/lib"),
        file("var/lib/state", "state"),
        dir("sys"),
        file("sys/hidden", "x"),
    ]);
    let machine = Machine::new(&entries, "");
    let cat = |path: &str| machine.run("alice", &["cat", path]).success().unwrap();
    assert!(cat("/etc/os-release").contains("of the image"));
    assert_eq!(cat("/etc/passwd"), "alice:x:4201:4201:test account:/home/alice:/bin/sh\n");
    assert_eq!(cat("/etc/group"), "alice:x:4201:alice\nphysics:x:4301:alice\nchemistry:x:4302:alice\n");
    assert_eq!(cat("/etc/shadow"), "");
    assert!(cat("/etc/nsswitch.conf").contains("passwd: files"));
    assert_eq!(cat("/etc/hosts"), std::fs::read_to_string("/etc/hosts").unwrap());
    assert_eq!(cat("/opt/app/run"), "app");
    assert_eq!(cat("/var/lib/state"), "state");
    let record = format!(
        "{{\"identifier\":\"{}\",\"user\":\"alice\",\"volMap\":\"\",\"modules\":\"\"}}\n",
        machine.id
    );
    assert_eq!(cat("/var/shifterConfig.json"), record);
    let script = "wc -c < /etc/big; wc -c < /link; cat /odd*; ls /etc/ssh | wc -l; ls /home; readlink /etc/mtab; ls /sys";
    let out = machine.run("alice", &["sh", "-c", script]).success().unwrap();
    assert!(out.starts_with("6291456\n6291456\nodd0\n"), "{out}");
    assert!(out.contains("alice\n") && !out.contains("hidden") && out.contains("/proc/mounts"), "{out}");
    machine.finish();
}

#[test]
fn nothing_of_the_container_can_be_written_but_what_the_host_lets_the_user_write() {
    let machine = Machine::new(&shell_image(), "");
    for (path, writable) in [
        ("/x", false),
        ("/etc/x", false),
        ("/bin/x", false),
        ("/var/x", false),
        ("/opt/x", false),
        ("/tmp/x", true),
        ("/var/tmp/x", true),
        ("/home/alice/x", true),
        ("/home/bob/x", false),
    ] {
        let out = machine.run("alice", &["touch", path]);
        assert_eq!(out.status.success(), writable, "{path}: {}", out.describe());
    }
    for written in ["/home/alice/x", "/tmp/x", "/var/tmp/x"] {
        std::fs::remove_file(written)
            .expect("what is written through a site mount is in the host's own directory");
    }
    machine.finish();
}

#[test]
fn links_of_the_image_in_place_of_directories_lead_to_no_place_of_the_host() {
    let mut entries = shell_image();
    entries.retain(|entry| !entry.name.starts_with(b"etc") && entry.name != b"opt");
    entries.extend([symlink("etc", "/root"), symlink("opt", "../../../tmp"), symlink("var", "/etc")]);
    let machine = Machine::new(&entries, "");
    let out =
        machine.run("alice", &["sh", "-c", "cat /etc/passwd; ls -ld /etc /opt /var"]).success().unwrap();
    assert!(out.starts_with("alice:x:4201"), "{out}");
    assert_eq!(out.lines().filter(|line| line.starts_with('d')).count(), 3, "{out}");
    machine.finish();
}

#[test]
fn the_command_its_directory_and_its_exit_status_follow_the_documents() {
    let record = "ENTRY: ['/bin/echo', 'entry']\nCMD: ['cmd']\nWORKDIR: /usr\n";
    let machine = Machine::new(&shell_image(), record);
    let at = |directory: &str, words: &[&str]| {
        machine.as_user("alice").directory(directory).run(&machine.words(words)).unwrap()
    };
    assert_eq!(at("/home/alice", &["pwd"]).success().unwrap(), "/home/alice\n");
    assert_eq!(at("/", &["--workdir", "pwd"]).success().unwrap(), "/usr\n");
    assert_eq!(at("/", &["-w/tmp", "pwd"]).success().unwrap(), "/tmp\n");
    assert_eq!(at("/", &["--entrypoint"]).success().unwrap(), "entry cmd\n");
    assert_eq!(at("/", &["--entrypoint", "mine"]).success().unwrap(), "entry mine\n");
    assert_eq!(at("/", &["--entrypoint=/bin/echo", "a"]).success().unwrap(), "a\n");
    let gone = at("/boot", &["pwd"]);
    assert!(gone.err().contains("Failed to switch to working dir, staying in /"), "{}", gone.describe());
    assert_eq!(gone.success().unwrap(), "/\n");
    let script =
        format!("mkdir /tmp/gone && cd /tmp/gone && rmdir /tmp/gone && {} pwd", machine.command_line());
    assert_eq!(machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().out(), "/\n");
    let leaky = at("/", &["-w/proc/self/cwd", "pwd"]).success().unwrap();
    assert_eq!(leaky, "/\n");
    assert_eq!(at("/", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    let missing = at("/", &["nosuchprogram"]).failure(127).unwrap();
    assert!(missing.contains("nosuchprogram: No such file or directory"), "{missing}");
    at("/", &["/etc/passwd"]).failure(127).unwrap();
    let killed = at("/", &["sh", "-c", "kill -9 $$"]);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&killed.status),
        Some(9),
        "{}",
        killed.describe()
    );
    let stdin =
        machine.as_user("alice").stdin("echo from the default shell").run(&machine.words(&[])).unwrap();
    assert_eq!(stdin.success().unwrap(), "from the default shell\n");
    machine.finish();
}
