//! How far each layer of an image is: what clients are told who want to know which one it is that does not come. Knows
//! nothing of how layers are fetched and converted.

use shifter_api::wire::LayerProgress;

const WAITING: &str = "waiting";
const FETCHING: &str = "fetching";
const FETCHED: &str = "fetched";
const REMEMBERED: &str = "remembered";
const CONVERTING: &str = "converting";
const CONVERTED: &str = "converted";

/// What is there of a layer before anything is done.
pub(super) enum There {
    Nothing,
    Blob,
    /// What an earlier image has of it.
    Converted,
}

/// A layer of so many bytes that nothing was done with yet.
pub(super) fn new(digest: String, size: u64, there: There) -> LayerProgress {
    let (stage, done, total) = match there {
        There::Nothing => (WAITING, 0, size),
        There::Blob => (FETCHED, size, size),
        There::Converted => (REMEMBERED, 0, 0),
    };
    LayerProgress { digest, stage: stage.to_owned(), done, total }
}

/// So many bytes of a layer, by number, have come.
pub(super) fn received(layers: &mut [LayerProgress], number: usize, bytes: u64) {
    set(layers.get_mut(number), FETCHING, bytes);
}

/// A layer, by number, is there and verified.
pub(super) fn fetched(layers: &mut [LayerProgress], number: usize) {
    set(layers.get_mut(number), FETCHED, u64::MAX);
}

/// Of the layers, newest first, so many were begun to be converted, and so many bytes of them read.
pub(super) fn converted(layers: &mut [LayerProgress], begun: usize, read: u64) {
    let mut left = read;
    for (place, layer) in layers.iter_mut().rev().take(begun).enumerate() {
        let bytes = layer.total;
        match place + 1 < begun {
            true => set(Some(layer), CONVERTED, u64::MAX),
            false => set(Some(layer), CONVERTING, left),
        }
        left = left.saturating_sub(bytes);
    }
}

fn set(layer: Option<&mut LayerProgress>, stage: &str, done: u64) {
    let Some(layer) = layer else { return };
    // Told for every block that arrives.
    if layer.stage != stage {
        layer.stage = stage.to_owned();
    }
    // A registry that sends more than it promised is refused elsewhere.
    layer.done = done.min(layer.total);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_does_not_come_is_the_one_that_says_so() {
        let layer = |number: u64, there| new(format!("{number}"), number * 100, there);
        let mut layers = vec![
            layer(1, There::Nothing),
            layer(2, There::Nothing),
            layer(3, There::Converted),
            layer(4, There::Blob),
            layer(5, There::Nothing),
        ];
        let shown = |layers: &[LayerProgress]| -> Vec<String> {
            layers.iter().map(|l| format!("{} {} {}/{}", l.digest, l.stage, l.done, l.total)).collect()
        };
        let oldest = ["1 waiting 0/100", "2 waiting 0/200", "3 remembered 0/0", "4 fetched 400/400"];
        assert_eq!(shown(&layers), [&oldest[..], &["5 waiting 0/500"]].concat());
        received(&mut layers, 1, 70);
        received(&mut layers, 4, 499);
        fetched(&mut layers, 4);
        received(&mut layers, 9, 1);
        assert_eq!(shown(&layers)[1], "2 fetching 70/200");
        converted(&mut layers, 1, 123);
        assert_eq!(shown(&layers)[3..], ["4 fetched 400/400", "5 converting 123/500"]);
        converted(&mut layers, 2, 501);
        assert_eq!(shown(&layers)[3..], ["4 converting 1/400", "5 converted 500/500"]);
        converted(&mut layers, 3, 900);
        let newest = ["3 converting 0/0", "4 converted 400/400", "5 converted 500/500"];
        assert_eq!(shown(&layers), [&["1 waiting 0/100", "2 fetching 70/200"], &newest[..]].concat());
        received(&mut layers, 1, 1000);
        assert_eq!(shown(&layers)[1], "2 fetching 200/200");
        converted(&mut layers, 9, 2000);
        assert!(layers.iter().all(|layer| layer.stage == CONVERTED && layer.done == layer.total));
    }
}
