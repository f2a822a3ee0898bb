//! Another build over what this one pinned, and back, under a connection that lives on.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use specola_datapath::{Build, CtFormat, OBJECT, Step, V1};

use super::*;

#[path = "../../../build/nested.rs"]
mod nested;

const V2: CtFormat = CtFormat { version: 2, ..V1 };
const NEXT: Build = Build { version: 2, steps: &[Step { from: V1, to: V2, convert: <[u8]>::to_vec }] };
/// A build whose connections have eight bytes more.
const WIDE: CtFormat = CtFormat { version: 2, value_size: V1.value_size + 8, ..V1 };
const TO_WIDE: Build =
    Build { version: 2, steps: &[Step { from: V1, to: WIDE, convert: |value| [value, &[0; 8]].concat() }] };
const FROM_WIDE: Build = Build {
    version: 1,
    steps: &[Step { from: WIDE, to: V1, convert: |value| value[..V1.value_size].to_vec() }],
};
const BACK: Build = Build { version: 1, steps: &[Step { from: V2, to: V1, convert: <[u8]>::to_vec }] };

#[test]
fn a_connection_lives_through_an_upgrade_and_back() {
    lives_through(&[(NEXT, OBJECT.to_vec()), (BACK, OBJECT.to_vec())]);
}

#[test]
fn a_connection_lives_through_longer_entries_and_back() {
    lives_through(&[(TO_WIDE, wide_object()), (FROM_WIDE, OBJECT.to_vec())]);
}

/// The programs, built from a copy of their source in which connections have eight bytes more.
fn wide_object() -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wide");
    for part in ["common", "ebpf"] {
        run(Command::new("mkdir").arg("-p").arg(copy.join(part)));
        run(Command::new("cp").args(["-rT"]).args([source.join(part), copy.join(part)]));
    }
    let change = |file: &str, from: &str, to: &str| {
        let path = copy.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from} in {file}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let abi = "common/src/conntrack.rs";
    change(abi, "pub sides: [CtSide; 2],", "pub sides: [CtSide; 2],\n    pub more: u64,");
    change(abi, "size_of::<CtValue>() == 128", "size_of::<CtValue>() == 136");
    change("ebpf/src/conntrack.rs", "fresh.pad = 0;", "fresh.pad = 0;\n    fresh.more = 7;");
    let endian = if cfg!(target_endian = "big") { "big" } else { "little" };
    let built =
        nested::build_object(&copy.join("ebpf"), &[], &copy.join("target"), (std::env::consts::ARCH, endian));
    std::fs::read(built.unwrap()).unwrap()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn lives_through(builds: &[(Build, Vec<u8>)]) {
    let mut node = Node::new(AttachMode::Auto);
    let entry = allow(1000 + u32::from(ALICE.0), 80, 8);
    node.let_into_bob(&[entry]);
    let config = node.pins.config();
    let records: Vec<(u16, EndpointRecord)> = node.datapath.endpoints();
    let Node { alice, bob, datapath, _ns: ns, pins: _pins } = node;
    drop(datapath);

    let listener = bob.enter(|| TcpListener::bind(SocketAddrV4::new(BOB.1, 80))).unwrap();
    let connect = || {
        let near =
            alice.enter(|| TcpStream::connect_timeout(&listener.local_addr().unwrap(), LIMIT)).unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        (near, far)
    };
    let (mut near, mut far) = connect();
    let port = near.local_addr().unwrap().port();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (stop, rounds) = (&stop, &rounds);
        let talk = scope.spawn(move || {
            let mut byte = [0];
            while !stop.load(Ordering::Acquire) {
                near.write_all(&[1]).unwrap();
                far.read_exact(&mut byte).unwrap();
                far.write_all(&[2]).unwrap();
                near.read_exact(&mut byte).unwrap();
                rounds.fetch_add(1, Ordering::AcqRel);
            }
        });
        for (build, object) in builds {
            let mut datapath = Datapath::load_build(&config, object, build).unwrap();
            assert!(datapath.has_old_maps().unwrap());
            assert_eq!(datapath.endpoints(), [], "its maps begin empty");
            for (slot, record) in &records {
                datapath.add_endpoint(*slot, record).unwrap();
                let info = IpInfo { identity: record.identity, slot: *slot, ..IpInfo::default() };
                datapath.upsert_ip(IpNet::from(std::net::IpAddr::from(record.ipv4)), info).unwrap();
            }
            let out = allow_all(EGRESS);
            datapath.apply_policy(ALICE.0, &[out, allow_all(INGRESS)], &[], ready(1)).unwrap();
            datapath.apply_policy(BOB.0, &[out, entry], &[], ready(1)).unwrap();
            let migrated = datapath.migrate_connections().unwrap();
            assert!(migrated.iter().any(|map| map.copied > 0), "{migrated:?}");
            for (_, record) in &records {
                ns.enter(|| datapath.attach_endpoint(record.ifindex)).unwrap();
            }
            datapath.remove_old_maps().unwrap();

            let before = rounds.load(Ordering::Acquire);
            eventually("traffic over the old connection", LIMIT, || {
                let now = rounds.load(Ordering::Acquire);
                if now > before + 100 { Ok(()) } else { Err(now) }
            });
            let dropped = |reason: u8| {
                let counts = datapath.packet_counts().unwrap();
                counts.iter().filter(|count| count.reason == reason).map(|count| count.packets).sum::<u64>()
            };
            assert_eq!((dropped(drop::POLICY_DENIED), dropped(drop::EP_NOT_READY)), (0, 0));
            drop(connect());
            Node::socket(&alice, 0).send_to(b"no", SocketAddrV4::new(BOB.1, 9001)).unwrap();
            assert_eq!(dropped(drop::POLICY_DENIED), 1, "what was forbidden still is");
        }
        stop.store(true, Ordering::Release);
        talk.join().unwrap();
    });

    let mut datapath = Datapath::load_maps(&config).unwrap();
    let mut found = None;
    let tables = datapath.take_conntrack().unwrap();
    let mut look = |connection: Connection| {
        if connection.ends() == [(ALICE.1.into(), port), (BOB.1.into(), 80)] {
            found = Some(connection.value);
        }
    };
    tables.for_each(&mut look).unwrap();
    let value = found.expect("the connection is known");
    // Packets in the moment between the copy and the change of programs are counted in the table that goes.
    let rounds = rounds.into_inner();
    assert!(
        value.packets.iter().all(|packets| *packets > rounds / 2),
        "{:?}, {rounds} rounds",
        value.packets
    );
    assert_eq!(value.flags & abi::conntrack::flags::MID_STREAM, 0, "known from its first packet");
}
