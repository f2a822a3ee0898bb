//! The registry that `/metrics` serves.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Content type of [`Metrics::encode`] (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry; what is added without a prefix gets `specola_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self { registry: Mutex::new(Registry::default()) }
    }

    /// Adds metrics with the prefix `specola_`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        self.register_as("specola", register)
    }

    /// Adds metrics with another prefix, which gets an underscore behind.
    pub fn register_as<T>(&self, prefix: &str, register: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        register(registry.sub_registry_with_prefix(prefix))
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// A collector failed to write.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn registered_metrics_are_encoded_with_the_prefix() {
        let metrics = Metrics::new();
        let packets = Counter::<u64>::default();
        metrics.register(|registry| registry.register("packets", "Packets", packets.clone()));
        packets.inc_by(3);
        let text = metrics.encode().expect("encodes");
        assert!(text.contains("specola_packets_total 3"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
