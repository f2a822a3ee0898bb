use specola_testkit::netns::NetNs;

use super::*;

#[test]
fn a_restart_keeps_endpoints_policies_and_addresses() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    datapath.apply_policy(1, &[allow(300, 80, 1)], &[], ready(1)).unwrap();
    let net: IpNet = "10.0.0.1/32".parse().unwrap();
    datapath.upsert_ip(net, IpInfo { identity: 300, ..IpInfo::default() }).unwrap();
    let (endpoints, ips) = (datapath.endpoints(), datapath.ips().unwrap());
    let node_epoch = datapath.node_epoch();
    drop(datapath);

    let mut datapath = pins.load();
    assert_eq!(datapath.recreated(), []);
    assert_eq!(datapath.endpoints(), endpoints);
    assert_eq!(datapath.policy(1), Some(&HashMap::from([allow(300, 80, 1)])));
    assert_eq!(datapath.ips().unwrap(), ips);
    assert_eq!(datapath.node_epoch(), node_epoch);
    // The agent adds what it restores: nothing of the policy is lost.
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    assert_eq!(datapath.endpoints(), endpoints);
    datapath.apply_policy(1, &[allow(301, 81, 2)], &[], ready(2)).unwrap();
    for side in 0..2 {
        assert_eq!(datapath.policy_side(1, side).unwrap().len(), 2, "trie {side}");
    }
}

#[test]
fn a_restart_in_the_middle_of_an_update_keeps_the_policy_that_packets_saw() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    datapath.apply_policy(1, &[allow(300, 80, 1)], &[], ready(1)).unwrap();
    let update = PolicyUpdate {
        slot: 1,
        upserts: vec![allow(301, 81, 2)],
        deletes: vec![key(300, 80)],
        state: ready(2),
    };
    datapath.apply_first_half(&update).unwrap();
    drop(datapath);

    let mut datapath = pins.load();
    assert_eq!(datapath.policy(1), Some(&HashMap::from([allow(301, 81, 2)])));
    datapath.apply_policy(1, &[], &[], ready(3)).unwrap();
    for side in 0..2 {
        assert_eq!(datapath.policy_side(1, side).unwrap(), HashMap::from([allow(301, 81, 2)]), "trie {side}");
    }
}

#[test]
fn a_pin_of_another_layout_is_made_anew_and_is_named() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    drop(datapath);

    let datapath = Datapath::load_maps(&Config { ct_tcp_entries: 2048, ..pins.config() }).unwrap();
    let names: Vec<_> = datapath.recreated().iter().map(|map| map.name.as_str()).collect();
    assert_eq!(names, [names::CT4_TCP, names::CT6_TCP]);
    assert_eq!(datapath.recreated()[0].difference, "entries 1024, wanted 2048");
    assert_eq!(datapath.endpoints().len(), 1, "the others stay");
    drop(datapath);

    // A foreign map under the name of the index takes the whole endpoint state with it.
    let pin = pins.config().pin_dir.join(format!("{}@{}", names::IFINDEX_SLOT, abi::LAYOUT_VERSION));
    std::fs::remove_file(&pin).unwrap();
    aya::maps::HashMap::<_, u64, u64>::create(8, 0).unwrap().pin(&pin).unwrap();
    let mut datapath = Datapath::load_maps(&Config { ct_tcp_entries: 2048, ..pins.config() }).unwrap();
    let names: Vec<_> = datapath.recreated().iter().map(|map| map.name.as_str()).collect();
    assert_eq!(names, [names::ENDPOINTS, names::IFINDEX_SLOT, names::POLICY]);
    assert_eq!(datapath.endpoints(), []);
    datapath.add_endpoint(1, &endpoint(8, 41)).unwrap();
    datapath.apply_policy(1, &[allow(300, 80, 1)], &[], ready(1)).unwrap();
}

/// The lanes and what counts their records are one whole: another size of one lane begins all of them anew.
#[test]
fn another_size_of_a_lane_begins_all_its_books_anew() {
    let pins = Pins::new();
    let datapath = pins.load();
    datapath.book().write(&[7; abi::metrics::BOOK_WORDS]);
    drop(datapath);
    let mut config = pins.config();
    config.lane_bytes[1] *= 2;
    let datapath = Datapath::load_maps(&config).unwrap();
    let names: Vec<_> = datapath.recreated().iter().map(|map| map.name.as_str()).collect();
    let mut expected = vec![
        names::RING_DENY,
        names::RING_ALLOW,
        names::RING_TRACE,
        names::LANES,
        names::FOLD,
        names::FOLD_SAMPLE,
        "SP_FOLD_SEEN",
        "SP_READER",
        "SP_BOOK",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let difference = |name| &datapath.recreated().iter().find(|map| map.name == name).unwrap().difference;
    assert!(difference(names::RING_ALLOW).ends_with("0 records in it are lost, its counters begin anew"));
    assert_eq!(difference("SP_BOOK"), "goes with a map that changed");
    assert_eq!(datapath.book().read(), [0; abi::metrics::BOOK_WORDS]);
    assert!(datapath.lane_books().unwrap().iter().all(|lane| lane.is_balanced && lane.taken == 0));
    assert!(datapath.fold_book().unwrap().is_balanced);
    drop(datapath);
    assert_eq!(Datapath::load_maps(&config).unwrap().recreated(), []);
}

#[test]
fn the_book_outlives_its_writer_and_is_never_half_written() {
    let pins = Pins::new();
    let datapath = pins.load();
    assert_eq!(datapath.book().read(), [0; abi::metrics::BOOK_WORDS]);
    let (writer, reader) = (datapath.book(), datapath.book());
    let end = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=end).for_each(|number| writer.write(&[number; abi::metrics::BOOK_WORDS])));
        let mut last = 0;
        while last < end {
            let numbers = reader.read();
            assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
            assert!(numbers[0] >= last);
            last = numbers[0];
        }
    });
    drop((datapath, writer, reader));
    assert_eq!(pins.load().book().read(), [end; abi::metrics::BOOK_WORDS]);
}

#[test]
fn one_process_at_a_time_holds_a_pin_directory() {
    let pins = Pins::new();
    let mut first = pins.load();
    let error = Datapath::load_maps(&pins.config()).unwrap_err();
    assert!(matches!(error, LoadError::InUse { .. }), "{error}");
    // The reader counts as well: two of them would take each other's events.
    let reader = first.take_reader().unwrap();
    assert!(first.take_reader().is_none());
    drop(first);
    assert!(matches!(Datapath::load_maps(&pins.config()).unwrap_err(), LoadError::InUse { .. }));
    drop(reader);
    drop(pins.load());
}

#[test]
fn maps_of_other_layout_versions_are_removed_on_demand() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    assert!(!datapath.has_old_maps().unwrap());
    let old = pins.config().pin_dir.join("SP_NODE@0");
    aya::maps::Array::<_, u64>::create(1, 0).unwrap().pin(&old).unwrap();
    assert!(datapath.has_old_maps().unwrap());
    assert_eq!(datapath.remove_old_maps().unwrap(), ["SP_NODE@0"]);
    assert!(!old.exists());
    assert_eq!(datapath.remove_old_maps().unwrap(), Vec::<String>::new());
}

#[test]
fn a_wrong_place_or_size_is_refused_with_a_remedy() {
    specola_testkit::require_root();
    let error = Datapath::load_maps(&Config::new("/proc/specola")).unwrap_err();
    assert!(matches!(error, LoadError::NotBpffs { .. }));
    assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    let pins = Pins::new();
    let error = Datapath::load_maps(&Config { lane_bytes: [5000; 3], ..pins.config() }).unwrap_err();
    assert!(matches!(error, LoadError::Config(ConfigError::LaneBytes { bytes: 5000, .. })), "{error}");
}

#[test]
fn links_are_taken_over_and_not_doubled() {
    let pins = Pins::new();
    let ns = NetNs::new("dp-restart").unwrap();
    ns.ip("link add lxc0 type veth peer name eth0");
    let ifindex = ns.ifindex("lxc0");
    let config = Config { attach: AttachMode::Tcx, ..pins.config() };
    let mut programs = Vec::new();
    for round in 0..3 {
        ns.enter(|| {
            let mut datapath = Datapath::load(&config).unwrap();
            datapath.attach_endpoint(ifindex).unwrap();
            if round == 1 {
                datapath.attach_endpoint(ifindex).unwrap();
            }
        });
        let found = ns.enter(|| attaching::tcx_programs("lxc0"));
        assert_eq!(found.len(), 2, "one program per hook: {found:?}");
        programs.push(found);
    }
    assert_ne!(programs[0], programs[1], "the second process put its own programs in");
    ns.enter(|| Datapath::load(&config).unwrap().detach(ifindex).unwrap());
    ns.enter(|| attaching::expect_tcx_programs("lxc0", 0));
}
