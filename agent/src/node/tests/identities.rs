//! Identities go when nobody needs them, and no others: after the last packet that found them.

use super::*;

const NAMES: &str = "apiVersion: specola.io/v1alpha1\nkind: FQDNCache\nmetadata: {name: names}\nspec:\n  names:\n  \
                     - {name: example.com, addresses: [198.51.100.7]}\n";
const BY_NAME: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: fqdn, namespace: shop}\n\
                       spec:\n  endpointSelector: {matchLabels: {app: web}}\n  egress:\n  \
                       - toFQDNs: [{matchName: example.com}]\n";

impl Fixture {
    fn egress_identity(&self, id: u16, prefix: &str) -> Option<u32> {
        let kernel = self.kernel.state();
        let identity = kernel.ips.get(&net(prefix))?.identity;
        let policy = &kernel.policies[&self.endpoint(id).file.slot];
        policy.keys().any(|key| key.egress == 1 && key.identity == identity).then_some(identity)
    }
}

#[test]
fn the_address_of_a_name_outlives_prefixes_of_other_policies() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.write("names.yaml", NAMES);
    fixture.write("fqdn.yaml", BY_NAME);
    let identity =
        fixture.egress_identity(web, "198.51.100.7/32").expect("the name's address may be reached");
    fixture.write("cidr.yaml", &allow_cidr("192.0.2.0/24", ""));
    fixture.remove("cidr.yaml");
    assert!(!fixture.kernel.state().ips.contains_key(&net("192.0.2.0/24")));
    assert_eq!(fixture.egress_identity(web, "198.51.100.7/32"), Some(identity));
    fixture.pass();
    assert_eq!(fixture.egress_identity(web, "198.51.100.7/32"), Some(identity));
}

#[test]
fn policies_forget_an_identity_when_no_packet_can_have_it() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    fixture.add("web", 11);
    fixture.write("a.yaml", &allow_cidr("192.0.2.0/24", "192.0.2.128/25"));
    fixture.remove("a.yaml");
    let log = fixture.kernel.state().log.clone();
    let last_gone = log.iter().rposition(|line| line.ends_with("gone")).expect("addresses are forgotten");
    let waited = log.iter().position(|line| line == "no packet under way").expect("it waits");
    assert!(last_gone < waited, "{log:?}");
}

#[test]
fn policies_forget_an_identity_after_its_last_address() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.write("p.yaml", &allow("p", "far"));
    let number = fixture.put_far();
    fixture.pass();
    assert_eq!(fixture.ingress_peers(web), [1, number]);
    let endpoint = crate::store::Key::namespaced("shop", "far");
    assert!(fixture.store.delete(crate::store::Kind::Endpoint, &endpoint).expect("deletes"));
    let identity = crate::store::Key::cluster(number.to_string());
    assert!(fixture.store.delete(crate::store::Kind::Identity, &identity).expect("deletes"));
    fixture.kernel.state().log.clear();
    fixture.pass();
    assert_eq!(fixture.ingress_peers(web), [1]);
    // Who found the identity in the ipcache is judged by a policy that knows it.
    let log = fixture.kernel.state().log.clone();
    assert_eq!(log, ["ip 10.0.2.9/32 gone", "no packet under way", "policy of slot 1: []"]);
}
