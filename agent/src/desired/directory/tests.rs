use super::reading::MAX_FILE_BYTES;
use super::*;

const OPTIONS: ParseOptions =
    ParseOptions { node_selector_labels: false, extended_protocols: false, cluster_network_policy: true };
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n";

fn policy(name: &str, port: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - toPorts:\n    - ports:\n      - port: {port}\n"
    )
}

struct Fixture {
    dir: tempfile::TempDir,
    memory: tempfile::TempDir,
    desired: DesiredDirectory,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let memory = tempfile::tempdir().expect("temporary directory");
        let desired = open(&dir, &memory);
        Self { dir, memory, desired }
    }

    fn restart(&mut self) {
        self.desired = open(&self.dir, &self.memory);
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect("writes");
    }

    /// Scans, expects a change, and gives the state.
    fn changed(&mut self) -> Desired {
        assert!(self.desired.scan(), "something changed");
        assert!(!self.desired.scan(), "once");
        self.desired.remember();
        self.desired.merge()
    }
}

fn open(dir: &tempfile::TempDir, memory: &tempfile::TempDir) -> DesiredDirectory {
    DesiredDirectory::open(dir.path(), &memory.path().join("desired.jsonl"), OPTIONS).expect("opens")
}

fn policies(desired: &Desired) -> Vec<&str> {
    desired.policies.keys().map(|reference| reference.name.as_str()).collect()
}

#[test]
fn objects_of_all_kinds_are_read() {
    let mut fixture = Fixture::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec: {containers: []}\n";
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.0.0.0/24]}\n";
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    let text = [NAMESPACE, pod, node, other, &policy("p", "'80'")].join("---\n");
    fixture.write("all.yaml", &text);
    fixture.write("ignored.txt", "kind: [");
    let desired = fixture.changed();
    assert!(desired.refused.is_empty(), "{:?}", desired.refused);
    assert!(desired.pod("shop", "web").is_some());
    assert_eq!(desired.nodes["n1"].pod_cidrs().len(), 1);
    assert_eq!(desired.namespace_labels("shop")["team"], "a");
    assert_eq!(policies(&desired), ["p"]);
    assert!(desired.warnings[0].contains("ConfigMap"), "{:?}", desired.warnings);
}

#[test]
fn a_bad_document_is_refused_with_its_place_and_its_last_version_stays() {
    let mut fixture = Fixture::new();
    fixture.write("p.yaml", &format!("{NAMESPACE}---\n{}---\n{}", policy("a", "'80'"), policy("b", "'81'")));
    assert_eq!(policies(&fixture.changed()), ["a", "b"]);
    fixture
        .write("p.yaml", &format!("{NAMESPACE}---\n{}---\n{}", policy("a", "eighty/"), policy("c", "'82'")));
    let desired = fixture.changed();
    assert_eq!(policies(&desired), ["a", "c"], "a as it was, b removed, c new");
    let [refused] = desired.refused.as_slice() else { panic!("{:?}", desired.refused) };
    assert_eq!((refused.file.as_str(), refused.line), ("p.yaml", 13), "{refused:?}");
    assert!(refused.errors[0].starts_with("spec.ingress[0].toPorts[0].ports[0].port: "), "{refused:?}");
    let kept = &desired.policies.values().next().expect("a").text;
    assert!(kept.contains("'80'"), "{kept}");
    fixture.write("p.yaml", NAMESPACE);
    let desired = fixture.changed();
    assert!(desired.policies.is_empty() && desired.refused.is_empty());
}

#[test]
fn a_document_that_is_no_yaml_keeps_everything_that_the_file_no_longer_defines() {
    let mut fixture = Fixture::new();
    fixture.write("p.yaml", &format!("{}---\n{}", policy("a", "'80'"), policy("b", "'81'")));
    fixture.changed();
    fixture.write("p.yaml", &format!("{}---\nkind: [\n", policy("a", "'90'")));
    let desired = fixture.changed();
    assert_eq!(policies(&desired), ["a", "b"]);
    assert!(desired.policies.values().next().expect("a").text.contains("'90'"), "good documents go on");
    assert_eq!(desired.refused.len(), 1);
}

#[test]
fn a_removed_file_removes_its_objects_but_a_lost_directory_none() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &policy("a", "'80'"));
    fixture.write("b.yaml", &policy("b", "'80'"));
    fixture.changed();
    std::fs::remove_file(fixture.dir.path().join("a.yaml")).expect("removes");
    assert_eq!(policies(&fixture.changed()), ["b"]);
    std::fs::remove_dir_all(fixture.dir.path()).expect("removes");
    let desired = fixture.changed();
    assert_eq!(policies(&desired), ["b"]);
    assert!(desired.warnings[0].contains("stays in force"), "{:?}", desired.warnings);
}

#[test]
fn an_object_that_is_defined_twice_is_refused_the_second_time() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &format!("{}---\n{}", policy("a", "'80'"), policy("a", "'81'")));
    fixture.write("b.yaml", &policy("a", "'82'"));
    let desired = fixture.changed();
    assert!(desired.policies.values().next().expect("a").text.contains("'80'"));
    let places: Vec<_> = desired.refused.iter().map(|refused| refused.file.as_str()).collect();
    assert_eq!(places, ["a.yaml", "b.yaml"], "{:?}", desired.refused);
    assert!(desired.refused[1].errors[0].contains("a.yaml:1"), "{:?}", desired.refused);
}

#[test]
fn fields_of_the_wrong_type_and_missing_names_are_refused() {
    for (text, want) in [
        ("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.0.0.0/99]}\n", 4),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", 1),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nstatus: {addresses: [{type: InternalIP, address: x}]}\n",
            1,
        ),
    ] {
        let mut fixture = Fixture::new();
        fixture.write("x.yaml", text);
        let desired = fixture.changed();
        let [refused] = desired.refused.as_slice() else { panic!("{text}: {:?}", desired.refused) };
        assert_eq!(refused.line, want, "{refused:?}");
        assert!(desired.nodes.is_empty() && desired.pods.is_empty());
    }
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let mut fixture = Fixture::new();
    std::fs::write(fixture.dir.path().join("x.yaml"), [0xff, 0xfe, 0x00]).expect("writes");
    let desired = fixture.changed();
    let [refused] = desired.refused.as_slice() else { panic!("{:?}", desired.refused) };
    assert!(refused.errors[0].contains("not UTF-8 text (byte 0)"), "{refused:?}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_waited_for() {
    let mut fixture = Fixture::new();
    let path = |name: &str| fixture.dir.path().join(name);
    nix::unistd::mkfifo(&path("a.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
    std::fs::create_dir(path("b.yaml")).expect("makes a directory");
    let socket = std::os::unix::net::UnixListener::bind(path("c.yaml")).expect("makes a socket");
    std::os::unix::fs::symlink("/dev/zero", path("d.yaml")).expect("links");
    std::os::unix::fs::symlink("nothing", path("e.yaml")).expect("links");
    std::os::unix::fs::symlink("f.yaml", path("f.yaml")).expect("links");
    std::fs::create_dir(path(".hidden.yaml")).expect("makes a directory");
    fixture.write("z.yaml", NAMESPACE);
    let desired = fixture.changed();
    drop(socket);
    let found: Vec<(&str, &str)> =
        desired.refused.iter().map(|refused| (refused.file.as_str(), refused.errors[0].as_str())).collect();
    let want = [
        ("a.yaml", "a named pipe"),
        ("b.yaml", "a directory"),
        ("c.yaml", "a socket"),
        ("d.yaml", "a device"),
        ("f.yaml", "cannot read the file"),
    ];
    assert_eq!(found.len(), want.len(), "{found:?}");
    for ((file, error), (wanted, part)) in found.iter().zip(want) {
        assert!(*file == wanted && error.contains(part), "{file}: {error}");
    }
    assert_eq!(desired.namespace_labels("shop")["team"], "a", "the rest is read");
}

#[test]
fn a_file_that_became_something_else_keeps_its_objects() {
    let mut fixture = Fixture::new();
    fixture.write("p.yaml", &policy("a", "'80'"));
    fixture.changed();
    let path = fixture.dir.path().join("p.yaml");
    std::fs::remove_file(&path).expect("removes");
    std::fs::create_dir(&path).expect("makes a directory");
    let desired = fixture.changed();
    assert_eq!((policies(&desired), desired.refused.len()), (vec!["a"], 1));
    std::fs::remove_dir(&path).expect("removes");
    let desired = fixture.changed();
    assert!(desired.policies.is_empty() && desired.refused.is_empty());
}

#[test]
fn the_longest_file_is_read_and_a_longer_one_refused() {
    let mut fixture = Fixture::new();
    let longest = usize::try_from(MAX_FILE_BYTES).expect("fits");
    let padded = |length: usize| format!("{NAMESPACE}#{}", "x".repeat(length - NAMESPACE.len() - 1));
    fixture.write("x.yaml", &padded(longest));
    let desired = fixture.changed();
    assert!(desired.refused.is_empty() && desired.namespaces.len() == 1);
    fixture.write("x.yaml", &padded(longest + 1));
    let desired = fixture.changed();
    assert!(desired.refused[0].errors[0].contains("split it"), "{:?}", desired.refused);
    assert_eq!(desired.namespaces.len(), 1, "the last version stays");
}

#[test]
fn a_document_that_broke_while_no_agent_ran_keeps_its_last_version() {
    let mut fixture = Fixture::new();
    fixture.write("p.yaml", &format!("{}---\n{}", policy("a", "'80'"), policy("b", "'81'")));
    fixture.write("gone.yaml", &policy("c", "'82'"));
    assert_eq!(policies(&fixture.changed()), ["a", "b", "c"]);
    std::fs::remove_file(fixture.dir.path().join("gone.yaml")).expect("removes");
    fixture.write("p.yaml", &policy("a", "[]"));
    fixture.restart();
    let desired = fixture.changed();
    assert_eq!(policies(&desired), ["a"], "b and c were removed, a was broken");
    assert!(desired.policies.values().next().expect("a").text.contains("'80'"));
    assert_eq!(desired.refused.len(), 1);
}

#[test]
fn looking_at_what_changed_gives_what_looking_at_everything_gives() {
    let mut fixture = Fixture::new();
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: {selector: {app: web}}\n";
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: s, namespace: shop}\nsubsets:\n- addresses: [{ip: 192.0.2.7}]\n";
    let names = "apiVersion: specola.io/v1alpha1\nkind: FQDNCache\nmetadata: {name: dns}\nspec: {names: [{name: a.example, addresses: [192.0.2.1]}]}\n";
    let other_names = "apiVersion: specola.io/v1alpha1\nkind: FQDNCache\nmetadata: {name: dns2}\nspec: {names: [{name: a.example, addresses: [192.0.2.2]}]}\n";
    let both = format!("{}---\n{service}", policy("a", "'80'"));
    let texts = [policy("a", "'80'"), policy("a", "'81'"), policy("b", "'80'"), policy("b", "eighty/"), both]
        .map(Some);
    let more =
        [service, endpoints, names, other_names, NAMESPACE, "kind: ["].map(|text| Some(text.to_owned()));
    let texts: Vec<Option<String>> = texts.into_iter().chain(more).chain([None]).collect();
    // Every pair of texts follows each other in some file, in an order that is not the files' own.
    for step in 0..texts.len() * texts.len() * 3 {
        let path = fixture.dir.path().join(format!("{}.yaml", step % 3));
        match &texts[(step / 3 + step * step / 7) % texts.len()] {
            Some(text) => std::fs::write(&path, text).expect("writes"),
            None => std::fs::remove_file(&path).unwrap_or_default(),
        }
        fixture.desired.scan_paths(&[path, fixture.dir.path().join("other/x.yaml")].into());
        let told = fixture.desired.merge();
        assert!(!fixture.desired.scan(), "step {step}: there is nothing else");
        let (told, looked) = (described(&told), described(&fixture.desired.merge()));
        assert_eq!(told, looked, "step {step}");
        let again = fixture.desired.merged_anew();
        assert_eq!(told, described(&again), "step {step}");
    }
}

fn described(desired: &Desired) -> String {
    let policies: Vec<_> = desired.policies.iter().map(|(key, policy)| (key, &policy.text)).collect();
    let Desired { namespaces, services, fqdn, refused, warnings, .. } = desired;
    format!("{policies:?} {namespaces:?} {services:?} {fqdn:?} {refused:?} {warnings:?}")
}

#[test]
fn files_that_went_with_the_directory_change_nothing() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &policy("a", "'80'"));
    fixture.changed();
    let path = fixture.dir.path().join("a.yaml");
    std::fs::remove_dir_all(fixture.dir.path()).expect("removes");
    assert!(!fixture.desired.scan_paths(&[path].into()));
    assert_eq!(policies(&fixture.desired.merge()), ["a"]);
}
