//! What an operator sets: names, and audit mode.

use std::collections::BTreeSet;

use specola_datapath::abi::policy::VALUE_AUDIT;

use super::*;

const TO_NAMES: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: names, namespace: shop}\nspec:\n  \
    endpointSelector: {matchLabels: {app: web}}\n  egress:\n  - toFQDNs: [{matchPattern: '*.example.org'}]\n";
const DOCUMENT: &str = "apiVersion: specola.io/v1alpha1\nkind: FQDNCache\nmetadata: {name: names}\nspec:\n  names:\n  \
    - {name: api.example.org, addresses: [192.0.2.9]}\n";

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| ip(text)).collect()
}

impl Fixture {
    /// Peers that web may reach by name.
    fn reachable(&self, id: u16) -> Vec<String> {
        let policies = self.kernel.state().policies[&self.endpoint(id).file.slot].clone();
        let identities: BTreeSet<u32> = policies
            .keys()
            .filter(|key| key.egress != 0 && key.identity != 0)
            .map(|key| key.identity)
            .collect();
        let ips = self.kernel.state().ips.clone();
        let mut prefixes: Vec<String> = ips
            .into_iter()
            .filter(|(_, info)| identities.contains(&info.identity))
            .map(|(prefix, _)| prefix.addr().to_string())
            .collect();
        prefixes.sort();
        prefixes
    }

    fn shown_names(&self) -> Vec<String> {
        let entries = self.node.show_names().into_iter();
        entries.map(|entry| format!("{} {} {:?}", entry.name, entry.source, entry.selectors)).collect()
    }

    fn audited(&self) -> Vec<String> {
        let list = self.node.show_audit().into_iter();
        list.map(|one| format!("{} {}/{} {}", one.kind, one.namespace, one.name, one.source)).collect()
    }
}

#[test]
fn names_of_documents_and_of_the_operator_are_reachable_also_after_a_restart() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let device = fixture.endpoint(web).file.host_ifname.clone();
    fixture.write("p.yaml", TO_NAMES);
    fixture.write("names.yaml", DOCUMENT);
    assert_eq!(fixture.reachable(web), ["192.0.2.9"]);
    fixture.node.set_name("db.example.org", addresses(&["192.0.2.1", "192.0.2.2"])).expect("sets");
    fixture.node.set_name("other.test", addresses(&["192.0.2.3"])).expect("sets");
    assert_eq!(fixture.reachable(web), ["192.0.2.1", "192.0.2.2", "192.0.2.9"]);
    assert_eq!(
        fixture.shown_names(),
        [
            "api.example.org document [\"*.example.org\"]",
            "db.example.org admin [\"*.example.org\"]",
            "other.test admin []"
        ]
    );
    fixture.node.set_name("db.example.org", addresses(&["192.0.2.2"])).expect("replaces");
    assert_eq!(fixture.reachable(web), ["192.0.2.2", "192.0.2.9"]);

    let mut fixture = fixture.restart(&[(11, device)]);
    fixture.pass();
    assert_eq!(fixture.reachable(web), ["192.0.2.2", "192.0.2.9"]);
    assert_eq!(fixture.node.delete_names("*.example.org").expect("deletes"), ["db.example.org"]);
    assert_eq!(fixture.reachable(web), ["192.0.2.9"], "what a document says stays");
    let error = fixture.node.delete_names("api.example.org").expect_err("it is a document's");
    assert!(
        matches!(&error, NodeError::Unknown(text) if text.contains("specola fqdn cache list")),
        "{error}"
    );
    assert!(fixture.node.set_name("a b", addresses(&["192.0.2.1"])).is_err());
}

#[test]
fn a_policy_is_audited_on_demand_until_it_goes() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let device = fixture.endpoint(web).file.host_ifname.clone();
    fixture.write("p.yaml", &allow("p", "db"));
    let target =
        AuditTarget::Policy { kind: String::new(), namespace: "shop".to_owned(), name: "p".to_owned() };
    let audits = |fixture: &Fixture| {
        let policies = &fixture.kernel.state().policies[&fixture.endpoint(web).file.slot];
        policies.values().any(|value| value.deny_plen & VALUE_AUDIT != 0)
    };
    assert!(!audits(&fixture));
    assert!(fixture.node.set_audit(&target, true).expect("switches").is_empty());
    assert!(audits(&fixture), "what the policy would drop is an entry that audits");
    assert_eq!(fixture.audited(), ["CiliumNetworkPolicy shop/p admin"]);
    assert!(fixture.node.show_policies("", "").policies[0].audit);
    let revision = fixture.node.engine.repository().revision();
    fixture.write("p.yaml", &allow("p", "far"));
    assert!(audits(&fixture), "also another version of it");

    let mut fixture = fixture.restart(&[(11, device)]);
    fixture.pass();
    assert!(audits(&fixture), "also after a restart");
    assert!(fixture.node.engine.repository().revision() > revision);
    assert!(fixture.node.set_audit(&target, false).expect("switches").is_empty());
    assert!(!audits(&fixture));
    fixture.node.set_audit(&target, true).expect("switches");
    fixture.remove("p.yaml");
    assert_eq!(fixture.audited(), [""; 0], "it went with the policy");
    fixture.write("p.yaml", &allow("p", "db"));
    assert!(!audits(&fixture), "one of the same name is another one");

    let unknown =
        AuditTarget::Policy { kind: String::new(), namespace: "shop".to_owned(), name: "q".to_owned() };
    let error = fixture.node.set_audit(&unknown, true).expect_err("is not there").to_string();
    assert!(error.contains("no policy shop/q is in force"), "{error}");
}

#[test]
fn a_namespace_is_audited_on_demand_and_its_annotation_is_named() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let device = fixture.endpoint(web).file.host_ifname.clone();
    fixture.write("p.yaml", &allow("p", "db"));
    let audits = |fixture: &Fixture| {
        let record = fixture.kernel.state().endpoints[&fixture.endpoint(web).file.slot];
        record.policy[0].flags & policy_flags::AUDIT != 0
    };
    let target = AuditTarget::Namespace("shop".to_owned());
    fixture.node.set_audit(&target, true).expect("switches");
    assert!(audits(&fixture) && fixture.node.show_id(web).expect("is there").audit);
    let mut fixture = fixture.restart(&[(11, device)]);
    fixture.pass();
    assert!(audits(&fixture));
    let annotated = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {specola.io/policy-audit-mode: enabled}}\n";
    fixture.write("namespace.yaml", annotated);
    let remaining = fixture.node.set_audit(&target, false).expect("switches");
    assert_eq!(remaining.len(), 1, "the annotation stays: {remaining:?}");
    assert!(audits(&fixture));
    fixture.remove("namespace.yaml");
    assert!(!audits(&fixture));
    let unknown = AuditTarget::Namespace("shpo".to_owned());
    let error = fixture.node.set_audit(&unknown, true).expect_err("is not there").to_string();
    assert!(error.contains("no namespace \"shpo\"") && error.contains("shop"), "{error}");
}
