//! What the node tells about itself.

use specola_proto::flow::agent_event::Notification;
use specola_proto::flow::{AgentEvent, AgentEventType as Kind};

use super::*;

/// Events since the last call.
fn news(fixture: &Fixture, told: &mut usize) -> Vec<AgentEvent> {
    let events = fixture.log.events();
    let new = events[*told..].to_vec();
    *told = events.len();
    new
}

fn kinds(events: &[AgentEvent]) -> Vec<Kind> {
    events.iter().map(AgentEvent::r#type).collect()
}

#[test]
fn endpoints_addresses_and_policies_are_told() {
    let mut fixture = Fixture::new();
    let mut told = 0;
    fixture.write("web.yaml", &pod("web"));
    news(&fixture, &mut told);

    let id = fixture.add("web", 11);
    let events = news(&fixture, &mut told);
    assert_eq!(events[0].r#type(), Kind::EndpointCreated);
    match &events[0].notification {
        Some(Notification::EndpointUpdate(update)) => {
            let pod = (update.namespace.as_str(), update.pod_name.as_str());
            assert_eq!((update.id, pod), (u64::from(id), ("shop", "web")));
        }
        other => panic!("{other:?}"),
    }
    let address = events.iter().find_map(|event| match &event.notification {
        Some(Notification::IpcacheUpdate(update)) if update.cidr == "10.0.1.2/32" => Some(update),
        _ => None,
    });
    let address = address.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!((address.namespace.as_str(), address.pod_name.as_str()), ("shop", "web"));
    assert!(kinds(&events).contains(&Kind::EndpointRegenerateSuccess), "{events:?}");

    fixture.write("p.yaml", &allow("p", "db"));
    let events = news(&fixture, &mut told);
    assert_eq!(kinds(&events), [Kind::PolicyUpdated, Kind::EndpointRegenerateSuccess]);
    match &events[0].notification {
        Some(Notification::PolicyUpdate(update)) => {
            assert!(update.labels.contains(&"k8s:io.cilium.k8s.policy.name=p".to_owned()), "{update:?}");
            assert_eq!((update.rule_count, update.revision > 1), (1, true));
        }
        other => panic!("{other:?}"),
    }
    fixture.pass();
    assert!(news(&fixture, &mut told).is_empty(), "nothing changed");

    fixture.remove("p.yaml");
    assert_eq!(kinds(&news(&fixture, &mut told)), [Kind::PolicyDeleted, Kind::EndpointRegenerateSuccess]);

    fixture.node.disconnect(&key("web")).expect("disconnects");
    fixture.node.forget(id).expect("forgets");
    let events = kinds(&news(&fixture, &mut told));
    assert!(events.contains(&Kind::IpcacheDeleted), "{events:?}");
    assert_eq!(events.last(), Some(&Kind::EndpointDeleted));
}
