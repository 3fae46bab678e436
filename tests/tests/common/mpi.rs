//! A program for every MPI, and images that bring what it needs.

use super::shell_image;
use shifter_tests::fixture::Entry;

/// Every rank says where it is and adds its number to the others'.
pub const PROGRAM: &str = r#"
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv) {
    int rank, size, sum, length;
    char name[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &length);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("%d of %d on %s: %d\n", rank, size, name, sum);
    MPI_Finalize();
    return 0;
}
"#;

/// A shell image with these in it.
pub fn image(more: Vec<Entry>) -> Vec<Entry> {
    let mut entries = shell_image();
    for entry in more {
        if !entries.iter().any(|known| known.name == entry.name) {
            entries.push(entry);
        }
    }
    entries
}

/// That two ranks on each of these nodes, named by a word and a number from 1, found each other.
pub fn assert_ranks(out: &str, size: usize, node: &str, said: &str) {
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let sum: usize = (0..size).sum();
    let line = |rank: usize| format!("{rank} of {size} on {node}{}: {sum}", rank / 2 + 1);
    let expected: Vec<String> = (0..size).map(line).collect();
    assert_eq!(lines, expected, "{out}{said}");
}
