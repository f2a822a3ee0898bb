//! Flow metrics as the admin API shows them.

use specola_flow_server::{Cardinality, ConsumerCounts};
use specola_proto::specola::v1 as pb;

/// Families and readers.
pub(super) fn show(families: Vec<Cardinality>, consumers: Vec<ConsumerCounts>) -> pb::ListMetricsResponse {
    let family = |family: Cardinality| pb::MetricFamily {
        metric: family.metric.to_owned(),
        options: family.options,
        name: family.family,
        labels: family.labels.into_iter().map(str::to_owned).collect(),
        series: family.series,
        budget: family.budget,
        limited: family.limited,
    };
    let consumer = |counts: ConsumerCounts| pb::FlowConsumer {
        seen: counts.seen(),
        name: counts.name,
        delivered: counts.delivered,
        filtered: counts.filtered,
        failed: counts.failed,
        lost: counts.lost,
        waiting: counts.waiting,
    };
    pb::ListMetricsResponse {
        families: families.into_iter().map(family).collect(),
        consumers: consumers.into_iter().map(consumer).collect(),
    }
}
