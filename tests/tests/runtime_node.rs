//! What a start costs a node: no helper programs, one loop device for one image, nothing kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use std::fs;

#[test]
fn a_local_user_and_an_id_image_start_without_any_helper_program() {
    let machine = Machine::new(&shell_image(), "");
    let account = machine.as_user("alice");
    let log = machine.sandbox.images().join("strace");
    let log_name = log.display().to_string();
    // strace as root follows a setuid program started as another user (-u).
    let mut words = vec!["strace", "-f", "-u", "alice", "-o", &log_name, "-e", "trace=process"];
    let run = machine.words(&["/bin/true"]);
    words.extend(run.iter().copied());
    drop(account);
    machine.sandbox.root().run(&words).unwrap().success().unwrap();
    let log = fs::read_to_string(&log_name).unwrap();
    let execs = log.lines().filter(|line| line.contains("execve(") && line.ends_with("= 0")).count();
    let children =
        log.lines().filter(|line| ["clone(", "clone3(", "fork("].iter().any(|call| line.contains(call)));
    assert_eq!((execs, children.count()), (2, 0), "{log}");
    machine.finish();
}

#[test]
fn containers_that_start_together_share_one_loop_device_and_one_superblock() {
    let machine = Machine::new(&shell_image(), "");
    // The first keeps the image mounted while the others come and go.
    let script = format!(
        "for i in $(seq 64); do {} sh -c 'stat -c %d /bin; sleep 3' & done; wait",
        machine.command_line()
    );
    let out = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().success().unwrap();
    let mut devices: Vec<&str> = out.lines().collect();
    assert_eq!(devices.len(), 64, "{out}");
    devices.dedup();
    assert_eq!(devices.len(), 1, "all have one st_dev: {out}");
    machine.finish();
}

#[test]
fn an_image_replaced_by_another_file_gets_a_device_of_its_own() {
    let machine = Machine::new(&shell_image(), "");
    let image = machine.sandbox.image_file(&machine.id, "squashfs");
    let mut keeper = machine.start("alice", "cat");
    let copy = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    fs::write(&image, copy).unwrap();
    std::os::unix::fs::chown(&image, Some(0), Some(0)).unwrap();
    let seen = machine.run("alice", &["stat", "-c", "%d", "/bin"]).success().unwrap();
    let keeper_root = format!("/proc/{}/root/bin", keeper.id());
    let kept = machine.sandbox.root().run(&["stat", "-c", "%d", &keeper_root]).unwrap().success().unwrap();
    assert_ne!(seen, kept, "another inode is another image");
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    machine.finish();
}

#[test]
fn containers_killed_at_any_moment_leave_nothing() {
    let machine = Machine::new(&shell_image(), "");
    let script = format!(
        "for i in $(seq 100); do {} sleep 0.1 & p=$!; sleep 0.00$((i % 10)); kill -9 $p; wait $p; done 2>/dev/null; sleep 0.5",
        machine.command_line()
    );
    machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().success().unwrap();
    machine.finish();
}

#[test]
fn the_user_can_neither_stop_nor_trace_the_program_while_it_is_root() {
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.program("shifter").unwrap().display().to_string();
    let script = format!("strace -o /dev/null {program} --image=id:{} id; true", machine.id);
    let out = machine.as_user("alice").run(&["bash", "-c", &script]).unwrap();
    // Traced by its caller, a program gains nothing from its setuid bit.
    assert!(out.err().contains("not setuid root"), "{}", out.describe());
    machine.finish();
}

#[test]
fn hundreds_of_starts_leave_no_mount_loop_or_process() {
    let machine = Machine::new(&shell_image(), "");
    let script = format!("for i in $(seq 300); do {} true || exit 1; done", machine.command_line());
    machine.as_user("alice").run(&["bash", "-c", &script]).unwrap().success().unwrap();
    machine.finish();
}
