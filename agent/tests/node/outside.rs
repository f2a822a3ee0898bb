//! What commands see and do beside an agent, and without one.

use specola_agent::bpf::{NodePlace, NodeView};
use specola_agent::{Cleanup, Outcome, PreflightOptions, preflight};
use specola_testkit::eventually;
use specola_testkit::netns::NetNs;
use std::time::Duration;

use crate::world::{World, pings, pod, request, revision_ready};

const FROM_DB: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: from-db, namespace: shop}\n\
                       spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n\
                       \x20 - fromEndpoints: [{matchLabels: {app: db}}]\n";

#[test]
fn tables_are_shown_and_removed_with_tcx() {
    tables_are_shown_and_removed("tcx");
}

#[test]
fn tables_are_shown_and_removed_with_clsact() {
    tables_are_shown_and_removed("clsact");
}

fn tables_are_shown_and_removed(attach: &'static str) {
    let world = World::new(&format!("outside-{attach}"), attach);
    let (web, db) = (NetNs::new("web").expect("namespace"), NetNs::new("db").expect("namespace"));
    world.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    world.write("policy.yaml", FROM_DB);
    world.with_agent(async |mut client| {
        client.add_endpoint(request("web", &web)).await.expect("adds web");
        client.add_endpoint(request("db", &db)).await.expect("adds db");
        revision_ready(&client, 1).await;
        assert!(pings(&db, "10.7.0.2"));
        let error = Cleanup::prepare(world.place(), false).expect_err("an agent runs").to_string();
        assert!(error.contains("in use by a running agent"), "{error}");
        check_tables(&world.place(), attach);
    });
    check_tables(&world.place(), attach);
    check_preflight(&world, attach);

    let kept = Cleanup::prepare(world.place(), true).expect("no agent runs").plan().clone();
    assert_eq!(kept.devices, ["specola_host"]);
    let cleanup = Cleanup::prepare(world.place(), false).expect("no agent runs");
    let plan = cleanup.plan().clone();
    assert_eq!((plan.devices.len(), plan.programs.len(), plan.policy_tries), (3, 6, 4), "{plan:?}");
    assert!(plan.programs.iter().all(|program| program.ends_with(&format!("({attach})"))), "{plan:?}");
    assert!(pings(&db, "10.7.0.2"), "looking changes nothing");
    assert_eq!(cleanup.run().expect("removes all"), plan);
    let links = world.node.ip("link show");
    assert!(!links.contains("lxc") && !links.contains("specola_"), "{links}");
    assert!(!world.place().pin_dir.exists());
    let again = Cleanup::prepare(world.place(), false).expect("nothing is there");
    assert!(again.plan().is_empty(), "{:?}", again.plan());
    again.run().expect("nothing to do");

    world.with_agent(async |mut client| {
        let added = client.add_endpoint(request("web", &web)).await.expect("adds web anew").into_inner();
        let address = added.ips[0].address.strip_suffix("/32").expect("a host address");
        assert!(pings(&world.node, address), "{added:?}");
    });
}

fn check_tables(place: &NodePlace, attach: &str) {
    let view = NodeView::open(place.clone()).expect("maps are pinned");
    assert_eq!(view.notes(), Vec::<String>::new());
    // The second half of an update comes when the kernel's grace period is over.
    let endpoints = eventually("both tries are in step", Duration::from_secs(10), || {
        let endpoints = view.endpoints().expect("reads").entries;
        if endpoints.iter().all(|row| row.in_step) { Ok(endpoints) } else { Err(endpoints) }
    });
    let pods: Vec<_> = endpoints.iter().map(|row| row.pod.as_deref().unwrap_or_default()).collect();
    assert_eq!(pods, ["shop/web", "shop/db"]);
    let (web, db) = (&endpoints[0], &endpoints[1]);
    assert!(web.ready && web.in_step && web.interface.as_ref().is_some_and(|name| name.starts_with("lxc")));
    assert_eq!(web.default_ingress.origins[0].name, "from-db");

    let policy = view.policy(Some(web.endpoint)).expect("reads");
    let by_db = policy.entries.iter().find(|row| row.identity.id == db.identity.id).expect("an entry of db");
    assert_eq!((by_db.direction, by_db.action, by_db.last_port), ("ingress", "allow", 65535));
    assert_eq!(by_db.cookie.origins[0].name, "from-db");
    assert!(by_db.identity.labels.contains(&"k8s:app=db".to_owned()), "{by_db:?}");
    assert_eq!(policy.maps[0].used, u64::try_from(policy.entries.len()).expect("few"));
    assert!(view.policy(Some(999)).is_err());

    let connections = view.connections().expect("reads").entries;
    let ping =
        connections.iter().find(|row| row.initiator.pod.as_deref() == Some("shop/db")).expect("the ping");
    assert_eq!((ping.protocol, ping.responder.pod.as_deref()), (1, Some("shop/web")));
    assert_eq!((ping.initiator.verdict, ping.responder.verdict), (Some("allowed"), Some("allowed")));
    assert!(ping.initiator.packets >= 1 && ping.responder.packets >= 1, "{ping:?}");

    let addresses = view.addresses().expect("reads");
    let whole = addresses.entries.iter().find(|row| row.pod.as_deref() == Some("shop/web"));
    assert_eq!(whole.map(|row| row.identity.id), Some(web.identity.id));
    let lanes = view.lanes().expect("reads");
    assert!(lanes.iter().all(|lane| lane.attempts == lane.submitted + lane.lost + lane.folded), "{lanes:?}");
    assert!(view.packets().expect("reads").iter().any(|row| row.reason_name == "FORWARDED"));

    let programs = view.programs().expect("reads").entries;
    let from = programs.iter().find(|row| row.name == "from_container").expect("the programs are loaded");
    let hooks: Vec<_> =
        from.hooks.iter().map(|hook| (hook.hook, hook.by, hook.interface.is_some())).collect();
    assert_eq!(hooks, [("ingress", attach, true); 2]);
}

fn check_preflight(world: &World, attach: &str) {
    let options = PreflightOptions {
        pin_dir: world.place().pin_dir,
        devices: vec!["specola_host".to_owned(), "absent0".to_owned()],
        host_devices: None,
    };
    let checks = world.node.enter(|| preflight(&options));
    let outcome = |name: &str| {
        let check = checks.iter().find(|check| check.name == name);
        check.unwrap_or_else(|| panic!("no {name} in {checks:?}")).outcome
    };
    for name in ["rights", "kernel", "bpf()", "programs", "hooks", "bpffs", "IPv4 forwarding"] {
        assert_eq!(outcome(name), Outcome::Ok, "{name} {checks:?}");
    }
    assert_eq!(outcome("other programs on specola_host"), Outcome::Ok, "its own are no others ({attach})");
    assert_eq!(outcome("device absent0"), Outcome::Fail);
}
