//! The image gateway: pulls container images from registries and publishes them for the nodes.

mod acl;
mod catalog;
mod config;
mod model;

fn main() {}
