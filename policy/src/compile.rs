//! From peers as policies name them to selectors of identities. Here the cluster's settings come in.

use ipnet::IpNet;
use specola_labels::{CLUSTER_KEY, Family, Label, LabelSet, Requirement, Selector, SelectorKey, source};

use crate::objects::{Objects, Service};
use crate::rule::{Entity, Peer};
use crate::settings::{IpFamilies, Settings};

/// A peer in terms of identities.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum PeerSelector {
    /// Any identity, known or not.
    Any,
    /// Identities whose labels match.
    Labels(Selector),
}

impl PeerSelector {
    /// Whether an identity with these labels is selected.
    pub(crate) fn matches(&self, labels: &LabelSet) -> bool {
        match self {
            Self::Any => true,
            Self::Labels(selector) => selector.matches(labels),
        }
    }
}

/// Labels of the identity of a prefix outside the cluster: the prefix, and the world label of its family.
///
/// The prefixes that need an identity are those of [`crate::Repository::prefixes`]. For a prefix of length 0 the
/// result is the label set of the reserved world identity.
pub fn cidr_identity_labels(prefix: IpNet, families: IpFamilies) -> LabelSet {
    let world = Label::reserved(world_label(Family::of(&prefix), families));
    Label::cidr(prefix).into_iter().chain([world]).collect()
}

/// Selectors of one peer; none when nothing can match.
pub(crate) fn compile_peer(peer: &Peer, settings: &Settings, objects: &Objects) -> Vec<PeerSelector> {
    let cidr = |prefix, except: &[IpNet]| compile_cidr(prefix, except, settings).map(PeerSelector::Labels);
    match peer {
        Peer::Any => vec![PeerSelector::Any],
        Peer::Endpoints(selector) if selector.is_empty() => vec![PeerSelector::Any],
        Peer::Endpoints(selector) | Peer::Nodes(selector) => {
            vec![PeerSelector::Labels(in_local_cluster(selector, settings))]
        }
        Peer::Entity(entity) => compile_entity(*entity, settings),
        Peer::Cidr { prefix, except } => cidr(*prefix, except).into_iter().collect(),
        Peer::CidrGroup { groups, except } => {
            let inside = |prefix: IpNet| -> Vec<IpNet> {
                except.iter().filter(|net| prefix.contains(*net)).copied().collect()
            };
            let within_exception = |prefix: &IpNet| except.iter().any(|net| net.contains(prefix));
            objects
                .group_prefixes(groups)
                .filter(|prefix| !within_exception(prefix))
                .filter_map(|prefix| cidr(prefix, &inside(prefix)))
                .collect()
        }
        Peer::Service { services, namespace } => {
            let mut selectors = Vec::new();
            for service in objects.services(services, namespace.as_deref()) {
                let pods = service.pods().map(|pods| in_local_cluster(&pods, settings));
                selectors.extend(pods.map(PeerSelector::Labels));
                selectors.extend(service.prefixes().filter_map(|prefix| cidr(prefix, &[])));
            }
            selectors
        }
        Peer::Group(group) => {
            objects.provider_prefixes(group).filter_map(|prefix| cidr(prefix, &[])).collect()
        }
        Peer::Fqdn(name) => {
            let key = SelectorKey::new(source::FQDN, name.label().key());
            vec![PeerSelector::Labels(Selector::new([Requirement::exists(key)]))]
        }
    }
}

/// Prefixes that a peer names; each needs an identity of its own.
pub(crate) fn peer_prefixes(peer: &Peer, objects: &Objects) -> Vec<IpNet> {
    match peer {
        Peer::Cidr { prefix, except } => [*prefix].into_iter().chain(except.iter().copied()).collect(),
        Peer::CidrGroup { groups, except } => {
            objects.group_prefixes(groups).chain(except.iter().copied()).collect()
        }
        Peer::Service { services, namespace } => {
            objects.services(services, namespace.as_deref()).flat_map(Service::prefixes).collect()
        }
        Peer::Group(group) => objects.provider_prefixes(group).collect(),
        _ => Vec::new(),
    }
}

/// Adds the local cluster's name where the settings ask for it and the selector does not say otherwise.
fn in_local_cluster(selector: &Selector, settings: &Settings) -> Selector {
    let names = |wanted: fn(&SelectorKey) -> bool| {
        selector.requirements().iter().any(|requirement| wanted(requirement.key()))
    };
    let reserved = names(|key| key.source() == source::RESERVED);
    let cluster = names(|key| key.key() == CLUSTER_KEY);
    if !settings.default_local_cluster || reserved || cluster {
        return selector.clone();
    }
    selector.and([Requirement::equals(SelectorKey::k8s(CLUSTER_KEY), &settings.cluster_name)])
}

fn compile_entity(entity: Entity, settings: &Settings) -> Vec<PeerSelector> {
    let reserved = |names: &[&str]| {
        names.iter().map(|name| PeerSelector::Labels(Selector::reserved(name))).collect::<Vec<_>>()
    };
    match entity {
        Entity::All => vec![PeerSelector::Any],
        Entity::World => reserved(&["world", "world-ipv4", "world-ipv6"]),
        Entity::Cluster => {
            let mut selectors = reserved(&[
                "host",
                "remote-node",
                "init",
                "ingress",
                "health",
                "unmanaged",
                "kube-apiserver",
            ]);
            selectors.push(PeerSelector::Labels(Selector::equals(
                SelectorKey::k8s(CLUSTER_KEY),
                &settings.cluster_name,
            )));
            selectors
        }
        one => reserved(&[one.name()]),
    }
}

/// Prefixes of length 0 are the world of their family, all others are labels of identities.
fn compile_cidr(prefix: IpNet, except: &[IpNet], settings: &Settings) -> Option<Selector> {
    let family = Family::of(&prefix);
    if !settings.ip_families.has(family) || except.iter().any(|net| net.prefix_len() == 0) {
        return None;
    }
    if let Some(selector) = Selector::cidr(prefix, except) {
        return Some(selector);
    }
    let world = Selector::reserved(world_label(family, settings.ip_families));
    let without = except.iter().filter_map(|net| Label::cidr(*net)).map(|label| {
        Requirement::new(SelectorKey::new(source::CIDR, label.key()), specola_labels::Operator::DoesNotExist)
    });
    Some(world.and(without))
}

fn world_label(family: Family, families: IpFamilies) -> &'static str {
    match (families, family) {
        (IpFamilies::Dual, Family::V4) => "world-ipv4",
        (IpFamilies::Dual, Family::V6) => "world-ipv6",
        _ => "world",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(ip_families: IpFamilies) -> Settings {
        Settings { ip_families, ..Settings::default() }
    }

    fn selects(peer: &str, except: &[&str], families: IpFamilies, address: &str) -> bool {
        let peer = Peer::Cidr {
            prefix: peer.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let labels = cidr_identity_labels(address.parse().unwrap(), families);
        compile_peer(&peer, &settings(families), &Objects::default())
            .iter()
            .any(|selector| selector.matches(&labels))
    }

    #[test]
    fn prefixes_select_what_lies_inside() {
        let dual = IpFamilies::Dual;
        for (peer, except, families, address, expect) in [
            ("10.0.0.0/8", &[][..], dual, "10.1.0.0/16", true),
            ("10.0.0.0/8", &["10.1.0.0/16"], dual, "10.1.2.0/24", false),
            ("10.0.0.0/8", &["10.0.0.0/8"], dual, "10.1.2.0/24", false),
            ("0.0.0.0/0", &[], dual, "10.1.0.0/16", true),
            ("0.0.0.0/0", &[], dual, "0.0.0.0/0", true),
            ("0.0.0.0/0", &[], dual, "2001:db8::/32", false),
            ("0.0.0.0/0", &["10.0.0.0/8"], dual, "10.1.0.0/16", false),
            ("0.0.0.0/0", &["10.0.0.0/8"], dual, "0.0.0.0/0", true),
            ("0.0.0.0/0", &["0.0.0.0/0"], dual, "10.1.0.0/16", false),
            ("::/0", &[], dual, "2001:db8::/32", true),
            ("0.0.0.0/0", &[], IpFamilies::V4, "0.0.0.0/0", true),
            ("::/0", &[], IpFamilies::V4, "0.0.0.0/0", false),
        ] {
            assert_eq!(
                selects(peer, except, families, address),
                expect,
                "{peer} except {except:?}, {families:?}: {address}"
            );
        }
    }
}
