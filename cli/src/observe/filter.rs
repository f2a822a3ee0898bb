//! From filter flags to the white and black list of a request.

use specola_proto::flow::FlowFilter;

use super::flags::Given;

/// Which end of a flow a flag is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// Either one, or the flow as a whole.
    Any,
    /// The source.
    From,
    /// The destination.
    To,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A value that its flag does not take.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidValue(String);

impl InvalidValue {
    /// Makes one from the end of a sentence that starts with flag and value.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// Whether a value was added to a filter.
pub(crate) type Outcome = Result<(), InvalidValue>;

/// Why filter flags make no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidFilter {
    /// A value is wrong.
    #[error("--{flag} {value:?} {cause}")]
    Value {
        /// Name of the flag.
        flag: &'static str,
        /// What was typed.
        value: String,
        /// What is wrong with it.
        cause: InvalidValue,
    },
    /// Two flags say different things about the same end.
    #[error("filters --{new} and --{earlier} cannot be combined")]
    Conflict {
        /// The later flag.
        new: &'static str,
        /// The earlier one.
        earlier: &'static str,
    },
    /// A pod or service names its namespace although a flag does too.
    #[error("{name:?} names a namespace already and cannot be combined with a namespace filter")]
    TwoNamespaces {
        /// What was typed.
        name: String,
    },
}

/// The filters of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filters {
    /// One of these must match; empty: everything passes.
    pub(crate) allow: Vec<FlowFilter>,
    /// None of these may match.
    pub(crate) deny: Vec<FlowFilter>,
}

/// Compiles the flags: plain ones into the allow list, those behind `--not` into the deny list.
///
/// # Errors
/// A value is wrong, or flags contradict each other.
pub(crate) fn compile(given: &[Given]) -> Result<Filters, InvalidFilter> {
    let (mut allow, mut deny) = (FilterBuilder::default(), FilterBuilder::default());
    for one in given {
        let builder = if one.negated { &mut deny } else { &mut allow };
        builder.note(one.flag.name)?;
        (one.flag.set)(builder, one.flag.side, &one.value).map_err(|cause| InvalidFilter::Value {
            flag: one.flag.name,
            value: one.value.clone(),
            cause,
        })?;
    }
    Ok(Filters { allow: allow.finish()?, deny: deny.finish()? })
}

/// Pods, services and namespaces of one end, joined when all flags are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Pod name prefixes.
    pub(crate) pods: Vec<String>,
    /// Service name prefixes.
    pub(crate) services: Vec<String>,
    /// Namespaces; an empty one stands for any.
    pub(crate) namespaces: Vec<String>,
}

/// Collects the flags of one list.
///
/// A flag about either end goes to the source in `left` and to the destination in `right`; every other flag goes to both.
#[derive(Debug, Default)]
pub(crate) struct FilterBuilder {
    left: Half,
    right: Half,
    seen: Vec<&'static str>,
}

#[derive(Debug, Default)]
struct Half {
    filter: FlowFilter,
    source: Names,
    destination: Names,
}

impl FilterBuilder {
    /// Changes the filters of both halves.
    pub(crate) fn both(&mut self, change: impl Fn(&mut FlowFilter)) {
        change(&mut self.left.filter);
        change(&mut self.right.filter);
    }

    /// Changes the filter of each half at the end that the side means there.
    pub(crate) fn each(&mut self, side: Side, change: impl Fn(&mut FlowFilter, End)) {
        let (left, right) = ends(side);
        change(&mut self.left.filter, left);
        change(&mut self.right.filter, right);
    }

    /// Changes the names of each half at the end that the side means there.
    pub(crate) fn names(&mut self, side: Side, change: impl Fn(&mut Names)) {
        let (left, right) = ends(side);
        change(self.left.names(left));
        change(self.right.names(right));
    }

    /// Remembers a flag, unless an earlier one contradicts it.
    fn note(&mut self, new: &'static str) -> Result<(), InvalidFilter> {
        let conflicts = |earlier: &&&str| **earlier != new && conflicts(new, earlier);
        if let Some(earlier) = self.seen.iter().find(conflicts) {
            return Err(InvalidFilter::Conflict { new, earlier });
        }
        self.seen.push(new);
        Ok(())
    }

    fn finish(self) -> Result<Vec<FlowFilter>, InvalidFilter> {
        if self.seen.is_empty() {
            return Ok(Vec::new());
        }
        let (left, right) = (self.left.finish()?, self.right.finish()?);
        Ok(if left == right { vec![left] } else { vec![left, right] })
    }
}

impl Half {
    fn names(&mut self, end: End) -> &mut Names {
        match end {
            End::Source => &mut self.source,
            End::Destination => &mut self.destination,
        }
    }

    fn finish(self) -> Result<FlowFilter, InvalidFilter> {
        let mut filter = self.filter;
        (filter.source_pod, filter.source_service) = self.source.join()?;
        (filter.destination_pod, filter.destination_service) = self.destination.join()?;
        Ok(filter)
    }
}

impl Names {
    /// The pod and the service filters. A namespace alone stands for all of its pods.
    fn join(self) -> Result<(Vec<String>, Vec<String>), InvalidFilter> {
        let Self { pods, services, namespaces } = self;
        if namespaces.is_empty() {
            return Ok((pods, services));
        }
        if let Some(name) = pods.iter().chain(&services).find(|name| name.contains('/')) {
            return Err(InvalidFilter::TwoNamespaces { name: name.clone() });
        }
        let alone = pods.is_empty() && services.is_empty();
        let within = |names: &[String]| -> Vec<String> {
            let join = |namespace: &String| {
                names.iter().map(move |name| format!("{namespace}/{name}")).collect::<Vec<_>>()
            };
            namespaces.iter().flat_map(join).collect()
        };
        let pods = if alone { within(&[String::new()]) } else { within(&pods) };
        Ok((pods, within(&services)))
    }
}

const fn ends(side: Side) -> (End, End) {
    match side {
        Side::Any => (End::Source, End::Destination),
        Side::From => (End::Source, End::Source),
        Side::To => (End::Destination, End::Destination),
    }
}

fn conflicts(one: &str, other: &str) -> bool {
    CONFLICTS.iter().any(|group| group.contains(&one) && group.contains(&other))
}

/// Flags of one group exclude each other.
const CONFLICTS: &[&[&str]] = &[
    &["from-fqdn", "from-ip", "from-pod", "fqdn", "ip", "pod"],
    &["to-fqdn", "to-ip", "to-pod", "fqdn", "ip", "pod"],
    &[
        "from-fqdn",
        "from-ip",
        "fqdn",
        "ip",
        "from-namespace",
        "namespace",
        "from-all-namespaces",
        "all-namespaces",
    ],
    &["to-fqdn", "to-ip", "fqdn", "ip", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-pod", "namespace", "all-namespaces"],
    &["pod", "from-namespace", "from-all-namespaces"],
    &["pod", "to-namespace", "to-all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "from-port"],
    &["port", "to-port"],
    &["identity", "from-identity"],
    &["identity", "to-identity"],
    &["workload", "from-workload"],
    &["workload", "to-workload"],
    &["cluster", "from-cluster"],
    &["cluster", "to-cluster"],
    &["encrypted", "unencrypted"],
];
