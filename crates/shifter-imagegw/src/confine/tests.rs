//! Confined threads of this process try what they must not do. Landlock and seccomp hold for a thread; the limits,
//! which hold for a process, are tried by `probe` in the end-to-end tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;

use super::*;

/// Runs this in a thread that is fenced in and filtered.
fn confined<T: Send + 'static>(reach: Reach, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        fence(&reach).unwrap();
        filter::install(reach.beyond()).unwrap();
        work()
    });
    thread.join().unwrap()
}

#[test]
fn what_reads_hostile_bytes_has_no_network_no_programs_and_no_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["layer", "image", "secret"] {
        std::fs::write(at(name), name).unwrap();
    }
    std::fs::create_dir(at("scratch")).unwrap();
    symlink(at("secret"), at("scratch/way")).unwrap();
    let reach = Reach {
        read: vec![at("layer")],
        write: vec![at("image")],
        make: vec![at("scratch")],
        ..Reach::default()
    };
    let root = dir.path().to_owned();
    confined(reach, move || {
        let at = |name: &str| root.join(name);
        // What it is for.
        assert_eq!(std::fs::read_to_string(at("layer")).unwrap(), "layer");
        let mut image = OpenOptions::new().read(true).write(true).open(at("image")).unwrap();
        image.write_all(b"x").unwrap();
        image.set_len(1).unwrap();
        std::fs::write(at("scratch/file"), "x").unwrap();
        std::fs::remove_file(at("scratch/file")).unwrap();
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_millis(1))).join().unwrap();
        // What it is not.
        let writes = |path: &Path| OpenOptions::new().write(true).open(path).map(drop);
        let tries: [(&str, std::io::Result<()>); 12] = [
            ("read /etc/passwd", File::open("/etc/passwd").map(drop)),
            ("list /", std::fs::read_dir("/").map(drop)),
            ("read beside its files", File::open(at("secret")).map(drop)),
            ("read by a symlink", File::open(at("scratch/way")).map(drop)),
            ("write a layer", writes(&at("layer"))),
            ("make a file elsewhere", File::create(at("new")).map(drop)),
            ("remove its image", std::fs::remove_file(at("image"))),
            ("TCP", std::net::TcpStream::connect("127.0.0.1:1").map(drop)),
            ("UDP", std::net::UdpSocket::bind("127.0.0.1:0").map(drop)),
            ("a socket pair", UnixStream::pair().map(drop)),
            ("run a program", Command::new("/bin/true").status().map(drop)),
            ("trace, or read the memory of, its parent", File::open("/proc/1/mem").map(drop)),
        ];
        for (what, result) in tries {
            assert!(result.is_err(), "could {what}");
        }
        let kind = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(kind(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)), Some(libc::ENOSYS));
        assert_eq!(kind(File::open("/etc/passwd").map(drop)), Some(libc::EACCES));
        let gateway = rustix::process::Pid::from_raw(1).unwrap();
        assert!(rustix::process::kill_process(gateway, rustix::process::Signal::CONT).is_err());
        assert!(
            rustix::process::prlimit(Some(gateway), Resource::Core, Rlimit { current: None, maximum: None })
                .is_err()
        );
    });
}

#[test]
fn a_conversion_and_its_threads_leave_the_processors_to_requests() {
    const SCHED_IDLE: &str = "5";
    let policy = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Fields from the third on stand behind the name, which may hold spaces; see proc_pid_stat(5).
        stat.rsplit(')').next().unwrap().split_whitespace().nth(41 - 3).unwrap().to_owned()
    };
    let stepped_back = std::thread::spawn(move || {
        step_back();
        [policy(), std::thread::spawn(policy).join().unwrap()]
    });
    assert_eq!(stepped_back.join().unwrap(), [SCHED_IDLE, SCHED_IDLE]);
    assert_ne!(policy(), SCHED_IDLE);
}

#[test]
fn nobody_opens_files_to_others_cuts_off_what_it_reads_or_signals_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["image", "private"] {
        std::fs::write(at(name), name).unwrap();
        std::fs::set_permissions(at(name), Permissions::from_mode(0o600)).unwrap();
    }
    let mode = |name: &str| at(name).metadata().unwrap().permissions().mode() & 0o777;
    let mut programs = Reach { read: vec![at("image")], ..Reach::default() };
    programs.add_programs();
    let plain = Reach { read: vec![at("image")], ..Reach::default() };
    let unpacking = Reach { attributes: true, ..plain.clone() };
    // By a name, it sets times of what has that name itself, and not of what a link leads to.
    let copying = Reach { times: true, ..unpacking.clone() };
    for (reach, sets_mode) in [(plain, false), (unpacking, true), (copying, true), (programs, false)] {
        let (private, image) = (at("private"), at("image"));
        confined(reach, move || {
            use rustix::fs::{AtFlags, CWD, OFlags, open, utimensat};
            assert!(!changes_mode(&private) && !changes_mode(&image));
            let file = File::open(&image).unwrap();
            let kind = |result: std::io::Result<()>| result.err().and_then(|e| e.raw_os_error());
            let none = Some(libc::ENOSYS);
            let expected = if sets_mode { None } else { none };
            assert_eq!(kind(file.set_permissions(Permissions::from_mode(0o640))), expected);
            assert_eq!(kind(file.set_modified(std::time::SystemTime::now())), expected);
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
            let named = utimensat(CWD, &private, &times, AtFlags::empty());
            assert_eq!(kind(named.map_err(Into::into)), none);
            for access in [OFlags::RDONLY, OFlags::from_bits_retain(3)] {
                let cut = open(&image, access | OFlags::TRUNC, rustix::fs::Mode::empty());
                assert_eq!(kind(cut.map(drop).map_err(Into::into)), none);
            }
            let parent = rustix::process::Pid::from_raw(1).unwrap();
            assert!(rustix::process::test_kill_process(parent).is_err());
            assert!(rustix::io::fcntl_dupfd_cloexec(&file, 0).is_ok());
        });
        assert_eq!(mode("private"), 0o600);
        assert_eq!(mode("image"), if sets_mode { 0o640 } else { 0o600 });
        std::fs::set_permissions(at("image"), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(std::fs::read_to_string(at("image")).unwrap(), "image");
    }
}

#[test]
fn programs_run_where_they_are_needed_and_are_as_confined() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let mut reach = Reach::default();
    reach.add_programs();
    let output = confined(reach, move || {
        let script =
            format!("echo runs; cat {} || echo refused; cat /etc/passwd || echo refused", secret.display());
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        text
    });
    assert_eq!(output, "runs\nrefused\nrefused\n");
}

#[test]
fn a_sites_program_cannot_change_the_machine_and_does_its_work_all_the_same() {
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).stderr(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let script = "d=$(mktemp -d) && cd $d && mkdir a && echo x > a/f && chmod 600 a/f && cp -a a b \
        && tar cf - a | gzip | gunzip | (mkdir c && cd c && tar xf -) && find . -type f | xargs sha256sum | wc -l \
        && (sleep 9 & kill $!) && nice id -u > /dev/null && cd / && rm -rf $d";
    let dangers: [&[&str]; 5] = [
        &["unshare", "--user", "true"],
        &["unshare", "--mount", "true"],
        &["unshare", "--fork", "--pid", "true"],
        &["nsenter", "--mount=/proc/self/ns/mnt", "true"],
        &["chroot", "/", "/bin/true"],
    ];
    let try_all = move || {
        let tried = dangers.map(|words| run(words[0], &words[1..]).0);
        (run("/bin/bash", &["-ec", script]), tried)
    };
    assert!(try_all().1.contains(&true), "none of it is possible here anyway");
    let refused = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        refuse_dangers().unwrap();
        try_all()
    });
    assert_eq!(refused.join().unwrap(), ((true, "3\n".to_owned()), [false; 5]));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let reach = Reach { read: vec!["/nonexistent/layer".into()], ..Reach::default() };
    let error = std::thread::spawn(move || fence(&reach)).join().unwrap().unwrap_err();
    assert!(error.starts_with("opening /nonexistent/layer failed: No such file"), "{error}");
}

#[test]
fn what_does_not_hold_is_said() {
    let all = Holds { files: true, modes: true, network: true, programs: true, memory: true, signals: true };
    assert!(all.gaps().is_empty());
    assert_eq!(Holds { files: false, ..all }.gaps().len(), 1);
    let none =
        Holds { files: false, modes: false, network: false, programs: false, memory: false, signals: false };
    assert_eq!(none.gaps().len(), 6);
}

#[test]
fn only_who_is_handed_files_receives_any_and_then_without_a_name() {
    use rustix::net::*;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    std::fs::write(&path, "layer").unwrap();
    for files in [true, false] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let layer = File::open(&path).unwrap();
        let handed = [std::os::fd::AsFd::as_fd(&layer)];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        assert!(message.push(SendAncillaryMessage::ScmRights(&handed)));
        sendmsg(&ours, &[std::io::IoSlice::new(b"x")], &mut message, SendFlags::empty()).unwrap();
        let name = path.clone();
        let text = confined(Reach { files, ..Reach::default() }, move || {
            assert!(File::open(&name).is_err());
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut bytes = [std::io::IoSliceMut::new(&mut byte)];
            recvmsg(&theirs, &mut bytes, &mut message, RecvFlags::CMSG_CLOEXEC)?;
            let received = message.drain().next();
            let Some(RecvAncillaryMessage::ScmRights(mut files)) = received else { panic!("no file") };
            std::io::read_to_string(File::from(files.next().unwrap()))
        });
        match files {
            true => assert_eq!(text.unwrap(), "layer"),
            false => assert_eq!(text.unwrap_err().raw_os_error(), Some(libc::ENOSYS)),
        }
    }
}
