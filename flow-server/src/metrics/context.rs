//! Labels that say who: contexts of source and destination, and sets of labels with fixed names.

use specola_flow::{Direction, EndpointMeta, FlowView, Side};

use super::{
    config::{MetricName, MetricsConfigError},
    table::{Key, Label, Pods},
};

/// Context options of a metric.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Contexts {
    source: SideContext,
    destination: SideContext,
    /// In the order of [`CONTEXT_LABELS`].
    labels: Vec<ContextLabel>,
}

/// What the label of one side says; empty = not asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct SideContext {
    base: Vec<Context>,
    egress: Vec<Context>,
    ingress: Vec<Context>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Context {
    Identity,
    Namespace,
    Pod,
    PodName,
    PodShort,
    Dns,
    Ip,
    ReservedIdentity,
    WorkloadName,
    App,
}

impl Context {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "identity" => Self::Identity,
            "namespace" => Self::Namespace,
            "pod" => Self::Pod,
            "pod-name" => Self::PodName,
            "pod-short" => Self::PodShort,
            "dns" => Self::Dns,
            "ip" => Self::Ip,
            "reserved-identity" => Self::ReservedIdentity,
            "workload-name" => Self::WorkloadName,
            "app" => Self::App,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Ip,
    Pod,
    Namespace,
    Workload,
    WorkloadKind,
    App,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ContextLabel {
    Of(Side, Part),
    TrafficDirection,
}

/// All labels of labelsContext in the order in which they are written.
const CONTEXT_LABELS: [(&str, ContextLabel); 13] = [
    ("source_ip", ContextLabel::Of(Side::Source, Part::Ip)),
    ("source_pod", ContextLabel::Of(Side::Source, Part::Pod)),
    ("source_namespace", ContextLabel::Of(Side::Source, Part::Namespace)),
    ("source_workload", ContextLabel::Of(Side::Source, Part::Workload)),
    ("source_workload_kind", ContextLabel::Of(Side::Source, Part::WorkloadKind)),
    ("source_app", ContextLabel::Of(Side::Source, Part::App)),
    ("destination_ip", ContextLabel::Of(Side::Destination, Part::Ip)),
    ("destination_pod", ContextLabel::Of(Side::Destination, Part::Pod)),
    ("destination_namespace", ContextLabel::Of(Side::Destination, Part::Namespace)),
    ("destination_workload", ContextLabel::Of(Side::Destination, Part::Workload)),
    ("destination_workload_kind", ContextLabel::Of(Side::Destination, Part::WorkloadKind)),
    ("destination_app", ContextLabel::Of(Side::Destination, Part::App)),
    ("traffic_direction", ContextLabel::TrafficDirection),
];

impl Contexts {
    /// Takes an option when it is one of these; returns whether it was. `option` is in lower case.
    pub(super) fn set(
        &mut self,
        metric: MetricName,
        option: &str,
        value: &str,
    ) -> Result<bool, MetricsConfigError> {
        let list = match option {
            "sourcecontext" => &mut self.source.base,
            "sourceegresscontext" => &mut self.source.egress,
            "sourceingresscontext" => &mut self.source.ingress,
            "destinationcontext" => &mut self.destination.base,
            "destinationegresscontext" => &mut self.destination.egress,
            "destinationingresscontext" => &mut self.destination.ingress,
            "labelscontext" => {
                self.labels = parse_labels(metric, value)?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *list = parse_contexts(metric, option, value)?;
        Ok(true)
    }

    /// Names of the labels, in the order of [`Contexts::write`].
    pub(super) fn labels(&self) -> Vec<Label> {
        let mut names = Vec::new();
        if self.source.is_on() {
            names.push("source");
        }
        if self.destination.is_on() {
            names.push("destination");
        }
        let is_asked = |label: &ContextLabel| self.labels.contains(label);
        names.extend(CONTEXT_LABELS.iter().filter(|(_, label)| is_asked(label)).map(|(name, _)| *name));
        let bounded = |name| if name == "traffic_direction" { Label::few(name) } else { Label::many(name) };
        names.into_iter().map(bounded).collect()
    }

    /// Appends the values. `swapped` is for responses: source and destination are those of the request.
    pub(super) fn write(&self, view: &FlowView<'_>, swapped: bool, key: &mut Key) {
        let direction = view.flow.direction();
        for (context, side) in [(&self.source, Side::Source), (&self.destination, Side::Destination)] {
            if context.is_on() {
                context.write(view, seen(side, swapped), direction, key);
                key.end();
            }
        }
        for label in &self.labels {
            match label {
                ContextLabel::TrafficDirection => key.push(match direction {
                    Direction::INGRESS => "ingress",
                    Direction::EGRESS => "egress",
                    _ => "unknown",
                }),
                ContextLabel::Of(side, part) => part.write(view, seen(*side, swapped), key),
            }
            key.end();
        }
    }

    /// The pods that a series of this flow names: it goes when they have gone.
    pub(super) fn pods(&self, view: &FlowView<'_>, swapped: bool) -> Pods {
        let names = |side, context: &SideContext| {
            let of = |part| self.labels.contains(&ContextLabel::Of(side, part));
            let in_labels = of(Part::Namespace) && of(Part::Pod);
            let in_context = context.chosen(view.flow.direction()).contains(&Context::Pod);
            let meta = view.meta(seen(side, swapped)).filter(|meta| !meta.pod_name.is_empty())?;
            (in_labels || in_context)
                .then(|| format!("{}/{}", meta.namespace, meta.pod_name).into_boxed_str())
        };
        [names(Side::Source, &self.source), names(Side::Destination, &self.destination)]
    }
}

const fn seen(side: Side, swapped: bool) -> Side {
    match (side, swapped) {
        (side, false) => side,
        (Side::Source, true) => Side::Destination,
        (Side::Destination, true) => Side::Source,
    }
}

impl SideContext {
    fn is_on(&self) -> bool {
        !(self.base.is_empty() && self.egress.is_empty() && self.ingress.is_empty())
    }

    fn chosen(&self, direction: Direction) -> &[Context] {
        match direction {
            Direction::EGRESS if !self.egress.is_empty() => &self.egress,
            Direction::INGRESS if !self.ingress.is_empty() => &self.ingress,
            _ => &self.base,
        }
    }

    /// The first context that says something.
    fn write(&self, view: &FlowView<'_>, side: Side, direction: Direction, key: &mut Key) {
        let start = key.len();
        for context in self.chosen(direction) {
            context.write(view, side, key);
            if key.len() > start {
                return;
            }
        }
    }
}

impl Context {
    fn write(self, view: &FlowView<'_>, side: Side, key: &mut Key) {
        let labels = labels(view, side);
        let meta = view.meta(side);
        match self {
            Self::Identity => key.join(labels),
            Self::Dns => key.join(names(view, side)),
            Self::Ip => Part::Ip.write(view, side, key),
            Self::ReservedIdentity => key.push(reserved(labels)),
            Self::WorkloadName => Part::Workload.write(view, side, key),
            Self::App => Part::App.write(view, side, key),
            Self::Namespace => Part::Namespace.write(view, side, key),
            Self::PodName => Part::Pod.write(view, side, key),
            Self::Pod => pod(meta, |name| name, key),
            Self::PodShort => pod(meta, short, key),
        }
    }
}

impl Part {
    fn write(self, view: &FlowView<'_>, side: Side, key: &mut Key) {
        let Some(meta) = view.meta(side) else {
            if self == Self::Ip {
                key.push_ip(address(view, side));
            }
            return;
        };
        match self {
            Self::Ip => key.push_ip(address(view, side)),
            Self::Pod => key.push(&meta.pod_name),
            Self::Namespace => key.push(&meta.namespace),
            Self::Workload => key.push(meta.workloads.first().map_or("", |owner| &owner.name)),
            Self::WorkloadKind => key.push(meta.workloads.first().map_or("", |owner| &owner.kind)),
            Self::App => key.push(app(labels(view, side))),
        }
    }
}

fn address(view: &FlowView<'_>, side: Side) -> Option<std::net::IpAddr> {
    match side {
        Side::Source => view.flow.source_ip(),
        Side::Destination => view.flow.destination_ip(),
    }
}

/// Labels of a side as text.
pub(super) const fn labels<'a>(view: &FlowView<'a>, side: Side) -> &'a [String] {
    match side {
        Side::Source => view.source_labels,
        Side::Destination => view.destination_labels,
    }
}

fn names<'a>(view: &FlowView<'a>, side: Side) -> &'a [String] {
    view.detail.map_or(&[], |detail| match side {
        Side::Source => &detail.source_names,
        Side::Destination => &detail.destination_names,
    })
}

fn reserved(labels: &[String]) -> &str {
    const API_SERVER: &str = "reserved:kube-apiserver";
    let is_reserved = |label: &&String| label.starts_with("reserved:");
    let found = labels.iter().find(|label| *label == API_SERVER).or_else(|| labels.iter().find(is_reserved));
    found.map_or("", String::as_str)
}

fn app(labels: &[String]) -> &str {
    const KEYS: [&str; 3] = ["k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:app="];
    let value = |key: &&str| labels.iter().find_map(|label| label.strip_prefix(*key));
    KEYS.iter().find_map(value).unwrap_or_default()
}

fn pod(meta: Option<&EndpointMeta>, shown: fn(&str) -> &str, key: &mut Key) {
    let Some(meta) = meta.filter(|meta| !meta.pod_name.is_empty()) else {
        return;
    };
    if !meta.namespace.is_empty() {
        key.push(&meta.namespace);
        key.push("/");
    }
    key.push(shown(&meta.pod_name));
}

/// A pod's name without the one or two pieces that its controllers added.
fn short(name: &str) -> &str {
    let cut = |text: &'_ str| match text.rsplit_once('-') {
        Some((head, piece)) if !head.is_empty() && is_piece(piece) => Some(head.len()),
        _ => None,
    };
    let Some(once) = cut(name) else {
        return name;
    };
    &name[..cut(&name[..once]).unwrap_or(once)]
}

fn is_piece(piece: &str) -> bool {
    !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn parse_contexts(metric: MetricName, option: &str, value: &str) -> Result<Vec<Context>, MetricsConfigError> {
    let parse = |name: &str| {
        Context::from_name(name).ok_or_else(|| MetricsConfigError::Context {
            metric: metric.to_string(),
            option: option.to_owned(),
            value: name.to_owned(),
        })
    };
    value.split('|').map(parse).collect()
}

fn parse_labels(metric: MetricName, value: &str) -> Result<Vec<ContextLabel>, MetricsConfigError> {
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    let is_known = |name: &&&str| CONTEXT_LABELS.iter().any(|(known, _)| known == *name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        let value = (*unknown).to_owned();
        return Err(MetricsConfigError::Label { metric: metric.to_string(), value });
    }
    Ok(CONTEXT_LABELS.iter().filter(|(name, _)| names.contains(name)).map(|(_, label)| *label).collect())
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn short_pod_names() {
        for (name, text) in [
            ("web", "web"),
            ("web-0", "web"),
            ("web-7d9c5b-x2vqk", "web"),
            ("my-web-7d9c5b-x2vqk", "my-web"),
            ("web-A", "web-A"),
            ("-x", "-x"),
        ] {
            assert_eq!(short(name), text, "{name}");
        }
    }
}
