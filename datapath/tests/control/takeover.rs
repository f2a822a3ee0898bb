//! Another layout of the maps: what an earlier build pinned goes on under this one.

use specola_datapath_common::conntrack::{CtKey4, CtSide, CtValue};

use super::*;

#[test]
fn connections_move_to_a_table_of_another_size() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    let tables = datapath.take_conntrack().unwrap();
    let mut tables = tables;
    let connection = |port, stamp| {
        let side = CtSide { stamp, slot: 1, cookie: 9, ..CtSide::default() };
        let key = CtKey4 {
            lo_addr: [10, 0, 0, 1],
            hi_addr: [10, 0, 0, 2],
            lo_port: 40000,
            hi_port: port,
            proto: 6,
            ..CtKey4::default()
        };
        let value = CtValue {
            packets: [u64::from(port), 2],
            bytes: [300, 200],
            sides: [side; 2],
            ..CtValue::default()
        };
        Connection { key: ConnectionKey::V4(key), value }
    };
    for port in 1..=500 {
        assert!(tables.insert(&connection(port, CtSide::stamp_of(0, 1, port == 7))).unwrap());
    }
    drop((datapath, tables));

    let mut datapath = Datapath::load_maps(&Config { ct_tcp_entries: 4096, ..pins.config() }).unwrap();
    assert!(datapath.has_old_maps().unwrap());
    let mut tables = datapath.take_conntrack().unwrap();
    // The new programs may have seen one already.
    let newer =
        Connection { value: CtValue { packets: [9999, 0], ..connection(3, 0).value }, ..connection(3, 0) };
    assert!(tables.insert(&newer).unwrap());
    let migrated = datapath.migrate_connections().unwrap();
    let copied: Vec<_> = migrated.iter().map(|map| (map.pin.as_str(), map.copied, map.lost)).collect();
    assert_eq!(copied, [("SP_CT4_TCP@1-old", 499, 0), ("SP_CT6_TCP@1-old", 0, 0)]);
    for port in (1..=500).filter(|port| *port != 3) {
        let stamp = (u64::MAX << 32) | u64::from(port == 7);
        let expected = connection(port, stamp);
        assert_eq!(
            tables.lookup(&expected.key).unwrap(),
            Some(expected.value),
            "decided anew, else as it was"
        );
    }
    assert_eq!(tables.lookup(&newer.key).unwrap(), Some(newer.value));
    assert_eq!(datapath.remove_old_maps().unwrap(), ["SP_CT4_TCP@1-old", "SP_CT6_TCP@1-old"]);
    assert!(!datapath.has_old_maps().unwrap());
}

#[test]
fn connections_of_an_unknown_layout_are_counted_and_left() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    let pin = pins.config().pin_dir.join("SP_CT4_TCP@77");
    let mut strange = aya::maps::HashMap::<_, [u8; 16], [u8; 144]>::create(8, 0).unwrap();
    strange.insert([1; 16], [2; 144], 0).unwrap();
    strange.pin(&pin).unwrap();
    let migrated = datapath.migrate_connections().unwrap();
    assert_eq!(migrated.len(), 1);
    assert_eq!((migrated[0].pin.as_str(), migrated[0].copied, migrated[0].lost), ("SP_CT4_TCP@77", 0, 1));
    assert_eq!(datapath.remove_old_maps().unwrap(), ["SP_CT4_TCP@77"]);
}
