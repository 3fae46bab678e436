//! Jobs with images on a real cluster: prepared once per node, joined by every task, gone with the job.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slurm::SlurmSite;

#[test]
fn a_jobs_tasks_join_the_container_that_was_prepared_on_each_node() {
    let site = SlurmSite::new(2, "");
    let script = format!(
        "#!/bin/bash\n#SBATCH {}\n#SBATCH -N2 -n3 --exclusive\n\
         srun shifter -v sh -c 'cat /etc/which; echo tasks on $(uname -n): $(cat /var/hostsfile | tr \"\\n\" \" \")'\n\
         echo $SHIFTER_IMAGETYPE $SHIFTER_IMAGEREQUEST $SLURM_SPANK_SHIFTER_IMAGE\n",
        site.image()
    );
    let out = site.batch_well("alice", &[], &script);
    assert_eq!(out.matches("joined     the container prepared for this job").count(), 3, "{out}");
    assert_eq!(out.matches("first\n").count(), 3, "{out}");
    assert_eq!(out.matches("tasks on node1: node1 node1 node2").count(), 2, "{out}");
    assert_eq!(out.matches("tasks on node2: node1 node1 node2").count(), 1, "{out}");
    assert!(out.contains(&format!("id {0} {0}\n", site.id)), "{out}");
    site.cluster.wait_until_idle(&site.sandbox).unwrap();
    assert_eq!((site.containers(1).as_str(), site.containers(2).as_str()), ("", ""));
    site.finish();
}
