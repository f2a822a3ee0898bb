//! The store of a machine that belongs to no cluster: there is nothing in it, and nothing is kept.

use super::{Contents, Key, Kind, Object, Store, StoreError};

/// No store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoStore;

impl Store for NoStore {
    fn list(&self) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }

    fn create(&self, _object: &Object) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn put(&self, _object: &Object) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete(&self, _kind: Kind, _key: &Key) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn identity(&self, _digest: &str, _labels: &[String]) -> Result<u32, StoreError> {
        Err(StoreError::None)
    }
}
