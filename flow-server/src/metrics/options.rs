//! Options of single metrics.

use super::config::MetricName;

/// All of them; each metric has some.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Options {
    /// dns: a label with the name asked for.
    pub(super) query: bool,
    /// dns: queries for AAAA alone are not counted.
    pub(super) ignore_aaaa: bool,
    /// flows-to-world: drops of any reason.
    pub(super) any_drop: bool,
    /// flows-to-world: a label with the destination port.
    pub(super) port: bool,
    /// flows-to-world: of TCP, only what opens a connection.
    pub(super) syn_only: bool,
    /// http, httpV2: trace ids as exemplars.
    pub(super) exemplars: bool,
}

impl Options {
    /// Sets an option; returns whether this metric has it. `name` is in lower case.
    pub(super) fn set(&mut self, metric: MetricName, name: &str, value: &str) -> bool {
        use MetricName::{Dns, FlowsToWorld, Http, HttpV2};
        let is_on = !value.eq_ignore_ascii_case("false");
        let option = match (metric, name) {
            (Dns, "query") => &mut self.query,
            (Dns, "ignoreaaaa") => &mut self.ignore_aaaa,
            (FlowsToWorld, "any-drop") => &mut self.any_drop,
            (FlowsToWorld, "port") => &mut self.port,
            (FlowsToWorld, "syn-only") => &mut self.syn_only,
            (Http | HttpV2, "exemplars") => {
                self.exemplars = value.eq_ignore_ascii_case("true");
                return true;
            }
            _ => return false,
        };
        *option = is_on;
        true
    }
}
