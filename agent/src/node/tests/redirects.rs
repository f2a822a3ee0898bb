//! Connections that a proxy has to judge.

use super::*;
use specola_proto::specola::v1::request_rules::Rules;

/// Lets `from` ask web for one method.
fn method(name: &str, from: &str, method: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{app: {from}}}\n    \
         toPorts:\n    - ports: [{{port: '80', protocol: TCP}}]\n      rules:\n        http: [{{method: {method}}}]\n"
    )
}

#[test]
fn an_endpoint_shows_the_rules_about_requests_of_all_policies() {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir(dir.path().join("desired")).expect("makes the directory");
    let mut fixture = Fixture::start(dir, FakeKernel::default(), PolicyOverflow::Keep);
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let db = fixture.add("db", 12);
    fixture.write("get.yaml", &method("get", "db", "GET"));
    fixture.write("post.yaml", &method("post", "db", "POST"));
    let show = |fixture: &Fixture| {
        let shown = fixture.node.show_endpoint(&Wanted::Id(web.into())).expect("the endpoint is there");
        let redirected = shown.policy.iter().filter(|entry| entry.action == "redirect").count();
        (redirected, shown.redirects)
    };
    let (entries, redirects) = show(&fixture);
    assert_eq!((entries, redirects.len()), (1, 1), "{redirects:?}");
    assert_eq!((redirects[0].protocol, redirects[0].first_port, redirects[0].last_port), (6, 80, 80));
    let [grant] = redirects[0].grants.as_slice() else { panic!("{redirects:?}") };
    assert_eq!(grant.identities, [fixture.endpoint(db).file.identity]);
    assert_eq!((grant.parser.as_str(), grant.all_requests, grant.origins.len()), ("http", false, 2));
    let [rules] = grant.rules.as_slice() else { panic!("{grant:?}") };
    let Some(Rules::Http(http)) = &rules.rules else { panic!("{rules:?}") };
    let methods: Vec<_> = http.rules.iter().filter_map(|rule| rule.method.as_deref()).collect();
    assert_eq!(methods, ["GET", "POST"]);

    fixture.remove("get.yaml");
    assert_eq!(show(&fixture).1[0].grants[0].origins.len(), 1);
    fixture.write("all.yaml", &allow("all", "db"));
    let grant = &show(&fixture).1[0].grants[0];
    assert!(grant.all_requests && grant.rules.is_empty(), "{grant:?}");
    fixture.remove("post.yaml");
    assert_eq!(show(&fixture), (0, Vec::new()));
}
