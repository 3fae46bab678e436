//! Real MPI programs whose ranks Slurm starts in a job's prepared container, on two nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::mpi::{PROGRAM, assert_ranks, image};
use common::slurm::SlurmSite;
use shifter_tests::fixture::{Entry, host_entries, program_entries};
use shifter_tests::harness::SlurmOptions;
use std::fs;
use std::path::PathBuf;

/// What is needed of Open MPI and PMIx: their libraries and plugins, but not those for networks that are not here.
fn open_mpi() -> Vec<Entry> {
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let elsewhere = ["ucx", "ofi", "psm", "openib", "flux", "verbs"];
    let mut files: Vec<PathBuf> = vec!["/usr/bin/ompi_info".into()];
    for directory in ["openmpi/lib/openmpi3", "pmix2/lib/pmix"] {
        let found = fs::read_dir(format!("{libraries}/{directory}"))
            .expect("Open MPI and PMIx: libopenmpi3, libpmix2");
        let found = found.map(|entry| entry.unwrap().path());
        files.extend(found.filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(".so") && !elsewhere.iter().any(|network| name.contains(network))
        }));
    }
    host_entries(&files).unwrap()
}

/// The directory that slurmd keeps what belongs to jobs in, the same in containers.
const SITE_FS: &str = include_str!("../documents/udiRoot.conf.pmix");

/// A cluster of two nodes with an image, and the program in alice's home, compiled by this compiler.
fn site(entries: &[Entry], compiler: &str) -> (SlurmSite, String) {
    let spool = ("SlurmdSpoolDir", "/var/spool/slurmd".to_owned());
    let options = SlurmOptions { nodes: 2, more: vec![spool], ..SlurmOptions::default() };
    let site = SlurmSite::with("", options, |_, _| {});
    let image = site.sandbox.install_image(entries, "").unwrap();
    fs::write("/home/alice/sum.c", PROGRAM).unwrap();
    site.run("alice", &[compiler, "-o", "sum", "sum.c"]).success().unwrap();
    (site, format!("--image=id:{image}"))
}

/// Runs the program as a job of four tasks on two nodes, in the container made for it: what is said besides ranks.
fn ranks_well(site: &SlurmSite, image: &str, kind: &str) -> String {
    let script = format!("srun --mpi={kind} shifter --verbose ~/sum 2>~/err\n");
    let out = site.batch_well("alice", &["-N2", "-n4", "--exclusive", image], &script);
    let said = fs::read_to_string("/home/alice/err").unwrap();
    assert_ranks(&out, 4, "node", &said);
    assert_eq!(said.matches("joined     the container prepared for this job").count(), 4, "{said}");
    said
}

#[test]
fn ranks_of_mpich_find_each_other_by_pmi2() {
    // What mpichversion is linked with is what every MPICH program is.
    let (site, image) = site(&image(program_entries("usr/bin", &["mpichversion"]).unwrap()), "mpicc.mpich");
    ranks_well(&site, &image, "pmi2");
    site.finish();
}

#[test]
fn ranks_of_open_mpi_find_each_other_by_pmix_and_share_what_slurmd_knows() {
    let (site, image) = site(&image(open_mpi()), "mpicc.openmpi");
    // Without slurmd's directory they ask slurmd for everything, and complain.
    let said = ranks_well(&site, &image, "pmix");
    assert!(said.contains("PMIX ERROR"), "{said}");
    let (key, value) = SITE_FS.trim().split_once('=').unwrap();
    site.sandbox.write_udiroot(&[(key, value)]).unwrap();
    let said = ranks_well(&site, &image, "pmix");
    assert!(!said.contains("ERROR"), "{said}");
    site.finish();
}
