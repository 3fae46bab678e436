//! The configuration that holds at the moment, shared by all that read it; a reload replaces it for all at once.
//!
//! A configuration that was replaced is kept until the process ends: what runs, runs on with the references it has.
//! That is some kilobytes per change, and spares every reader a lifetime.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Config;

/// The configuration in force.
#[derive(Clone)]
pub(crate) struct Live(Arc<RwLock<&'static Config>>);

impl Live {
    pub(crate) fn new(config: Config) -> Live {
        Live(Arc::new(RwLock::new(Box::leak(Box::new(config)))))
    }

    /// The configuration of this moment, for what must not see two.
    pub(crate) fn now(&self) -> &'static Config {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another one in its place, unless it says the same: then nothing is to be kept.
    pub(crate) fn replace(&self, config: Config) {
        if config == *self.now() {
            return;
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Box::leak(Box::new(config));
    }
}

impl Deref for Live {
    type Target = Config;

    fn deref(&self) -> &Config {
        self.now()
    }
}
