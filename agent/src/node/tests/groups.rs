//! Groups of a cloud provider, and what policies cannot do.

use super::*;
use specola_proto::specola::v1 as pb;

const DENY_GROUP: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: deny, namespace: shop}\n\
                          spec:\n  endpointSelector: {matchLabels: {app: web}}\n  egress:\n  - toEntities: [world]\n  \
                          egressDeny:\n  - toGroups: [{aws: {securityGroupsIds: [sg-1]}}]\n";
const GROUP: &str = "apiVersion: specola.io/v1alpha1\nkind: ProviderGroup\nmetadata: {name: bad-guys}\nspec:\n  \
                     aws: {securityGroupsIds: [sg-1]}\n  addresses: [192.0.2.7, 198.51.100.0/24]\n";
const TLS: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: tls, namespace: shop}\n\
                   spec:\n  endpointSelector: {matchLabels: {app: web}}\n  egress:\n  - toEntities: [world]\n    \
                   toPorts:\n    - ports: [{port: '443', protocol: TCP}]\n      \
                   terminatingTLS: {secret: {namespace: shop, name: own}}\n      rules: {http: [{method: GET}]}\n";

impl Fixture {
    fn shown(&self, name: &str) -> pb::Policy {
        self.node.show_policies("shop", name).policies.remove(0)
    }

    /// Outgoing entries that the kernel has: identity and port.
    fn egress(&self, id: u16, is_wanted: impl Fn(&PolicyValue) -> bool) -> Vec<(u32, u16)> {
        let policies = &self.kernel.state().policies[&self.endpoint(id).file.slot];
        let entries = policies.iter().filter(|(key, value)| key.egress == 1 && is_wanted(value));
        let mut entries: Vec<_> =
            entries.map(|(key, _)| (key.identity, u16::from_be(key.dport_be))).collect();
        entries.sort_unstable();
        entries
    }
}

#[test]
fn a_group_denies_when_its_addresses_are_known_and_says_when_not() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.write("deny.yaml", DENY_GROUP);
    let conditions = fixture.shown("deny").conditions;
    let [condition] = conditions.as_slice() else { panic!("{conditions:?}") };
    for part in ["egressDeny[0]", "security group sg-1", "nothing is denied", "ProviderGroup"] {
        assert!(condition.contains(part), "{condition} lacks {part}");
    }
    let warnings = fixture.node.show_status().0.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("shop/deny: egressDeny[0]")), "{warnings:?}");
    assert_eq!(fixture.egress(web, PolicyValue::is_deny), []);

    fixture.write("group.yaml", GROUP);
    assert_eq!(fixture.shown("deny").conditions, Vec::<String>::new());
    assert_eq!(fixture.node.show_status().0.warnings, Vec::<String>::new());
    let kernel = fixture.kernel.state().ips.clone();
    let mut denied: Vec<(u32, u16)> =
        ["192.0.2.7/32", "198.51.100.0/24"].map(|prefix| (kernel[&net(prefix)].identity, 0)).into();
    denied.sort_unstable();
    assert_eq!(fixture.egress(web, PolicyValue::is_deny), denied);

    // One address less: nothing else changes.
    fixture.write("group.yaml", &GROUP.replace("192.0.2.7, ", ""));
    assert_eq!(fixture.egress(web, PolicyValue::is_deny).len(), 1);
    fixture.write("group.yaml", &GROUP.replace("192.0.2.7", "nonsense"));
    let refused = &fixture.node.desired.refused[0];
    assert!(refused.errors[0].starts_with("spec.addresses[0]: \"nonsense\" is neither"), "{refused:?}");
    assert_eq!(fixture.egress(web, PolicyValue::is_deny).len(), 1, "the last good one stays");
    fixture.remove("group.yaml");
    assert_eq!(fixture.egress(web, PolicyValue::is_deny), []);
    assert_eq!(fixture.shown("deny").conditions.len(), 1);
}

#[test]
fn secrets_that_cannot_be_read_are_told_and_such_connections_are_refused() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.write("tls.yaml", TLS);
    let conditions = fixture.shown("tls").conditions.join("\n");
    for part in ["terminatingTLS names secret shop/own", "no proxy runs", "180"] {
        assert!(conditions.contains(part), "{conditions} lacks {part}");
    }
    let worlds = [(2, 443), (9, 443), (10, 443)];
    let redirected = fixture.egress(web, |value| value.proxy_port_be != 0);
    assert_eq!(redirected, worlds, "nothing passes without the proxy");
    assert_eq!(fixture.egress(web, |value| value.proxy_port_be == 0), []);
}
