//! What the original's documented jobs name: programs in an image, paths of a cluster, and clusters with ssh in their
//! containers.

use super::shell_image;
use super::slurm::{SlurmSite, offer_openssh};
use shifter_tests::fixture::{Entry, file, program_entries};
use shifter_tests::harness::SlurmOptions;

/// What a node needs for `--ccm`: what lies on file systems of its own is seen by siteFs, as in any container.
pub const CCM: [(&str, &str); 3] = [
    ("usersToImport", "slurm"),
    ("allowLocalChroot", "1"),
    ("siteFs", "/home:/home;/opt/shifter-test:/opt/shifter-test:rec;/run:/run;/etc/slurm:/etc/slurm"),
];

/// The documents' image: their programs, as far as a shell can stand for them, in its PATH.
pub fn image() -> Vec<Entry> {
    let program =
        |name: &str, text: &str| file(format!("bin/{name}"), format!("#!/bin/sh\n{text}")).mode(0o755);
    let mut entries = shell_image();
    entries.extend([
        program("hello", "echo hello from $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME\n"),
        program("mpiExecutable.sh", "echo rank $SLURM_PROCID of $SLURM_NTASKS\n"),
        program(
            "threadedExecutable",
            "cat $1/baseData > $2/result; echo $OMP_NUM_THREADS threads >> $2/result\n",
        ),
        program("yourExecutable", "echo mine on $(hostname)\n"),
        program("python", "[ -e $2/result ] && echo $1 of $2 > $2/processed\n"),
    ]);
    // The scripts' own shell.
    for entry in program_entries("bin", &["bash"]).unwrap() {
        entries.retain(|known| known.name != entry.name);
        entries.push(entry);
    }
    entries
}

/// A document moved into the test's cluster.
pub fn at_home(text: &str, id: &str) -> String {
    let replaced = [
        ("docker:yourRepo/yourImage:latest", format!("id:{id}")),
        ("$hostname shifter", "$hostname /opt/shifter-test/bin/shifter".to_owned()),
        ("dmjacobsen/mpitest:latest", format!("id:{id}")),
        ("/scratch/sd/you", "/home/alice".to_owned()),
        ("/usr/bin/shifter", "/opt/shifter-test/bin/shifter".to_owned()),
    ];
    replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A cluster with OpenSSH below optUdiImage.
pub fn site_with_ssh(nodes: usize, arguments: &str, keys: &[(&str, &str)]) -> SlurmSite {
    site_with_ssh_told(nodes, arguments, keys, Vec::new())
}

/// The same with more lines of slurm.conf.
pub fn site_with_ssh_told(
    nodes: usize,
    arguments: &str,
    keys: &[(&str, &str)],
    more: Vec<(&'static str, String)>,
) -> SlurmSite {
    site_with_ssh_as(SlurmOptions { nodes, cpus: 4, more, ..SlurmOptions::default() }, arguments, keys)
}

/// The same with all that Slurm may be told.
pub fn site_with_ssh_as(options: SlurmOptions, arguments: &str, keys: &[(&str, &str)]) -> SlurmSite {
    SlurmSite::with(arguments, options, |sandbox, _| {
        offer_openssh(sandbox, keys);
    })
}
