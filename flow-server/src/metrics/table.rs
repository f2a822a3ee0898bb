//! The series of one metric family, with a bound on how many there may be.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
    net::IpAddr,
};

use specola_telemetry::prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, LabelSetEncoder, MetricEncoder},
    metrics::{
        MetricType,
        counter::ConstCounter,
        exemplar::{CounterWithExemplar, HistogramWithExemplars},
        histogram::Histogram,
    },
};

/// A label of a family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Label {
    pub(super) name: &'static str,
    /// Whether its values are few by nature: they stay when the family is full.
    is_few: bool,
}

impl Label {
    /// A label with a fixed set of values.
    pub(super) const fn few(name: &'static str) -> Self {
        Self { name, is_few: true }
    }

    /// A label that may have any number of values.
    pub(super) const fn many(name: &'static str) -> Self {
        Self { name, is_few: false }
    }
}

/// Pods that a series names, `namespace/name`.
pub(super) type Pods = [Option<Box<str>>; 2];

/// Values of all labels of a series, each with a byte behind that no text has.
#[derive(Debug, Default)]
pub(super) struct Key(Vec<u8>);

const END: u8 = 0xff;
/// Longer values are cut: a name in a packet may have any length.
const MAX_VALUE: usize = 512;

impl Key {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends to the value at hand.
    pub(super) fn push(&mut self, text: &str) {
        self.0.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(MAX_VALUE)]);
    }

    /// Appends a whole value.
    pub(super) fn value(&mut self, text: &str) {
        self.push(text);
        self.end();
    }

    /// Appends a whole value as it prints.
    pub(super) fn print(&mut self, value: impl fmt::Display) {
        write!(self, "{value}").expect("a key takes all that is written");
        self.end();
    }

    /// Appends a whole value as it prints, without what it begins with.
    pub(super) fn print_without(&mut self, prefix: &str, value: impl fmt::Display) {
        let start = self.0.len();
        write!(self, "{value}").expect("a key takes all that is written");
        if self.0[start..].starts_with(prefix.as_bytes()) {
            self.0.drain(start..start + prefix.len());
        }
        self.end();
    }

    /// Appends texts with commas between them.
    pub(super) fn join(&mut self, texts: &[String]) {
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            self.push(text);
        }
    }

    pub(super) fn push_ip(&mut self, address: Option<IpAddr>) {
        if let Some(address) = address {
            write!(self, "{address}").expect("a key takes all that is written");
        }
    }

    /// Ends the value.
    pub(super) fn end(&mut self) {
        self.0.push(END);
    }
}

impl fmt::Write for Key {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

/// What a family counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Counter,
    /// Seconds.
    Histogram,
}

/// Bucket bounds in seconds: those of Prometheus' own libraries.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Value of a label in the series that counts what has no series of its own.
const OTHER: &str = "other";
type TraceLabels = [(&'static str, String); 1];

/// One family.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: Vec<Label>,
    has_exemplars: bool,
    series: HashMap<Box<[u8]>, Series>,
    /// Series that take what has no place of its own; not part of the budget.
    others: HashMap<Box<[u8]>, Series>,
    limited: u64,
}

#[derive(Debug)]
struct Series {
    value: Value,
    pods: Pods,
    /// Since when a pod that it names is unknown, ns.
    gone_ns: Option<u64>,
}

#[derive(Debug)]
enum Value {
    Counter(u64),
    TracedCounter(CounterWithExemplar<TraceLabels>),
    Histogram(Histogram),
    TracedHistogram(HistogramWithExemplars<TraceLabels>),
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    /// Seconds, for a histogram.
    pub(super) seconds: f64,
    /// Trace id, empty without one.
    pub(super) trace_id: &'a str,
}

impl Sample<'_> {
    /// One event.
    pub(super) const ONE: Sample<'static> = Sample { seconds: 0.0, trace_id: "" };
}

impl Table {
    pub(super) fn new(
        (name, help, kind): (&'static str, &'static str, Kind),
        labels: Vec<Label>,
        has_exemplars: bool,
    ) -> Self {
        Self {
            name,
            help,
            kind,
            labels,
            has_exemplars,
            series: HashMap::new(),
            others: HashMap::new(),
            limited: 0,
        }
    }

    /// Adds labels behind the others.
    pub(super) fn extend_labels(&mut self, labels: Vec<Label>) {
        self.labels.extend(labels);
    }

    /// Takes an event into account; in a series with the label values `other` when there are `budget` series already.
    pub(super) fn add(&mut self, key: &Key, sample: Sample<'_>, budget: usize, pods: impl FnOnce() -> Pods) {
        if let Some(series) = self.series.get_mut(key.0.as_slice()) {
            return series.value.add(sample);
        }
        let is_full = self.series.len() >= budget;
        let (key, pods) =
            if is_full { (self.other_key(key), Pods::default()) } else { (key.0.clone(), pods()) };
        self.limited += u64::from(is_full);
        let map = if is_full { &mut self.others } else { &mut self.series };
        let new = || Series { value: Value::new(self.kind, self.has_exemplars), pods, gone_ns: None };
        map.entry(key.into_boxed_slice()).or_insert_with(new).value.add(sample);
    }

    fn other_key(&self, key: &Key) -> Vec<u8> {
        let mut other = Vec::with_capacity(key.0.len());
        for (label, value) in self.labels.iter().zip(key.0.split(|byte| *byte == END)) {
            other.extend_from_slice(if label.is_few { value } else { OTHER.as_bytes() });
            other.push(END);
        }
        other
    }

    /// Removes series that name pods which have been gone for `ttl_ns`.
    pub(super) fn remove_gone(&mut self, pods: &HashSet<String>, now_ns: u64, ttl_ns: u64) {
        self.series.retain(|_, series| {
            let is_gone = |pod: &str| !pods.contains(pod);
            if !series.pods.iter().flatten().any(|pod| is_gone(pod)) {
                series.gone_ns = None;
                return true;
            }
            let since_ns = *series.gone_ns.get_or_insert(now_ns);
            now_ns.saturating_sub(since_ns) < ttl_ns
        });
    }

    /// Whether any series names a pod.
    pub(super) fn names_pods(&self) -> bool {
        self.series.values().any(|series| series.pods.iter().any(Option::is_some))
    }

    /// Number of series, without those for the rest.
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    /// Events that had no series of their own.
    pub(super) const fn limited(&self) -> u64 {
        self.limited
    }

    pub(super) fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// Full name with the suffix of its kind.
    pub(super) fn full_name(&self) -> String {
        format!("hubble_{}{}", self.name, if self.kind == Kind::Counter { "_total" } else { "" })
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metric_type = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, None, metric_type)?;
        for (key, series) in self.series.iter().chain(&self.others) {
            series.value.encode(family.encode_family(&Values { labels: &self.labels, key })?)?;
        }
        Ok(())
    }
}

impl Value {
    fn new(kind: Kind, has_exemplars: bool) -> Self {
        match (kind, has_exemplars) {
            (Kind::Counter, false) => Self::Counter(0),
            (Kind::Counter, true) => Self::TracedCounter(CounterWithExemplar::default()),
            (Kind::Histogram, false) => Self::Histogram(Histogram::new(BUCKETS)),
            (Kind::Histogram, true) => {
                Self::TracedHistogram(HistogramWithExemplars::new(BUCKETS.into_iter()))
            }
        }
    }

    fn add(&mut self, sample: Sample<'_>) {
        let trace = || (!sample.trace_id.is_empty()).then(|| [("traceID", sample.trace_id.to_owned())]);
        match self {
            Self::Counter(count) => *count += 1,
            Self::TracedCounter(counter) => drop(counter.inc_by(1, trace(), None)),
            Self::Histogram(histogram) => histogram.observe(sample.seconds),
            Self::TracedHistogram(histogram) => histogram.observe(sample.seconds, trace(), None),
        }
    }

    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(count) => ConstCounter::new(*count).encode(encoder),
            Self::TracedCounter(counter) => counter.encode(encoder),
            Self::Histogram(histogram) => histogram.encode(encoder),
            Self::TracedHistogram(histogram) => histogram.encode(encoder),
        }
    }
}

/// Label names with the values of a key.
struct Values<'a> {
    labels: &'a [Label],
    key: &'a [u8],
}

impl EncodeLabelSet for Values<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let pairs = self.labels.iter().zip(self.key.split(|byte| *byte == END));
        for (label, value) in pairs {
            let text = std::str::from_utf8(value).map_err(|_not_text| fmt::Error)?;
            specola_telemetry::prometheus_client::encoding::EncodeLabel::encode(
                &(label.name, text),
                encoder.encode_label(),
            )?;
        }
        Ok(())
    }
}
