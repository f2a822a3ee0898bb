//! What to count, as text: `name[:option[=value][;option[=value]]...]`, entries apart by spaces or commas.

use std::fmt;

use specola_flow::{FilterSet, InvalidFilter};
use specola_proto::flow::FlowFilter;

use super::{context::Contexts, options::Options};

/// Why a configuration of metrics cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MetricsConfigError {
    /// A context that does not exist.
    #[error(
        "metric {metric}: {option}: unknown context \"{value}\"; there are identity, namespace, pod, pod-name, \
         pod-short, dns, ip, reserved-identity, workload-name, app"
    )]
    Context {
        /// The metric.
        metric: String,
        /// The option.
        option: String,
        /// What was given.
        value: String,
    },
    /// A label that does not exist.
    #[error("metric {metric}: invalid labelsContext value: {value}")]
    Label {
        /// The metric.
        metric: String,
        /// What was given.
        value: String,
    },
    /// A flow filter that cannot be compiled.
    #[error("metric {metric}: {cause}")]
    Filter {
        /// The metric.
        metric: String,
        /// What is wrong with it.
        cause: InvalidFilter,
    },
    /// Two metrics that register the same families.
    #[error("plugin {one} conflicts with plugin {other}: configure one of them")]
    Conflict {
        /// One of them.
        one: MetricName,
        /// The other.
        other: MetricName,
    },
    /// The same metric twice.
    #[error("metric {0} is configured twice: merge the entries")]
    Twice(MetricName),
    /// The labels of a running metric cannot change.
    #[error(
        "metric {0}: its contextOptions changed while it runs: remove the metric first, then add it again"
    )]
    LabelsChanged(MetricName),
    /// The file is no such configuration.
    #[error("read the metrics configuration: {0}")]
    Yaml(String),
    /// An entry of the file without a name.
    #[error("metrics[{0}]: an entry needs a name")]
    Unnamed(usize),
}

/// Declares the metrics that can be asked for.
macro_rules! metrics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A metric by the name that configurations use.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum MetricName { $($(#[$doc])* $variant,)* }

        impl MetricName {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

metrics! {
    /// DNS queries and responses.
    Dns = "dns",
    /// Dropped packets.
    Drop = "drop",
    /// All flows.
    Flow = "flow",
    /// Flows to the outside.
    FlowsToWorld = "flows-to-world",
    /// HTTP requests and responses, apart.
    Http = "http",
    /// HTTP requests with the status of their responses.
    HttpV2 = "httpV2",
    /// ICMP messages.
    Icmp = "icmp",
    /// Kafka requests.
    Kafka = "kafka",
    /// Policy verdicts.
    Policy = "policy",
    /// Destination ports.
    PortDistribution = "port-distribution",
    /// TCP flags.
    Tcp = "tcp",
}

impl MetricName {
    /// The metric with this name, compared exactly.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.text() == name)
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Names of all metrics, for messages.
pub(super) fn known_names() -> String {
    MetricName::ALL.iter().map(|metric| metric.text()).collect::<Vec<_>>().join(", ")
}

/// One metric with its options.
#[derive(Clone, Debug)]
pub struct MetricSpec {
    /// Which.
    pub name: MetricName,
    pub(super) options: Options,
    pub(super) contexts: Contexts,
    pub(super) filters: FilterSet,
    /// Option names (lower case) and values, for comparison and for people.
    pub(super) given: Vec<(String, String)>,
}

impl MetricSpec {
    /// Reads a list such as `dns:query drop httpV2:exemplars=true;labelsContext=source_ip,destination_ip`.
    ///
    /// Returns the metrics, and warnings about entries that were left out: names and options that do not exist. The form
    /// that Helm takes on its command line, `{dns,drop,...}` with `\,` in values, is read too.
    ///
    /// # Errors
    /// A context or label does not exist, a metric comes twice, or `http` comes with `httpV2`.
    pub fn parse_list(text: &str) -> Result<(Vec<Self>, Vec<String>), MetricsConfigError> {
        let (mut specs, mut warnings) = (Vec::new(), Vec::new());
        for entry in entries(text) {
            let (name, options) = entry.split_once(':').unwrap_or((&entry, ""));
            let given: Vec<(String, String)> = options
                .split(';')
                .filter(|option| !option.is_empty())
                .map(|option| {
                    let (key, value) = option.split_once('=').unwrap_or((option, ""));
                    (key.to_lowercase(), value.to_owned())
                })
                .collect();
            match MetricName::from_name(name) {
                Some(name) => specs.push(Self::new(name, given, &mut warnings)?),
                None => warnings
                    .push(format!("unknown metric \"{name}\" is left out; there are {}", known_names())),
            }
        }
        check_set(&specs)?;
        Ok((specs, warnings))
    }

    /// A metric with options: names in lower case, values as in the text form.
    pub(super) fn new(
        name: MetricName,
        given: Vec<(String, String)>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, MetricsConfigError> {
        let (mut contexts, mut options) = (Contexts::default(), Options::default());
        for (key, value) in &given {
            if !contexts.set(name, key, value)? && !options.set(name, key, value) {
                warnings.push(format!("metric {name}: unknown option \"{key}\" is left out"));
            }
        }
        Ok(Self { name, options, contexts, filters: FilterSet::default(), given })
    }

    /// Counts only flows that pass the filters.
    pub(super) fn with_filters(
        mut self,
        include: &[FlowFilter],
        exclude: &[FlowFilter],
    ) -> Result<Self, MetricsConfigError> {
        self.filters = FilterSet::compile(include, exclude)
            .map_err(|cause| MetricsConfigError::Filter { metric: self.name.to_string(), cause })?;
        Ok(self)
    }

    /// Its options in the text form.
    pub fn options_text(&self) -> String {
        let text = |(key, value): &(String, String)| match value.is_empty() {
            true => key.clone(),
            false => format!("{key}={value}"),
        };
        self.given.iter().map(text).collect::<Vec<_>>().join(";")
    }
}

/// Checks what no single entry shows.
pub(super) fn check_set(specs: &[MetricSpec]) -> Result<(), MetricsConfigError> {
    for (index, spec) in specs.iter().enumerate() {
        if specs[..index].iter().any(|other| other.name == spec.name) {
            return Err(MetricsConfigError::Twice(spec.name));
        }
    }
    let has = |name| specs.iter().any(|spec| spec.name == name);
    if has(MetricName::Http) && has(MetricName::HttpV2) {
        return Err(MetricsConfigError::Conflict { one: MetricName::Http, other: MetricName::HttpV2 });
    }
    Ok(())
}

/// Splits at spaces, and at commas that are not inside a value of labelsContext.
fn entries(text: &str) -> Vec<String> {
    let text = text.trim();
    let text = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let mut entries: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut is_first = true;
        for part in word.replace("\\,", "\u{0}").split(',') {
            let part = part.replace('\u{0}', ",");
            let goes_on = !is_first
                && !part.is_empty()
                && !part.contains(':')
                && MetricName::from_name(&part).is_none()
                && entries.last().is_some_and(|entry| ends_in_labels(entry));
            match entries.last_mut().filter(|_| goes_on) {
                Some(entry) => {
                    entry.push(',');
                    entry.push_str(&part);
                }
                None if part.is_empty() => {}
                None => entries.push(part),
            }
            is_first = false;
        }
    }
    entries
}

fn ends_in_labels(entry: &str) -> bool {
    let last = entry.rsplit([';', ':']).next().unwrap_or_default();
    // Of `labelsContext=a,b;c=d,e` the options after the list go on the entry as well: `a;c=d` has its `;` in a part.
    last.split_once('=').is_some_and(|(key, _)| key.eq_ignore_ascii_case("labelscontext"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart() {
        for (text, expected) in [
            ("", vec![]),
            ("dns drop", vec!["dns", "drop"]),
            ("dns,drop,tcp", vec!["dns", "drop", "tcp"]),
            ("dns:query;ignoreAAAA,drop", vec!["dns:query;ignoreAAAA", "drop"]),
            (
                "{dns,drop,httpV2:exemplars=true;labelsContext=source_ip\\,source_namespace\\,traffic_direction}",
                vec![
                    "dns",
                    "drop",
                    "httpV2:exemplars=true;labelsContext=source_ip,source_namespace,traffic_direction",
                ],
            ),
            (
                "drop:labelsContext=source_ip,destination_ip;sourceContext=pod|dns,flow",
                vec!["drop:labelsContext=source_ip,destination_ip;sourceContext=pod|dns", "flow"],
            ),
            (
                "flow:labelsContext=source_ip,tcp nonsense",
                vec!["flow:labelsContext=source_ip", "tcp", "nonsense"],
            ),
        ] {
            assert_eq!(entries(text), expected, "{text}");
        }
    }

    #[test]
    fn wrong_lists_are_refused_or_warned_of() {
        for (text, says) in [
            ("drop:sourceContext=nonsense", "unknown context \"nonsense\""),
            ("drop:labelsContext=source_ip,nonsense", "invalid labelsContext value: nonsense"),
            ("drop drop", "configured twice"),
            ("http httpV2", "plugin http conflicts with plugin httpV2"),
        ] {
            let error = MetricSpec::parse_list(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let (specs, warnings) = MetricSpec::parse_list("flow:weather=fine nonsense DNS").unwrap();
        assert_eq!(specs.len(), 1);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }
}
