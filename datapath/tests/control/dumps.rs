use specola_datapath::{Leftovers, PinnedError, PinnedMaps, Removal, probe};
use specola_testkit::netns::NetNs;

use super::attaching::{expect_tcx_programs, tcx_programs};
use super::*;

#[test]
fn pinned_maps_are_read_beside_an_agent_and_without_one() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(3, &endpoint(7, 40)).unwrap();
    datapath.apply_policy(3, &[allow(300, 80, 1)], &[], ready(1)).unwrap();
    let net: IpNet = "10.0.0.0/8".parse().unwrap();
    datapath.upsert_ip(net, IpInfo { identity: 300, ..IpInfo::default() }).unwrap();
    let connection = connections::some_connection();
    let mut conntrack = datapath.take_conntrack().unwrap();
    assert!(conntrack.insert(&connection).unwrap());

    let pinned = PinnedMaps::open(pins.config().pin_dir).unwrap();
    let check = |endpoints: Vec<(u16, EndpointRecord)>| {
        assert_eq!(pinned.endpoints().unwrap(), endpoints);
        for side in 0..2 {
            assert_eq!(pinned.policy(3, side).unwrap(), HashMap::from([allow(300, 80, 1)]), "trie {side}");
            assert_eq!(pinned.policy(4, side).unwrap(), HashMap::new(), "no such endpoint");
        }
        assert_eq!(
            pinned.ips().unwrap(),
            HashMap::from([(net, IpInfo { identity: 300, ..IpInfo::default() })])
        );
        let mut found = Vec::new();
        pinned.for_each_connection(|connection| found.push(connection)).unwrap();
        assert_eq!(found, [connection]);
        assert_eq!(pinned.lane_fill().unwrap(), [(0, 1 << 16); 3]);
        assert_eq!(pinned.max_entries(names::CT4_TCP).unwrap(), 1024);
        assert_eq!(pinned.packet_counts().unwrap(), []);
    };
    check(datapath.endpoints());
    let endpoints = datapath.endpoints();
    drop((datapath, conntrack));
    check(endpoints);
    // Looking took no lock.
    drop(pins.load());
}

#[test]
fn an_unused_directory_has_nothing_to_show() {
    let pins = Pins::new();
    let error = PinnedMaps::open(pins.config().pin_dir).unwrap_err();
    assert!(matches!(error, PinnedError::Nothing { .. }), "{error}");
    let removal = Removal::prepare(pins.config().pin_dir).unwrap();
    assert_eq!(removal.leftovers().unwrap(), Leftovers::default());
}

#[test]
fn programs_and_links_are_listed_until_they_are_removed() {
    let pins = Pins::new();
    let ns = NetNs::new("dp-dump").unwrap();
    ns.ip("link add lxc0 type veth peer name eth0");
    let ifindex = ns.ifindex("lxc0");
    let config = Config { attach: AttachMode::Tcx, ..pins.config() };
    let pinned = ns.enter(|| {
        let mut datapath = Datapath::load(&config).unwrap();
        datapath.attach_endpoint(ifindex).unwrap();
        let pinned = PinnedMaps::open(&config.pin_dir).unwrap();
        assert!(pinned.programs().unwrap().len() >= 6, "all that are loaded: {:?}", pinned.programs());
        assert!(matches!(Removal::prepare(&config.pin_dir), Err(PinnedError::InUse { .. })));
        pinned
    });
    let attached = ns.enter(|| tcx_programs("lxc0"));
    specola_testkit::eventually("only attached programs stay", std::time::Duration::from_secs(10), || {
        let programs = pinned.programs().unwrap();
        let ids: Vec<_> = programs.iter().map(|program| (program.id, program.name.clone())).collect();
        let links = pinned.links().unwrap();
        let same = ids.len() == 2 && attached.iter().all(|program| ids.contains(program));
        let held = links.iter().all(|link| attached.contains(&(link.program_id, link.program.clone())));
        if same && held && links.len() == 2 { Ok(()) } else { Err((ids, links)) }
    });
    let shown = ns.enter(|| probe::tcx_programs("lxc0").unwrap());
    if let Some(shown) = shown {
        assert!(shown.iter().all(|program| probe::is_own_name(&program.name)), "{shown:?}");
    }

    ns.enter(|| {
        let removal = Removal::prepare(&config.pin_dir).unwrap();
        let removed = removal.run().unwrap();
        assert_eq!((removed.attachments.len(), removed.foreign.len()), (2, 0));
        expect_tcx_programs("lxc0", 0);
    });
    assert!(!config.pin_dir.exists());
}

#[test]
fn this_kernel_has_what_the_datapath_needs() {
    specola_testkit::require_root();
    assert_eq!(probe::missing_kinds().unwrap(), Vec::<&str>::new());
    probe::verify_programs().unwrap_or_else(|error| panic!("{error}"));
    assert!(probe::has_clsact().unwrap());
    assert!(probe::tcx_programs("specola-none").is_err());
}
