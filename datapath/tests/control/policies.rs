use super::*;

#[test]
fn a_new_endpoint_has_no_policy_and_is_not_ready() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    assert_eq!(datapath.endpoints(), []);
    let wish = EndpointRecord { word: 0xffff, policy: [ready(9); 2], ..endpoint(7, 40) };
    datapath.add_endpoint(3, &wish).unwrap();
    let record = datapath.endpoint(3).unwrap();
    assert_eq!(record.policy, [PolicyState::default(); 2], "state comes with a policy only");
    assert_eq!((record.id, record.ifindex, record.identity, record.ipv4), (7, 40, 1007, [10, 0, 0, 7]));
    assert_eq!(epoch(&datapath, 3), 1);
    assert!(!datapath.is_ready(3));
    assert_eq!(datapath.slot_of(40).unwrap(), Some(3));
    assert_eq!(datapath.policy(3).unwrap().len(), 0);
}

#[test]
fn an_update_reaches_both_tries_and_flips_once() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    let before = active(&datapath, 1);

    let first = [allow(300, 80, 1), allow(301, 80, 1)];
    let new_epoch = datapath.apply_policy(1, &first, &[], ready(1)).unwrap();
    assert_eq!(new_epoch, 2);
    assert_ne!(active(&datapath, 1), before, "the other trie is active now");
    assert!(datapath.is_ready(1));

    let second = [allow(301, 80, 2), allow(302, 443, 2)];
    datapath.apply_policy(1, &second, &[key(300, 80), key(999, 9)], ready(2)).unwrap();
    assert_eq!(active(&datapath, 1), before);
    assert_eq!(epoch(&datapath, 1), 3);
    let expected = HashMap::from(second);
    assert_eq!(datapath.policy(1), Some(&expected));
    for side in 0..2 {
        assert_eq!(datapath.policy_side(1, side).unwrap(), expected, "trie {side}");
    }
    let record = datapath.endpoint(1).unwrap();
    assert_eq!(record.policy[before as usize], ready(2));
    assert_eq!(record.policy[1 - before as usize], ready(1), "the inactive side keeps what it had");
}

#[test]
fn the_inactive_trie_is_written_first_and_the_active_one_after_the_flip() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    datapath.apply_policy(1, &[allow(300, 80, 1)], &[], ready(1)).unwrap();
    let old_side = active(&datapath, 1);

    // The halves of an update, as `apply_policies` runs them around the grace period.
    let update = PolicyUpdate {
        slot: 1,
        upserts: vec![allow(301, 81, 2)],
        deletes: vec![key(300, 80)],
        state: ready(2),
    };
    datapath.apply_first_half(&update).unwrap();
    assert_eq!(active(&datapath, 1), 1 - old_side, "packets use the new trie");
    assert_eq!(datapath.policy_side(1, 1 - old_side).unwrap(), HashMap::from([allow(301, 81, 2)]));
    assert_eq!(
        datapath.policy_side(1, old_side).unwrap(),
        HashMap::from([allow(300, 80, 1)]),
        "a program that looked up the old trie before the flip still sees the whole old policy"
    );

    // The agent dies here. The next update finds a trie that is behind and brings it up to date before use.
    datapath.apply_policy(1, &[allow(302, 82, 3)], &[], ready(3)).unwrap();
    let expected = HashMap::from([allow(301, 81, 2), allow(302, 82, 3)]);
    for side in 0..2 {
        assert_eq!(datapath.policy_side(1, side).unwrap(), expected, "trie {side}");
    }
}

#[test]
fn what_can_wait_is_done_later_and_never_forgotten() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    datapath.apply_policy(1, &[allow(300, 80, 1), allow(301, 80, 1)], &[], ready(1)).unwrap();
    let old = HashMap::from([allow(300, 80, 1), allow(301, 80, 1)]);
    let old_side = active(&datapath, 1);
    let update = |upserts: &[_], deletes: &[_], revision| PolicyUpdate {
        slot: 1,
        upserts: upserts.to_vec(),
        deletes: deletes.to_vec(),
        state: ready(revision),
    };

    datapath.start_policies(&[update(&[allow(302, 80, 2)], &[key(300, 80)], 2)]).remove(0).unwrap();
    let second = HashMap::from([allow(301, 80, 1), allow(302, 80, 2)]);
    assert!(datapath.has_unfinished_policies());
    assert_eq!(active(&datapath, 1), 1 - old_side);
    assert_eq!(datapath.policy_side(1, 1 - old_side).unwrap(), second);
    assert_eq!(datapath.policy_side(1, old_side).unwrap(), old, "a program may still look at it");

    // The next one needs the trie that is behind.
    datapath.start_policies(&[update(&[allow(301, 80, 3)], &[key(302, 80)], 3)]).remove(0).unwrap();
    let third = HashMap::from([allow(301, 80, 3)]);
    assert_eq!(active(&datapath, 1), old_side);
    assert_eq!(datapath.policy_side(1, old_side).unwrap(), third);
    assert_eq!(datapath.policy_side(1, 1 - old_side).unwrap(), second);
    specola_testkit::eventually("the other trie follows", std::time::Duration::from_secs(10), || {
        datapath.finish_policies();
        if datapath.has_unfinished_policies() { Err("unfinished") } else { Ok(()) }
    });
    assert_eq!(datapath.policy_side(1, 1 - old_side).unwrap(), third);
}

#[test]
fn many_endpoints_change_under_one_call_and_one_failure_hurts_nobody_else() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    for slot in 1..=4 {
        datapath.add_endpoint(slot, &endpoint(slot, 40 + u32::from(slot))).unwrap();
    }
    let update = |slot, port, revision| PolicyUpdate {
        slot,
        upserts: vec![allow(300, port, 1)],
        deletes: vec![],
        state: ready(revision),
    };
    // Slot 2 twice: both must count. Slot 9 is empty.
    let updates = [update(1, 1, 1), update(2, 2, 1), update(9, 9, 1), update(2, 22, 2), update(3, 3, 1)];
    let results = datapath.apply_policies(&updates);
    let epochs: Vec<_> = results.iter().map(|result| result.as_ref().ok().copied()).collect();
    assert_eq!(epochs, [Some(2), Some(2), None, Some(3), Some(2)]);
    let message = results[2].as_ref().unwrap_err().to_string();
    assert_eq!(message, "endpoint slot 9 is empty: add the endpoint first");
    for (slot, ports) in [(1, vec![1]), (2, vec![2, 22]), (3, vec![3]), (4, vec![])] {
        let expected: HashMap<_, _> = ports.iter().map(|port| allow(300, *port, 1)).collect();
        for side in 0..2 {
            assert_eq!(datapath.policy_side(slot, side).unwrap(), expected, "slot {slot} trie {side}");
        }
    }
}

#[test]
fn a_policy_that_would_not_fit_is_refused_before_anything_is_written() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    let full: Vec<_> = (0..MAX_ENTRIES).map(|index| allow(300 + index, 80, 1)).collect();
    datapath.apply_policy(1, &full, &[], ready(1)).unwrap();
    let (record, content) = (datapath.endpoint(1), datapath.policy(1).cloned().unwrap());
    assert_eq!(content.len(), MAX_ENTRIES as usize);

    let one_more = [allow(9, 80, 1), allow(9, 80, 1), full[0]];
    let error = datapath.apply_policy(1, &one_more, &[key(8, 80)], ready(2)).unwrap_err();
    assert!(matches!(error, ApplyError::Full { slot: 1, have: 16384, need: 16385, max: 16384 }), "{error}");
    assert!(error.to_string().contains("needs 16385 entries, 16384 fit"), "{error}");
    assert_eq!(datapath.endpoint(1), record, "no flip");
    for side in 0..2 {
        assert_eq!(datapath.policy_side(1, side).unwrap(), content, "trie {side}");
    }

    // One out, one in fits.
    datapath.apply_policy(1, &[allow(9, 80, 1)], &[full[0].0], ready(2)).unwrap();
    for side in 0..2 {
        let now = datapath.policy_side(1, side).unwrap();
        assert!(now.contains_key(&key(9, 80)) && !now.contains_key(&full[0].0), "trie {side}");
    }
}

#[test]
fn malformed_entries_are_refused_whole() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    let (good_key, value) = allow(300, 80, 1);
    let bad = (PolicyKey { prefix_len: 50, ..good_key }, value);
    let error = datapath.apply_policy(1, &[allow(301, 80, 1), bad], &[], ready(1)).unwrap_err();
    assert!(matches!(error, ApplyError::BadEntry { slot: 1, .. }), "{error}");
    assert_eq!(datapath.policy_side(1, 0).unwrap().len() + datapath.policy_side(1, 1).unwrap().len(), 0);
    assert!(!datapath.is_ready(1));
}

#[test]
fn a_slot_belongs_to_one_endpoint_until_it_is_removed() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    datapath.add_endpoint(1, &endpoint(7, 40)).unwrap();
    datapath.apply_policy(1, &[allow(300, 80, 1)], &[], ready(1)).unwrap();

    let error = datapath.add_endpoint(1, &endpoint(8, 41)).unwrap_err().to_string();
    assert_eq!(error, "endpoint slot 1 belongs to endpoint 7 on interface 40: remove that one first");

    // The same endpoint under a new identity keeps its policy and gets a new epoch.
    let before = epoch(&datapath, 1);
    datapath.add_endpoint(1, &EndpointRecord { identity: 5555, ..endpoint(7, 40) }).unwrap();
    let record = datapath.endpoint(1).unwrap();
    assert_eq!((record.identity, epoch(&datapath, 1)), (5555, before + 1));
    assert!(datapath.is_ready(1));
    assert_eq!(datapath.policy(1).unwrap().len(), 1);

    datapath.remove_endpoint(1).unwrap();
    assert_eq!(datapath.endpoint(1), None);
    assert_eq!(datapath.slot_of(40).unwrap(), None);
    datapath.remove_endpoint(1).unwrap();

    // The next endpoint begins empty, under an epoch that no cached verdict has.
    datapath.add_endpoint(1, &endpoint(8, 41)).unwrap();
    assert!(epoch(&datapath, 1) > before + 1);
    assert!(!datapath.is_ready(1));
    for side in 0..2 {
        assert_eq!(datapath.policy_side(1, side).unwrap().len(), 0, "trie {side}");
    }
}

#[test]
fn addresses_are_kept_and_every_change_moves_the_node_epoch() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    let net = |text: &str| -> IpNet { text.parse().unwrap() };
    let info = |identity| IpInfo { identity, slot: 3, flags: 1, node_ipv4: [192, 168, 0, 1] };
    let mut last = datapath.node_epoch();
    let mut moved = |datapath: &Datapath| {
        let now = datapath.node_epoch();
        std::mem::replace(&mut last, now) != now
    };
    for (text, identity) in
        [("10.0.0.1/32", 1), ("10.0.0.0/8", 2), ("0.0.0.0/0", 3), ("fd00::1/128", 4), ("::/0", 5)]
    {
        datapath.upsert_ip(net(text), info(identity)).unwrap();
        assert!(moved(&datapath), "{text}");
        assert_eq!(datapath.ips().unwrap()[&net(text)], info(identity), "{text}");
    }
    datapath.upsert_ip(net("10.0.0.1/32"), info(9)).unwrap();
    assert!(moved(&datapath));
    assert!(datapath.remove_ip(net("fd00::1/128")).unwrap());
    assert!(moved(&datapath));
    assert!(!datapath.remove_ip(net("fd00::1/128")).unwrap());
    assert!(!moved(&datapath));
    assert!(datapath.remove_ip(net("10.0.0.0/8")).unwrap());
    assert!(!datapath.remove_ip(net("10.0.0.0/8")).unwrap());

    let wanted = HashMap::from([(net("10.0.0.1/32"), info(9)), (net("10.9.0.0/16"), info(7))]);
    assert_eq!(datapath.sync_ips(&wanted).unwrap(), 3, "one in, two out");
    assert_eq!(datapath.ips().unwrap(), wanted);
    assert_eq!(datapath.sync_ips(&wanted).unwrap(), 0);
}
