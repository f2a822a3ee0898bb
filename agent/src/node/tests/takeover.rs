//! Programs of an earlier build, with maps of another layout.

use super::*;

/// The agent dies, and one comes back that finds no policy and no endpoint in its own maps.
fn upgraded(overflow: PolicyOverflow) -> (Fixture, u16) {
    let mut fixture = Fixture::new();
    fixture.node.settings.overflow = overflow;
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    fixture.write("p.yaml", &allow("p", "db"));
    {
        let mut kernel = fixture.kernel.state();
        kernel.old_maps = true;
        kernel.endpoints.clear();
        kernel.policies.clear();
        kernel.ips.clear();
        kernel.log.clear();
    }
    let devices =
        [(3, "host".to_owned()), (4, "net".to_owned()), (11, fixture.endpoint(web).file.host_ifname.clone())];
    (fixture.restart(&devices), web)
}

#[test]
fn programs_change_when_the_new_maps_are_full_and_old_maps_go_last() {
    let (mut fixture, web) = upgraded(PolicyOverflow::Keep);
    let programs = |log: &[String]| log.iter().any(|line| line.starts_with("programs"));
    assert!(!programs(&fixture.kernel.state().log), "no program is hooked before its policy is there");
    fixture.pass();
    assert_eq!(fixture.endpoint(web).state, State::Ready);
    let log = fixture.kernel.state().log.clone();
    let at = |start: &str| log.iter().position(|line| line.starts_with(start)).expect(start);
    assert!(at("ip 10.0.1.2/32") < at("connections"), "{log:?}");
    assert!(at("policy of slot") < at("connections"), "{log:?}");
    let rest = ["connections", "programs at 3", "programs at 4", "programs at 11", "old maps gone"];
    assert_eq!(log[at("connections")..at("connections") + rest.len()], rest);
    fixture.pass();
    assert_eq!(fixture.kernel.state().log, Vec::<String>::new(), "it is done once");
}

#[test]
fn an_endpoint_without_its_policy_keeps_the_old_programs() {
    let (mut fixture, web) = upgraded(PolicyOverflow::Keep);
    fixture.kernel.state().full = true;
    fixture.pass();
    assert_ne!(fixture.endpoint(web).state, State::Ready);
    let log = fixture.kernel.state().log.clone();
    assert!(!log.iter().any(|line| line == "programs at 11" || line == "old maps gone"), "{log:?}");
    assert!(fixture.node.retry);
    fixture.kernel.state().full = false;
    fixture.pass();
    let log = fixture.kernel.state().log.clone();
    assert_eq!(log.last().map(String::as_str), Some("old maps gone"), "{log:?}");
    assert!(log.iter().any(|line| line == "programs at 11"), "{log:?}");
}
