//! Docker Registry v2 / OCI distribution client with a verified blob cache.
//!
//! One [`Client`] serves one caller and one registry: it is made for a job, holds that caller's credentials
//! and nobody else's, and is dropped with the job. Every byte that leaves this crate was checked against a
//! digest: manifests and configurations in memory, layers while they stream into a [`BlobCache`].
//!
//! What it deliberately does not do: push, delete or list anything; read schema 1 manifests; fetch from the
//! `urls` a manifest names (a manifest must not be able to send the gateway anywhere); decompress or read
//! layers; remember credentials between callers; decide who may see an image (the gateway does, from the
//! fact that [`Client::head`] or [`Client::resolve`] succeeded with the caller's own credentials).
//!
//! A layer's digest is a capability: whoever presents a manifest naming it gets it from a shared cache, as in
//! every content-addressed store. Digests of layers must therefore be shown to nobody but those who could
//! read the manifest.
//!
//! ```no_run
//! # async fn pull() -> Result<(), shifter_registry::RegistryError> {
//! use shifter_registry::{BlobCache, Client, Location, Platform, Settings};
//!
//! // Once per registry; for each job `for_caller` with that caller's credentials.
//! let registry = Client::new(Location::named("quay.io"), None, Settings::default())?;
//! let client = registry.for_caller(None);
//! let image = client.resolve("org/image", "1.0", &Platform::linux("amd64")).await?;
//! let cache = BlobCache::open("/var/cache/shifter/blobs".as_ref())?;
//! for layer in &image.layers {
//!     let blob = cache.fetch(&client, "org/image", layer, &|p| println!("{}/{}", p.received, p.total)).await?;
//!     println!("{}", blob.path().display());
//! }
//! # Ok(())
//! # }
//! ```

mod auth;
mod backoff;
mod cache;
mod challenge;
mod client;
mod collect;
mod config;
mod download;
mod error;
mod hash;
mod hold;
mod layout;
mod location;
mod lock;
mod manifest;
mod platform;
mod policy;
mod probe;
mod redirect;
mod registries;
mod resolver;
mod settings;
mod source;
mod token;
mod transport;
mod writer;

pub use cache::{Blob, BlobCache, Progress};
pub use client::{Client, Head, Resolved};
pub use collect::{Collected, Contents, Entry};
pub use config::ImageConfig;
pub use error::RegistryError;
pub use layout::{LocalImage, LocalLayer, open_layout};
pub use location::{AuthMethod, Credentials, Location, Mirror};
pub use manifest::{Compression, LayerDescriptor};
pub use platform::Platform;
pub use policy::Policy;
pub use probe::Verdict;
pub use registries::Registries;
pub use settings::Settings;
