//! Hard images against an independent implementation: what the product makes of an OCI layout, mounted, is what
//! `umoci unpack` makes of it, except for the documented policy and for what a case's table of differences says.
//!
//! Needs `umoci`, `unsquashfs` and GNU tar. Deliberately not here: archives that the product refuses (attacks are in
//! `crates/shifter-layers/tests/hostile.rs`), and random stacks of layers, which have a reference of their own in
//! `crates/shifter-layers/tests/property.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod archives;
mod compare;
mod links;
mod names;
mod types;
mod whiteouts;

use compare::{Bench, Case, Differs};
use shifter_tests::fixture::{Entry, Layer};

/// Of most images no layer says what the root directory is.
const ROOT: &[&str] = &[""];

/// A case's name, its layers, and where we differ.
type Row<'a> = (&'a str, Vec<Vec<Entry>>, Differs<'a>);

fn check_all(rows: Vec<Row<'_>>) {
    let mut bench = Bench::new();
    for (name, layers, differs) in rows {
        let layers = layers.into_iter().map(Layer::new).collect();
        bench.check(Case { name, layers, differs, implied: ROOT });
    }
    bench.finish();
}
