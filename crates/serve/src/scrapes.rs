//! How often metrics are asked for, and how long that takes; with Hubble's names.

use std::time::Duration;

use specola_telemetry::prometheus_client::metrics::counter::Counter;
use specola_telemetry::prometheus_client::metrics::family::Family;
use specola_telemetry::prometheus_client::metrics::histogram::Histogram;
use specola_telemetry::prometheus_client::registry::Registry;

/// Counts requests for metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scrapes {
    requests: Family<Code, Counter>,
    seconds: Family<Code, Histogram, fn() -> Histogram>,
}

/// The label.
type Code = [(&'static str, u32); 1];

/// Prometheus' default buckets, seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Default for Scrapes {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl Scrapes {
    /// Adds `metrics_http_handler_requests_total` and `metrics_http_handler_request_duration_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests for metrics, by status code";
        registry.register("metrics_http_handler_requests", help, self.requests.clone());
        let help = "Time that it took to answer a request for metrics, by status code";
        registry.register("metrics_http_handler_request_duration_seconds", help, self.seconds.clone());
    }

    /// Counts an answer with this status code.
    pub(crate) fn note(&self, code: u16, took: Duration) {
        let code: Code = [("code", code.into())];
        self.requests.get_or_create(&code).inc();
        self.seconds.get_or_create(&code).observe(took.as_secs_f64());
    }
}
