use insta::assert_snapshot;
use specola_proto::specola::v1::RefusedDocument;

use super::*;

fn policy(name: &str, revision: u64, selected: u32, realized: u32) -> Policy {
    Policy {
        kind: "CiliumNetworkPolicy".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        revision,
        endpoints_selected: selected,
        endpoints_realized: realized,
        ..Policy::default()
    }
}

fn answers() -> Vec<(String, GetPolicyResponse)> {
    let refused = RefusedDocument {
        source: "a.yaml:9".to_owned(),
        errors: vec!["spec: bad".to_owned()],
        object: String::new(),
    };
    let late = Policy {
        conditions: vec!["endpoint shop/db: policy needs 9 map entries, 4 fit \u{1b}[1m".to_owned()],
        audit: true,
        ..policy("late", 7, 3, 1)
    };
    let answer = |policies| GetPolicyResponse {
        policies,
        refused: vec![refused.clone()],
        ..GetPolicyResponse::default()
    };
    vec![
        ("n1".to_owned(), answer(vec![policy("a", 3, 2, 2), late])),
        ("n2".to_owned(), answer(vec![policy("a", 5, 1, 1), policy("late", 7, 1, 1)])),
    ]
}

#[test]
fn policies_are_one_row_with_the_endpoints_of_all_nodes() {
    let mut out = Vec::new();
    print_in_force(&mut out, &answers()).unwrap();
    assert_snapshot!(String::from_utf8(out).unwrap(), @r"
    KIND                  NAMESPACE   NAME   REVISION   SELECTED   REALIZED   AUDIT   STATUS
    CiliumNetworkPolicy   shop        a      3-5        3          3          -       ok
    CiliumNetworkPolicy   shop        late   7          4          2          yes     1 below
    CiliumNetworkPolicy shop/late on n1: endpoint shop/db: policy needs 9 map entries, 4 fit ^[[1m
    refused on n1, n2: a.yaml:9: spec: bad
    ");
}

#[test]
fn json_has_each_node() {
    let shown = in_force_json(&answers());
    let late = &shown["policies"][1];
    assert_eq!((&late["endpoints_selected"], &late["endpoints_realized"]), (&json!(4), &json!(2)));
    assert_eq!(late["nodes"][0]["endpoints_realized"], 1);
    assert_eq!(late["nodes"][1]["node"], "n2");
    assert_eq!(
        shown["refused"],
        json!([{"source": "a.yaml:9", "error": "spec: bad", "nodes": ["n1", "n2"]}])
    );
}
