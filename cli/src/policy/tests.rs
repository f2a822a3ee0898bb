use specola_policy::parse_policies;

use super::*;

const GOOD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: closed
  namespace: shop
spec:
  podSelector: {}
  policyTypes: [Ingress]
";

fn printed(name: &str, text: &str) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    print_file(&mut out, &mut err, name, &parse_policies(name, text)).unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn valid_files_are_counted() {
    assert_eq!(printed("a.yaml", GOOD), ("a.yaml: 1 policy is valid\n".to_owned(), String::new()));
    let two = format!("{GOOD}---\n{}", GOOD.replace("closed", "closed-too"));
    assert_eq!(printed("a.yaml", &two).0, "a.yaml: 2 policies are valid\n");
    assert_eq!(printed("a.yaml", "kind: ConfigMap\napiVersion: v1\n").1, "warning: a.yaml holds no policy\n");
}

#[test]
fn every_error_has_file_line_and_field() {
    let bad = GOOD.replace("[Ingress]", "[Sideways]");
    let (out, err) = printed("dir/a.yaml", &bad);
    assert_eq!(out, "");
    assert!(err.starts_with("dir/a.yaml:8: "), "{err}");
    assert!(err.contains("spec.policyTypes[0]: "), "{err}");
    assert!(err.ends_with("dir/a.yaml: 1 error\n"), "{err}");
    let json = file_json("dir/a.yaml", &parse_policies("dir/a.yaml", &bad));
    assert_eq!(json["errors"][0]["line"], 8);
    assert_eq!(json["policies"], json!([]));
}

#[test]
fn directories_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.yml", "a.yaml", "c.txt"] {
        fs::write(dir.path().join(name), GOOD).unwrap();
    }
    let names: Vec<_> = read(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
    let path = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(names, [path("a.yaml"), path("b.yml")]);
    let empty = tempfile::tempdir().unwrap();
    assert!(read(empty.path()).unwrap_err().to_string().ends_with("holds no .yaml or .yml file"));
    assert!(
        format!("{:#}", read(Path::new("/nonexistent.yaml")).unwrap_err())
            .starts_with("cannot read /nonexistent.yaml: ")
    );
}

#[test]
fn objects_that_every_node_has_are_printed_once() {
    let policy = specola_proto::specola::v1::Policy {
        name: "closed".to_owned(),
        revision: 4,
        source: "a.yaml:1".to_owned(),
        yaml: GOOD.to_owned(),
        ..Default::default()
    };
    let answer = GetPolicyResponse { revision: 4, policies: vec![policy], ..GetPolicyResponse::default() };
    let mut out = Vec::new();
    print_objects(&mut out, &[("n1".to_owned(), answer.clone()), ("n2".to_owned(), answer)]).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), format!("# a.yaml:1 revision 4\n{GOOD}"));
}
