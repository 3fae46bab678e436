//! What a pull says of how far it is, in one line for whoever waits. Knows nothing of how it gets there.

/// Layers that need not be fetched; of each other one, bytes received, and in all.
pub(super) fn pulling_line(kept: usize, layers: impl Iterator<Item = (u64, u64)>) -> String {
    let (mut count, mut done, mut got, mut total) = (kept, kept, 0, 0);
    for (received, size) in layers {
        count += 1;
        done += usize::from(received >= size);
        got += received.min(size);
        total += size;
    }
    format!("Pulling layers, {done} of {count} complete, {} of {} MB", megabytes(got), megabytes(total))
}

pub(super) fn converting_line(is_kept: bool, begun: usize, of: usize, read: u64, total: u64) -> String {
    let doing = if is_kept { "Reusing" } else { "Converting" };
    format!("{doing} layer {begun} of {of}, {} of {} MB", megabytes(read.min(total)), megabytes(total))
}

/// Bytes that one host has, and hosts that have all.
pub(super) fn transferring_line(bytes: u64, hosts: usize) -> String {
    format!("Transferring image to host {}, {} MB", hosts + 1, megabytes(bytes))
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_all_layers_at_once() {
        let line = |layers: &[(u64, u64)]| pulling_line(0, layers.iter().copied());
        assert_eq!(line(&[]), "Pulling layers, 0 of 0 complete, 0.0 of 0.0 MB");
        let some = [(1_000_000, 1_000_000), (250_000, 2_000_000), (0, 500_000)];
        assert_eq!(line(&some), "Pulling layers, 1 of 3 complete, 1.2 of 3.5 MB");
        // A registry that sends more than it promised is refused elsewhere; here it must not look absurd.
        assert_eq!(line(&[(9_000_000, 1_000_000)]), "Pulling layers, 1 of 1 complete, 1.0 of 1.0 MB");
        let some = pulling_line(2, [(250_000, 2_000_000)].into_iter());
        assert_eq!(some, "Pulling layers, 2 of 3 complete, 0.2 of 2.0 MB");
        let line = converting_line(false, 2, 3, 4_560_000, 12_000_000);
        assert_eq!(line, "Converting layer 2 of 3, 4.5 of 12.0 MB");
        assert_eq!(converting_line(true, 3, 3, 0, 0), "Reusing layer 3 of 3, 0.0 of 0.0 MB");
    }
}
