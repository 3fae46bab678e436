//! The workbench's own library: image fixtures ([`fixture`]) and the sandbox in which the product's programs are
//! run as a site would run them ([`harness`]).
//!
//! Why a library: the end-to-end tests, the `shifter-fixture` program and `./quickstart` share one way of making
//! images, so what a newcomer sees first is what the tests check. It deliberately links no crate of the product:
//! a bug shared by product and test would be invisible.

pub mod fixture;
pub mod harness;
