//! L3 parts of an entry.

use std::net::IpAddr;

use ipnet::IpNet;
use specola_labels::{
    InvalidSelector, NAMESPACE_KEY, NAMESPACE_LABEL_PREFIX, Requirement, Selector, SelectorKey, source,
};

use super::cilium::Scope;
use super::l7::read_dns_rule;
use super::read::{At, Fields, Problems};
use super::selector::read_selector;
use crate::origin::Section;
use crate::rule::{AwsGroup, CidrGroupSelect, Entity, Peer, ServiceSelect};

/// Field names of one direction.
struct Names {
    endpoints: &'static str,
    entities: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
    nodes: &'static str,
    groups: &'static str,
    requires: &'static str,
}

/// Reads the peers of an entry; none when no field for peers is there.
pub(super) fn read_peers(
    fields: &mut Fields<'_>,
    section: Section,
    scope: &Scope,
    problems: &mut Problems,
) -> Option<Vec<Peer>> {
    let names = if section.is_egress() { &TO } else { &FROM };
    let mut reader = PeerReader { scope, peers: Vec::new(), present: false, kinds: Vec::new() };
    reader.kind(fields, names.endpoints, problems, PeerReader::endpoint);
    reader.kind(fields, names.entities, problems, PeerReader::entity);
    reader.kind(fields, names.cidr, problems, PeerReader::cidr);
    reader.kind(fields, names.cidr_set, problems, PeerReader::cidr_set);
    reader.kind(fields, names.nodes, problems, PeerReader::node);
    reader.kind(fields, names.groups, problems, PeerReader::group);
    if section.is_egress() {
        reader.kind(fields, "toServices", problems, PeerReader::service);
        if !section.is_deny() {
            reader.kind(fields, "toFQDNs", problems, PeerReader::fqdn);
        }
    }
    let required = fields.list(names.requires, problems).unwrap_or_default();
    if let Some(first) = required.first() {
        let name = names.requires;
        let message =
            format!("{name}: removed, must be empty (CRD maxItems 0); use {} instead", names.endpoints);
        problems.error(first, message);
    }
    if let [first, second, ..] = reader.kinds.as_slice() {
        let message = format!(
            "combining {} and {} is not supported yet; write one rule for each",
            upper_first(first),
            upper_first(second)
        );
        problems.error(fields.at(), message);
    }
    reader.present.then_some(reader.peers)
}

/// Reads a prefix with its mask and clears the host bits.
pub(super) fn read_prefix(at: &At<'_>, what: &str, problems: &mut Problems) -> Option<IpNet> {
    let text = at.text(problems)?;
    match text.parse::<IpNet>() {
        Ok(prefix) => Some(prefix.trunc()),
        Err(_) => {
            let message = format!("unable to parse {what} \"{text}\"; write it like 10.0.0.0/8");
            problems.error(at, message);
            None
        }
    }
}

/// Reads exceptions from a prefix, or from prefixes that are known elsewhere.
pub(super) fn read_except(prefix: Option<IpNet>, at: Option<At<'_>>, problems: &mut Problems) -> Vec<IpNet> {
    let elements = at.map(|at| at.list(problems)).unwrap_or_default();
    let mut except = Vec::new();
    for element in &elements {
        let Some(net) = read_prefix(element, "CIDR", problems) else {
            continue;
        };
        let outside = |prefix: &IpNet| !prefix.contains(&net);
        match prefix.filter(outside) {
            None => except.push(net),
            Some(prefix) => problems.error(
                element,
                format!("allow CIDR prefix {prefix} does not contain exclude CIDR prefix {net}"),
            ),
        }
    }
    except
}

struct PeerReader<'s> {
    scope: &'s Scope,
    peers: Vec<Peer>,
    present: bool,
    /// Fields with at least one element.
    kinds: Vec<&'static str>,
}

impl PeerReader<'_> {
    fn kind(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        problems: &mut Problems,
        read: impl Fn(&mut Self, &At<'_>, &mut Problems),
    ) {
        let Some(elements) = fields.list(name, problems) else {
            return;
        };
        self.present = true;
        if !elements.is_empty() {
            self.kinds.push(name);
        }
        for element in &elements {
            read(self, element, problems);
        }
    }

    fn endpoint(&mut self, at: &At<'_>, problems: &mut Problems) {
        if let Some(selector) = read_selector(at, SelectorKey::parse, problems) {
            self.peers.push(Peer::Endpoints(self.scoped(selector)));
        }
    }

    fn entity(&mut self, at: &At<'_>, problems: &mut Problems) {
        let Some(name) = at.text(problems) else {
            return;
        };
        match Entity::parse(name) {
            Some(Entity::All) => self.peers.push(Peer::Any),
            Some(entity) => self.peers.push(Peer::Entity(entity)),
            None => problems.error(at, format!("unsupported entity: {name}")),
        }
    }

    /// A prefix, or an address alone.
    fn cidr(&mut self, at: &At<'_>, problems: &mut Problems) {
        let Some(text) = at.text(problems) else {
            return;
        };
        if text.is_empty() {
            problems.error(at, "IP must be specified");
            return;
        }
        let prefix = match text.parse::<IpAddr>() {
            Ok(address) => Some(IpNet::from(address)),
            Err(_) => read_prefix(at, "CIDR:", problems),
        };
        self.peers.extend(prefix.map(|prefix| Peer::Cidr { prefix, except: Vec::new() }));
    }

    fn cidr_set(&mut self, at: &At<'_>, problems: &mut Problems) {
        let Some(mut fields) = at.fields(problems) else {
            return;
        };
        let cidr = fields.get("cidr");
        let group = fields.get("cidrGroupRef");
        let selector = fields.get("cidrGroupSelector");
        let except = fields.get("except");
        fields.finish(problems);
        let given = [&cidr, &group, &selector].into_iter().flatten().count();
        if given == 0 {
            problems.error(at, "one of cidr, cidrGroupRef, or cidrGroupSelector is required");
        } else if given > 1 {
            problems.error(at, "more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set");
        }
        if let Some(cidr) = cidr {
            if let Some(prefix) = read_prefix(&cidr, "CIDRRule", problems) {
                let except = read_except(Some(prefix), except, problems);
                self.peers.push(Peer::Cidr { prefix, except });
            }
            return;
        }
        let groups = match (&group, &selector) {
            (Some(name), _) => name.text(problems).map(|name| CidrGroupSelect::Name(name.to_owned())),
            (None, Some(labels)) => read_selector(labels, any_as_k8s, problems).map(CidrGroupSelect::Labels),
            (None, None) => return,
        };
        let except = read_except(None, except, problems);
        self.peers.extend(groups.map(|groups| Peer::CidrGroup { groups, except }));
    }

    fn service(&mut self, at: &At<'_>, problems: &mut Problems) {
        let Some(mut fields) = at.fields(problems) else {
            return;
        };
        let named = fields.get("k8sService");
        let selected = fields.get("k8sServiceSelector");
        fields.finish(problems);
        let (Some(at), true) = (named.as_ref().or(selected.as_ref()), named.is_none() || selected.is_none())
        else {
            problems.error(at, "one of k8sService and k8sServiceSelector must be given");
            return;
        };
        let Some(mut fields) = at.fields(problems) else {
            return;
        };
        let namespace = fields.text("namespace", problems).filter(|name| !name.is_empty());
        let services = if named.is_some() {
            let name = fields.text("serviceName", problems).filter(|name| !name.is_empty());
            if name.is_none() {
                problems.error(at, "serviceName must be given");
            }
            name.map(|name| ServiceSelect::Name(name.to_owned()))
        } else if let Some(selector) = fields.get("selector") {
            read_selector(&selector, any_as_k8s, problems).map(ServiceSelect::Labels)
        } else {
            problems.error(at, "selector must be given");
            None
        };
        fields.finish(problems);
        let namespace = namespace.map(str::to_owned);
        self.peers.extend(services.map(|services| Peer::Service { services, namespace }));
    }

    fn group(&mut self, at: &At<'_>, problems: &mut Problems) {
        let Some(mut fields) = at.fields(problems) else {
            return;
        };
        let aws = fields.get("aws");
        fields.finish(problems);
        let Some(aws) = aws else {
            problems.error(at, "a group needs a provider: aws");
            return;
        };
        let Some(mut fields) = aws.fields(problems) else {
            return;
        };
        let texts = |at: Option<At<'_>>, problems: &mut Problems| {
            at.map(|at| at.texts(problems)).unwrap_or_default().into_iter().map(str::to_owned).collect()
        };
        let group = AwsGroup {
            region: fields.text("region", problems).unwrap_or_default().to_owned(),
            labels: fields.get("labels").map(|at| at.text_map(problems)).unwrap_or_default(),
            security_group_ids: texts(fields.get("securityGroupsIds"), problems),
            security_group_names: texts(fields.get("securityGroupsNames"), problems),
        };
        fields.finish(problems);
        self.peers.push(Peer::Group(group));
    }

    fn fqdn(&mut self, at: &At<'_>, problems: &mut Problems) {
        self.peers.extend(read_dns_rule(at, problems).map(Peer::Fqdn));
    }

    fn node(&mut self, at: &At<'_>, problems: &mut Problems) {
        let node_key = |text: &str| {
            let key = SelectorKey::parse(text)?;
            Ok(match key.source() {
                source::ANY => SelectorKey::new(source::NODE, key.key()),
                _ => key,
            })
        };
        let selector = read_selector(at, node_key, problems);
        if !self.scope.options.node_selector_labels {
            let message = "FromNodes/ToNodes rules can only be applied when the \"enable-node-selector-labels\" flag is set";
            problems.error(at, message);
            return;
        }
        let remote = Requirement::exists(SelectorKey::new(source::RESERVED, "remote-node"));
        self.peers.extend(selector.map(|selector| Peer::Nodes(selector.and([remote]))));
    }

    /// Limits a selector to the namespaces that it is meant for.
    fn scoped(&self, selector: Selector) -> Selector {
        let names = |wanted: &dyn Fn(&SelectorKey) -> bool| {
            selector.requirements().iter().any(|requirement| wanted(requirement.key()))
        };
        if names(&|key| key.source() == source::RESERVED) {
            return selector;
        }
        let plain = |key: &SelectorKey| matches!(key.source(), source::K8S | source::ANY);
        let namespace = SelectorKey::k8s(NAMESPACE_KEY);
        if names(&|key| plain(key) && key.key() == NAMESPACE_KEY) {
            return selector;
        }
        match &self.scope.namespace {
            Some(_) if names(&|key| key.key().starts_with(NAMESPACE_LABEL_PREFIX)) => selector,
            Some(own) => selector.and([Requirement::equals(namespace, own)]),
            None if self.scope.init_subject => selector,
            None => selector.and([Requirement::exists(namespace)]),
        }
    }
}

/// Key in a selector of objects, which have labels of Kubernetes only.
fn any_as_k8s(text: &str) -> Result<SelectorKey, InvalidSelector> {
    let key = SelectorKey::parse(text)?;
    Ok(if key.source() == source::ANY { SelectorKey::k8s(key.key()) } else { key })
}

fn upper_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

const FROM: Names = Names {
    endpoints: "fromEndpoints",
    entities: "fromEntities",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    nodes: "fromNodes",
    groups: "fromGroups",
    requires: "fromRequires",
};
const TO: Names = Names {
    endpoints: "toEndpoints",
    entities: "toEntities",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
    nodes: "toNodes",
    groups: "toGroups",
    requires: "toRequires",
};
