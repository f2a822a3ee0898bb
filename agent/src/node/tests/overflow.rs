//! Policies that need more entries than the kernel's map has.

use specola_proto::specola::v1 as pb;

use super::*;

/// Lets `from` reach web at a number of ports.
fn allow_ports(name: &str, from: &str, ports: std::ops::Range<u16>) -> String {
    let rule = |port: u16| {
        format!(
            "  - fromEndpoints:\n    - matchLabels: {{app: {from}}}\n    toPorts:\n    - ports:\n      - {{port: '{port}', protocol: TCP}}\n"
        )
    };
    let rules: String = ports.map(rule).collect();
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n{rules}"
    )
}

impl Fixture {
    /// Of each policy its name, the endpoints that it selects and that have it, and the number of its conditions.
    fn statuses(&self) -> Vec<(String, usize, usize, usize)> {
        let policies = self.node.show_policies("", "").policies;
        let status = |policy: pb::Policy| {
            let (selected, realized) = (policy.endpoints_selected, policy.endpoints_realized);
            (policy.name, selected as usize, realized as usize, policy.conditions.len())
        };
        policies.into_iter().map(status).collect()
    }
}

/// A policy that does not fit, and one that fits again.
fn overflow(overflow: PolicyOverflow) {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir(dir.path().join("desired")).expect("makes the directory");
    let mut fixture = Fixture::start(dir, FakeKernel::default(), overflow);
    fixture.write("pods.yaml", &[pod("web"), pod("db"), pod("mail")].join("---\n"));
    let web = fixture.add("web", 11);
    fixture.add("db", 12);
    fixture.add("mail", 13);
    fixture.write("small.yaml", &allow_ports("small", "db", 1000..1010));
    let slot = fixture.endpoint(web).file.slot;
    let before = fixture.kernel.state().policies[&slot].clone();
    assert!(before.len() > 10);

    fixture.write("big.yaml", &allow_ports("big", "mail", 2000..2060));
    let now = fixture.kernel.state().policies[&slot].clone();
    match overflow {
        PolicyOverflow::Keep => assert_eq!(now, before, "the last policy that fitted, whole"),
        PolicyOverflow::Deny => assert_eq!(now, HashMap::new()),
    }
    assert!(fixture.is_ready_in_kernel(web), "denies are by policy, not for want of one");
    let endpoint = fixture.endpoint(web);
    assert_eq!(endpoint.state, State::NotReady);
    let [condition] = endpoint.conditions.iter().collect::<Vec<_>>()[..] else {
        panic!("{:?}", endpoint.conditions)
    };
    for part in ["needs 7", "64 fit", "shop/big (60), shop/small (10)"] {
        assert!(condition.contains(part), "{condition} lacks {part}");
    }
    let kept = usize::from(overflow == PolicyOverflow::Keep);
    assert_eq!(fixture.statuses(), [("big".to_owned(), 1, 0, 1), ("small".to_owned(), 1, kept, 1 - kept)]);
    let status = match overflow {
        PolicyOverflow::Keep => pb::PolicyStatus::Outdated,
        PolicyOverflow::Deny => pb::PolicyStatus::Closed,
    };
    assert_eq!(fixture.node.show_id(web).expect("is there").policy_status(), status);
    assert!(!fixture.node.retry, "only another policy or identity helps");
    fixture.pass();
    assert!(
        fixture.kernel.state().log.is_empty(),
        "nothing is written again: {:?}",
        fixture.kernel.state().log
    );
    assert_eq!(fixture.endpoint(web).conditions.len(), 1);

    fixture.write("big.yaml", &allow_ports("big", "mail", 2000..2020));
    assert_eq!(fixture.endpoint(web).state, State::Ready);
    assert!(fixture.endpoint(web).conditions.is_empty());
    assert_eq!(fixture.kernel.state().policies[&slot].len(), before.len() + 20);
    assert_eq!(fixture.statuses(), [("big".to_owned(), 1, 1, 0), ("small".to_owned(), 1, 1, 0)]);
    assert_eq!(fixture.node.show_id(web).expect("is there").policy_status(), pb::PolicyStatus::Realized);
}

#[test]
fn a_policy_that_does_not_fit_leaves_the_last_one_in_force() {
    overflow(PolicyOverflow::Keep);
}

#[test]
fn a_policy_that_does_not_fit_closes_the_endpoint_on_demand() {
    overflow(PolicyOverflow::Deny);
}

#[test]
fn a_policy_says_that_its_newer_document_is_refused() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    fixture.write("p.yaml", &allow("p", "db"));
    let shown = fixture.node.show_policies("", "").policies;
    assert_eq!((shown[0].endpoints_selected, shown[0].endpoints_realized), (1, 1));
    assert_eq!(shown[0].conditions, [""; 0]);
    fixture.write("p.yaml", &allow("p", "db").replace("fromEndpoints", "fromNobody"));
    let shown = fixture.node.show_policies("", "").policies;
    assert_eq!(shown[0].endpoints_realized, 1, "the last good one stays in force");
    let [condition] = shown[0].conditions.as_slice() else { panic!("{:?}", shown[0].conditions) };
    assert!(condition.starts_with("p.yaml:") && condition.contains("is refused: "), "{condition}");
    let wanted = Wanted::Id(web.into());
    let found = fixture.node.show_endpoint(&wanted).expect("is there");
    let [applied] = found.policies.as_slice() else { panic!("{:?}", found.policies) };
    assert!(applied.realized && applied.name == "p" && applied.revision == 2, "{applied:?}");
}
