//! The policy revision over restarts.

use super::*;

impl Fixture {
    fn revisions(&self) -> (u64, Vec<(String, u64)>) {
        let repository = self.node.engine.repository();
        let each =
            repository.iter().map(|stored| (stored.object().reference.name.clone(), stored.revision()));
        (repository.revision(), each.collect())
    }
}

#[test]
fn revisions_survive_a_restart_and_never_go_back() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let device = fixture.endpoint(web).file.host_ifname.clone();
    for from in ["db", "far", "db"] {
        fixture.write("p.yaml", &allow("p", from));
    }
    fixture.write("q.yaml", &allow("q", "db"));
    let before = fixture.revisions();
    assert_eq!(before, (5, vec![("p".to_owned(), 4), ("q".to_owned(), 5)]));
    let slot = fixture.endpoint(web).file.slot;
    let entries = fixture.kernel.state().policies[&slot].clone();

    let mut fixture = fixture.restart(&[(11, device.clone())]);
    fixture.pass();
    assert_eq!(fixture.revisions(), before);
    assert_eq!(fixture.kernel.state().policies[&slot], entries, "the rules have the cookies that they had");
    assert_eq!(fixture.endpoint(web).realized.as_ref().map(|realized| realized.revision), Some(5));
    assert_eq!(fixture.node.show_status().0.policy_revision, 5);

    // What changes while no agent runs counts as changes.
    std::fs::remove_file(fixture.dir.path().join("desired/q.yaml")).expect("removes");
    std::fs::write(fixture.dir.path().join("desired/p.yaml"), allow("p", "near")).expect("writes");
    let mut fixture = fixture.restart(&[(11, device.clone())]);
    fixture.pass();
    let (whole, each) = fixture.revisions();
    assert!(whole >= 7, "two changes: {whole}");
    assert_eq!(each, [("p".to_owned(), 6)]);
    let mut fixture = fixture.restart(&[(11, device)]);
    fixture.pass();
    assert_eq!(fixture.revisions(), (whole, each));
}
