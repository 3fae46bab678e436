//! A machine of its own for each test: private mounts, accounts, daemons, and proof that nothing is left over.
//!
//! Why: the product is setuid, mounts file systems and talks to daemons, so it is tested as installed, by ordinary
//! users, against real parts. Everything a test writes lies on file systems that only its mount namespace knows;
//! even a killed test leaves nothing on the host. Deliberately not isolated: the network, loop devices and process
//! ids, because the leak check must see the real ones.

mod accounts;
mod command;
mod daemon;
mod gateway;
mod images;
mod leak;
mod minter;
mod mongo;
mod munged;
mod namespace;
mod network;
mod nodes;
mod postgres;
mod proxies;
mod registry;
mod sandbox;
mod slowed;
mod slurm;
mod squashed;
mod sshd;
mod tokens;

pub use accounts::Account;
pub use command::{Outcome, UserCommand};
pub use daemon::DaemonId;
pub use gateway::{Gateway, GatewayOptions, Location};
pub use minter::Minter;
pub use mongo::Mongo;
pub use munged::Munged;
pub use network::{FarHost, enter_own_network};
pub use nodes::Node;
pub use postgres::Postgres;
pub use proxies::{Proxy, ProxyKind};
pub use registry::{Registry, RegistryOptions};
pub use sandbox::Sandbox;
pub use slurm::{Cluster, SlurmOptions};
pub use squashed::RootSquashed;
pub use sshd::{Keys, Sshd, SshdOptions};
pub use tokens::TokenService;
