//! sshd in prepared containers of a job of several nodes: its user gets everywhere in it, and nobody else does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cluster::{Cluster, IDENTITY};
use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file, program_entries};
use shifter_tests::harness::Outcome;
use std::fs;
use std::time::Instant;

fn cluster(count: u8) -> Cluster {
    Cluster::new(Machine::new(&shell_image(), "ENV: FROM_IMAGE=a b\"c\\d\n"), count)
}

/// The distribution's own ssh, from a node to `n1`, with these options.
fn ssh(cluster: &Cluster, user: &str, words: &[&str]) -> Outcome {
    let usual = ["ssh", "-F", "none", "-p", "1204", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"];
    let words =
        [&usual[..], &["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"], words].concat();
    cluster.machine.as_user(user).on(&cluster.nodes[1]).run(&words).unwrap()
}

#[test]
fn a_user_reaches_the_jobs_nodes_from_inside_by_command_terminal_and_copy() {
    let cluster = cluster(4);
    cluster.setup();
    let session = "hostname; id -u; id -G; pwd; echo $FROM_IMAGE; cat /var/hostsfile | wc -l";
    let out = cluster.inside(0, "alice", &format!("for n in n1 n2 n3 n4; do ssh $n '{session}'; done"));
    let expected = |node| format!("n{node}\n4201\n4201 4301 4302\n/home/alice\na b\"c\\d\n8\n");
    assert_eq!(out.success().unwrap(), (1..=4).map(expected).collect::<String>());
    // From node to node, by way of a third; exit status, standard input, and what comes on standard error.
    let out =
        cluster.inside(1, "alice", "echo in | ssh n3 'ssh n4 \"cat; hostname; echo wrong >&2; exit 7\"'");
    assert_eq!(out.out(), "in\nn4\n");
    assert_eq!(out.failure(7).unwrap(), "wrong\n");
    let out = cluster.inside(0, "alice", "ssh -tt n2 'tty; stty size >/dev/null && echo terminal; hostname'");
    let out = out.success().unwrap();
    assert!(out.starts_with("/dev/pts/") && out.ends_with("\r\nterminal\r\nn2\r\n"), "{out:?}");
    let copy = "head -c 3000000 /dev/urandom > ~/data; for way in -s -O; do scp -q $way ~/data n2:/tmp/$way && \
                scp -q $way n2:/tmp/$way ~/back && cmp ~/data ~/back && ssh n2 rm /tmp/$way || exit 1; done; \
                cd; echo 'put data /tmp/third' | sftp -q -b - n3 && ssh n3 rm /tmp/third";
    cluster.inside(0, "alice", copy).success().unwrap();
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn a_hundred_connections_at_once_all_get_through() {
    let cluster = cluster(4);
    cluster.setup();
    let script = "i=0; while [ $i -lt 100 ]; do ssh n$((i % 4 + 1)) echo $i & i=$((i + 1)); done; wait";
    let started = Instant::now();
    let out = cluster.inside(0, "alice", script);
    println!("100 connections: {:?}", started.elapsed());
    assert!(out.err().is_empty(), "{}", out.describe());
    let out = out.success().unwrap();
    let mut numbers: Vec<u32> = out.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn only_the_jobs_user_with_the_jobs_key_is_let_in() {
    let cluster = cluster(2);
    cluster.setup();
    assert_eq!(ssh(&cluster, "alice", &["-i", IDENTITY, "n1", "hostname"]).success().unwrap(), "n1\n");
    let other = "/home/alice/other";
    cluster.machine.shell("alice", &format!("ssh-keygen -q -t ed25519 -N '' -f {other}")).success().unwrap();
    // Whatever a user can write decides nothing.
    let own = "mkdir -m 0700 ~/.ssh; cat ~/other.pub > ~/.ssh/authorized_keys";
    cluster.machine.shell("alice", own).success().unwrap();
    let bobs = "/home/bob/.udiRoot/id_ed25519.key";
    for (user, words) in [
        ("alice", ["-i", other, "n1", "true"]),
        ("alice", ["-i", IDENTITY, "root@n1", "true"]),
        ("alice", ["-i", IDENTITY, "bob@n1", "true"]),
        ("alice", ["-i", IDENTITY, "nobody@n1", "true"]),
        ("bob", ["-i", bobs, "n1", "true"]),
        ("bob", ["-i", bobs, "alice@n1", "true"]),
    ] {
        let said = ssh(&cluster, user, &words).failure(255).unwrap();
        assert!(said.contains("Permission denied (publickey)"), "{user} {words:?}: {said}");
    }
    // Nor can bob see what makes the server that server, and alice cannot change it.
    let key = "opt/udiImage/etc/ssh_host_ed25519_key";
    let at = cluster.machine.sandbox.prefix().join("udi").join(key).display().to_string();
    let seen = cluster.machine.as_user("bob").on(&cluster.nodes[0]).run(&["cat", &at]).unwrap();
    assert!(seen.err().contains("Permission denied"), "{}", seen.describe());
    for change in ["rm", "chmod 777", "cp /etc/passwd", "touch"] {
        for file in [key, "opt/udiImage/etc/user_auth_keys", "opt/udiImage/etc/sshd_config"] {
            let out = cluster.inside(0, "alice", &format!("{change} /{file}"));
            assert!(!out.status.success(), "{}", out.describe());
        }
    }
    let out = cluster.inside(
        0,
        "alice",
        "ls -nA /opt/udiImage/etc; ssh n2 'grep -E \"Cap|NoNewPrivs\" /proc/self/status'",
    );
    let out = out.success().unwrap();
    assert!(out.contains("NoNewPrivs:\t1") && !out.contains("CapBnd:\t000001"), "{out}");
    assert!(
        out.lines().filter(|line| line.contains("_key")).all(|line| line.contains(" 0        0 ")),
        "{out}"
    );
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn hosts_of_the_job_alone_get_the_jobs_settings_and_other_hosts_keep_theirs() {
    let cluster = cluster(2);
    let etc = common::cluster::tree(&cluster.machine).join("etc");
    // As a site has it since the original: all hosts, and a port and limits of its own.
    let client = "Host *\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nPort 2204\nLogLevel ERROR\n\
                  IdentityFile ~/.udiRoot/id_ed25519.key\nHost login\nUser somebody\n";
    fs::write(etc.join("ssh_config"), client).unwrap();
    let server = "Port 2204\nAllowUsers ToBeReplaced\nAuthorizedKeysFile /home/%u/.ssh/authorized_keys\n\
                  PasswordAuthentication yes\nPermitRootLogin yes\nSetEnv OF_SITE=yes\nForceCommand echo $OF_SITE $FROM_IMAGE $SSH_ORIGINAL_COMMAND\n";
    fs::write(etc.join("sshd_config"), server).unwrap();
    cluster.setup();
    assert_eq!(cluster.inside(0, "alice", "ssh n2 word").success().unwrap(), "yes a b\"c\\d word\n");
    let shown = |host: &str| cluster.inside(0, "alice", &format!("ssh -G {host}")).success().unwrap();
    assert!(shown("n2").contains("\nport 2204\n"));
    let login = shown("login");
    assert!(login.contains("\nport 22\n") && login.contains("user somebody\n"), "{login}");
    assert!(shown("git.example.org").contains("\nport 22\n"));
    assert!(
        cluster
            .inside(0, "alice", "grep -c 'Host n1 n2' /etc/ssh/ssh_config")
            .success()
            .unwrap()
            .contains('1')
    );
    let said = ssh(&cluster, "alice", &["-p", "2204", "-i", "/home/alice/none", "n1"]).failure(255).unwrap();
    assert!(said.contains("Permission denied (publickey)") || said.contains("Connection refused"), "{said}");
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn a_login_shell_that_the_image_lacks_is_replaced() {
    let cluster = cluster(1);
    cluster.machine.host("sed -i 's,^\\(alice:.*:\\)/bin/sh$,\\1/usr/bin/fish,' /etc/passwd");
    cluster.setup();
    let out = cluster.inside(0, "alice", "grep -c fish /etc/passwd; ssh n1 'echo $0 $SHELL'");
    assert_eq!(out.success().unwrap(), "1\nsh /bin/sh\n");
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn an_ssh_of_the_images_own_stays_and_knows_the_jobs_hosts() {
    let mut entries = shell_image();
    for entry in program_entries("usr/bin", &["ssh"]).unwrap() {
        if !entries.iter().any(|known| known.name == entry.name) {
            entries.push(entry);
        }
    }
    // Its settings would send it elsewhere.
    entries.extend([dir("etc/ssh"), file("etc/ssh/ssh_config", "Host *\nPort 7\n")]);
    let cluster = Cluster::new(Machine::new(&entries, ""), 2);
    cluster.setup();
    let script = "which ssh; cmp $(which ssh) /opt/udiImage/bin/ssh >/dev/null || echo another; ssh n2 hostname; \
                  ssh -G git.example.org | grep '^port'; ssh -v n2 true 2>&1 | grep -o 'kex: algorithm: [a-z0-9-]*'";
    let out = cluster.inside(0, "alice", script).success().unwrap();
    assert_eq!(out, "/usr/bin/ssh\nanother\nn2\nport 22\nkex: algorithm: curve25519-sha256\n");
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn sshd_starts_whatever_the_site_has_made_of_the_root() {
    let cluster = cluster(1);
    let machine = &cluster.machine;
    let hook = machine.script("hook.sh", "touch opt/udiImage/by-the-hook\n");
    let tree = common::cluster::tree(machine).display().to_string();
    let usual = [("optUdiImage", tree.as_str()), ("siteEnvAppend", "PATH=/opt/udiImage/bin")];
    let etc = "/opt/shifter-test/etc";
    machine.host(&format!("cp /etc/passwd /etc/group {etc}; echo 'passwd: files' > {etc}/nsswitch.conf"));
    for keys in [
        &[("rootfsType", "ramfs")][..],
        &[("mountUdiRootWritable", "0")],
        &[("module_m_roothook", hook.as_str()), ("defaultModules", "m")],
        &[("mountPropagationStyle", "slave")],
        &[("populateEtcDynamically", "0"), ("allowLibcPwdCalls", "0"), ("etcPath", etc)],
        &[("usersToImport", "bob")],
    ] {
        machine.sandbox.write_udiroot(&[&usual[..], keys].concat()).unwrap();
        cluster.setup();
        let out = cluster.inside(0, "alice", "ssh n1 'hostname; cat /var/hostsfile'");
        assert_eq!(out.success().unwrap(), "n1\nn1\nn1\n", "{keys:?}");
        cluster.unsetup();
    }
    cluster.machine.finish();
}

#[test]
fn a_second_job_on_a_node_gets_an_sshd_where_the_site_gives_it_a_port() {
    let cluster = cluster(1);
    cluster.setup();
    let program = cluster.machine.sandbox.program("setupRoot").unwrap().display().to_string();
    let key = fs::read_to_string("/home/bob/.udiRoot/id_ed25519.key.pub").unwrap();
    let bobs = [
        program.as_str(),
        "-U4202",
        "-G4202",
        "-ubob",
        "--job=2",
        "-Nn1/1",
        "-s",
        &key,
        "id",
        &cluster.machine.id,
    ];
    let said = cluster.root(0).run(&bobs).unwrap().failure(1).unwrap();
    let asks = "does another job's on this node have port 1204?";
    assert!(said.contains(asks) && !said.contains("Unsupported option"), "{said}");
    assert_eq!(cluster.inside(0, "alice", "ssh n1 hostname").success().unwrap(), "n1\n", "hers is untouched");
    let settings = common::cluster::tree(&cluster.machine).join("etc/sshd_config");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("Port 1204", "Port 1205")).unwrap();
    cluster.root(0).run(&bobs).unwrap().success().unwrap();
    let client = "ssh -p 1205 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
                  -i ~/.udiRoot/id_ed25519.key n1 'id -u'";
    assert_eq!(cluster.inside(0, "bob", client).success().unwrap(), "4202\n");
    // Each ends alone.
    let unsetup = cluster.machine.sandbox.program("unsetupRoot").unwrap().display().to_string();
    cluster.root(0).run(&[&unsetup, "--job=2"]).unwrap().success().unwrap();
    assert_eq!(cluster.keepers().len(), 1);
    assert_eq!(cluster.inside(0, "alice", "ssh -p 1204 n1 hostname").success().unwrap(), "n1\n");
    cluster.unsetup();
    cluster.machine.finish();
}

#[test]
fn the_nodes_own_root_as_image_has_an_sshd_too() {
    let cluster = cluster(2);
    let tree = common::cluster::tree(&cluster.machine).display().to_string();
    let keys = [
        ("optUdiImage", tree.as_str()),
        ("siteEnvAppend", "PATH=/opt/udiImage/bin"),
        ("allowLocalChroot", "1"),
    ];
    cluster.machine.sandbox.write_udiroot(&keys).unwrap();
    let program = cluster.machine.sandbox.program("setupRoot").unwrap().display().to_string();
    for node in 0..2 {
        let usual =
            [program.as_str(), "-U4201", "-G4201", "-ualice", "--job=1", "-Nn1/1 n2/1", "-s", &cluster.key];
        cluster.root(node).run(&[&usual[..], &["local", "/"]].concat()).unwrap().success().unwrap();
    }
    let words = cluster.machine.program(&[
        "-v",
        "--image=local:/",
        "sh",
        "-c",
        "ssh n2 'hostname; cat /var/hostsfile'",
    ]);
    let out = cluster.machine.as_user("alice").on(&cluster.nodes[0]).run(&words).unwrap();
    assert!(out.err().contains("joined     "), "{}", out.describe());
    assert_eq!(out.success().unwrap(), "n2\nn1\nn2\n");
    cluster.unsetup();
    cluster.machine.finish();
}
