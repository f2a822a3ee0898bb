//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`.

use specola_labels::{Label, NAMESPACE_KEY, Requirement, Selector, SelectorKey, source};

use super::ParseOptions;
use super::metadata::{Metadata, read_metadata};
use super::peers::read_peers;
use super::ports::{PortContext, read_l4};
use super::read::{At, Fields, Problems};
use super::selector::read_selector;
use crate::origin::Section;
use crate::rule::{Action, AuthMode, L4, Peer, PolicyKind, Rule, RuleEntry, RuleSubject, Tier};
use crate::yaml::Node;

/// Where a rule stands: decides what its selectors mean.
#[derive(Debug)]
pub(super) struct Scope {
    /// Namespace of the policy, none for cluster-wide ones.
    pub(super) namespace: Option<String>,
    /// Whether the subject names `reserved:init`.
    pub(super) init_subject: bool,
    /// Whether the subject is the host.
    pub(super) host_subject: bool,
    pub(super) options: ParseOptions,
}

/// Reads an object. None only after an error was recorded.
pub(super) fn read(
    node: &Node,
    kind: PolicyKind,
    options: ParseOptions,
    problems: &mut Problems,
) -> Option<(Metadata, Vec<Rule>)> {
    let mut root = At::root(node).fields(problems)?;
    let metadata = read_metadata(&mut root, kind, problems);
    let namespace = kind.is_namespaced().then(|| {
        let reference = metadata.as_ref().map(|metadata| &metadata.reference);
        reference.map_or_else(String::new, |reference| reference.namespace.clone())
    });
    let mut reader = RuleReader { namespace, options, counts: [0; 4] };
    let mut specs: Vec<At<'_>> = root.get("spec").into_iter().collect();
    specs.extend(root.list("specs", problems).unwrap_or_default());
    if specs.is_empty() {
        problems.error(&root.at().named("spec(s)"), "empty policy; give spec or specs");
    }
    let rules = specs.iter().filter_map(|spec| reader.rule(spec, problems)).collect();
    root.finish(problems);
    Some((metadata?, rules))
}

struct RuleReader {
    namespace: Option<String>,
    options: ParseOptions,
    /// Entries so far per section, through all of `specs`.
    counts: [u32; 4],
}

impl RuleReader {
    fn rule(&mut self, at: &At<'_>, problems: &mut Problems) -> Option<Rule> {
        let mut fields = at.fields(problems)?;
        let subject = self.subject(&mut fields, problems);
        let scope = Scope {
            namespace: self.namespace.clone(),
            init_subject: matches!(&subject, Some(RuleSubject::Endpoints(s)) if names_init(s)),
            host_subject: matches!(&subject, Some(RuleSubject::Nodes(_))),
            options: self.options,
        };
        let mut entries = Vec::new();
        let mut sizes = [0; 4];
        for (section, size) in SECTIONS.into_iter().zip(&mut sizes) {
            let elements = fields.list(section.as_str(), problems).unwrap_or_default();
            *size = elements.len();
            for element in &elements {
                let index = self.next_index(section);
                entries.extend(read_entry(element, section, index, &scope, problems));
            }
        }
        if sizes == [0; 4] {
            problems.error(at, "rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny");
        }
        let has_ingress = sizes[0] + sizes[1] > 0;
        let has_egress = sizes[2] + sizes[3] > 0;
        let default_deny = read_default_deny(&mut fields, problems);
        let labels = read_labels(&mut fields, problems);
        let log = read_log(&mut fields, problems);
        let description = fields.text("description", problems).unwrap_or_default();
        fields.finish(problems);
        Some(Rule {
            subject: subject?,
            tier: Tier::Normal,
            priority: 0,
            entries,
            default_deny_ingress: has_ingress && default_deny.0,
            default_deny_egress: has_egress && default_deny.1,
            has_ingress,
            has_egress,
            labels,
            description: description.to_owned(),
            log,
        })
    }

    fn next_index(&mut self, section: Section) -> u32 {
        let position = SECTIONS.iter().position(|own| *own == section);
        let count = position.and_then(|position| self.counts.get_mut(position));
        count.map_or(0, |count| {
            *count += 1;
            *count - 1
        })
    }

    fn subject(&self, fields: &mut Fields<'_>, problems: &mut Problems) -> Option<RuleSubject> {
        let endpoints = fields.get("endpointSelector");
        let nodes = fields.get("nodeSelector");
        match (endpoints, nodes) {
            (Some(endpoints), None) => {
                let selector = read_selector(&endpoints, SelectorKey::parse, problems)?;
                let selector = self.scoped_subject(selector, &endpoints, problems);
                Some(RuleSubject::Endpoints(selector))
            }
            (None, Some(nodes)) if self.namespace.is_some() => {
                problems.error(&nodes, "rule cannot have NodeSelector");
                None
            }
            (None, Some(nodes)) => {
                read_selector(&nodes, SelectorKey::parse, problems).map(RuleSubject::Nodes)
            }
            (Some(_), Some(nodes)) => {
                problems.error(&nodes, "rule cannot have both EndpointSelector and NodeSelector");
                None
            }
            (None, None) => {
                problems.error(fields.at(), "rule must have one of EndpointSelector or NodeSelector");
                None
            }
        }
    }

    /// A namespaced policy speaks for its own namespace only.
    fn scoped_subject(&self, selector: Selector, at: &At<'_>, problems: &mut Problems) -> Selector {
        let Some(namespace) = &self.namespace else {
            return selector;
        };
        let key = SelectorKey::k8s(NAMESPACE_KEY);
        let own = Requirement::equals(key.clone(), namespace);
        let is_other = |requirement: &&Requirement| *requirement.key() == key && **requirement != own;
        if selector.requirements().iter().any(|requirement| is_other(&requirement)) {
            problems.warning(
                at,
                format!("the subject is always in the policy's namespace \"{namespace}\"; the one given is ignored"),
            );
        }
        let rest = selector.requirements().iter().filter(|requirement| *requirement.key() != key).cloned();
        Selector::new(rest.chain([own]))
    }
}

fn names_init(selector: &Selector) -> bool {
    let names = |key: &SelectorKey| key.source() == source::RESERVED && key.key() == "init";
    selector.requirements().iter().any(|requirement| names(requirement.key()))
}

fn read_entry(
    at: &At<'_>,
    section: Section,
    index: u32,
    scope: &Scope,
    problems: &mut Problems,
) -> Option<RuleEntry> {
    let mut fields = at.fields(problems)?;
    let listed = read_peers(&mut fields, section, scope, problems);
    let context = PortContext {
        section,
        namespace: scope.namespace.as_deref(),
        host_subject: scope.host_subject,
        options: scope.options,
    };
    let l4 = read_l4(&mut fields, &context, problems);
    let deny = section.is_deny();
    let auth = if deny { None } else { read_authentication(&mut fields, problems) };
    fields.finish(problems);
    let peers = match (listed, &l4) {
        (Some(peers), _) => peers,
        // Without peers an entry speaks of everyone, but only where it names ports; otherwise of nothing.
        (None, L4::All) => Vec::new(),
        (None, _) => vec![Peer::Any],
    };
    let action = if deny { Action::Deny } else { Action::Allow };
    Some(RuleEntry { section, index, peers, l4, action, auth })
}

fn read_authentication(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<AuthMode> {
    let at = fields.get("authentication")?;
    let mut authentication = at.fields(problems)?;
    let mode = authentication.get("mode");
    authentication.finish(problems);
    let Some(mode) = mode else {
        problems.error(&at, "mode must be given: disabled, required or test-always-fail");
        return None;
    };
    match mode.text(problems)? {
        "disabled" => Some(AuthMode::Disabled),
        "required" => Some(AuthMode::Required),
        "test-always-fail" => Some(AuthMode::AlwaysFail),
        name => {
            let message =
                format!("unknown authentication mode \"{name}\"; use disabled, required or test-always-fail");
            problems.error(&mode, message);
            None
        }
    }
}

/// `enableDefaultDeny` per direction; true unless switched off.
fn read_default_deny(fields: &mut Fields<'_>, problems: &mut Problems) -> (bool, bool) {
    let Some(mut flags) = fields.get("enableDefaultDeny").and_then(|at| at.fields(problems)) else {
        return (true, true);
    };
    let mut flag =
        |name, problems: &mut Problems| flags.get(name).and_then(|at| at.boolean(problems)).unwrap_or(true);
    let both = (flag("ingress", problems), flag("egress", problems));
    flags.finish(problems);
    both
}

fn read_labels(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<Label> {
    let elements = fields.list("labels", problems).unwrap_or_default();
    let mut labels = Vec::new();
    for element in &elements {
        let Some(mut parts) = element.fields(problems) else {
            continue;
        };
        let mut part =
            |name, problems: &mut Problems| parts.text(name, problems).unwrap_or_default().to_owned();
        let (key, value) = (part("key", problems), part("value", problems));
        let label_source = match part("source", problems) {
            text if text.is_empty() => source::UNSPEC.to_owned(),
            text => text,
        };
        parts.finish(problems);
        if key.is_empty() {
            problems.error(element, "a label needs a key");
            continue;
        }
        labels.push(Label::new(&label_source, &key, &value));
    }
    labels
}

fn read_log(fields: &mut Fields<'_>, problems: &mut Problems) -> String {
    let Some(mut log) = fields.get("log").and_then(|at| at.fields(problems)) else {
        return String::new();
    };
    let value = log.get("value");
    log.finish(problems);
    let Some(at) = value else {
        return String::new();
    };
    let text = at.text(problems).unwrap_or_default();
    if text.chars().count() > MAX_LOG || text.chars().any(char::is_control) {
        problems.error(&at, format!("must be at most {MAX_LOG} printable characters"));
    }
    text.to_owned()
}

const SECTIONS: [Section; 4] = [Section::Ingress, Section::IngressDeny, Section::Egress, Section::EgressDeny];
const MAX_LOG: usize = 32;
