//! Loading programs as another build would, which only tests want.

use crate::load::migrate::{self, Build};
use crate::{Config, Datapath, LoadError};

impl Datapath {
    /// [`Self::load`] with programs from another object than the built-in one.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_object(config: &Config, object: &[u8]) -> Result<Self, LoadError> {
        Self::load_from(config, object, &migrate::THIS)
    }

    /// [`Self::load`] as another build of this program would do it.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_build(config: &Config, object: &[u8], build: &Build) -> Result<Self, LoadError> {
        Self::load_from(config, object, build)
    }
}
