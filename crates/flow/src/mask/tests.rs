use super::*;

fn compile(paths: &[&str]) -> Result<Option<FlowMask>, InvalidMask> {
    FlowMask::compile(&paths.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn sample() -> pb::Flow {
    pb::Flow {
        uuid: "u".into(),
        verdict: 2,
        source: Some(pb::Endpoint {
            id: 7,
            namespace: "shop".into(),
            pod_name: "web".into(),
            labels: vec!["a".into(), "b".into()],
            ..pb::Endpoint::default()
        }),
        ip: Some(pb::Ip { source: "10.0.0.1".into(), ..pb::Ip::default() }),
        is_reply: Some(false),
        summary: "s".into(),
        ..pb::Flow::default()
    }
}

#[test]
fn no_path_asks_for_everything() {
    assert_eq!(compile(&[]), Ok(None));
}

#[test]
fn wanted_fields_stay() {
    let source = |endpoint| pb::Flow { source: Some(endpoint), ..pb::Flow::default() };
    for (paths, expected) in [
        (&["uuid"][..], pb::Flow { uuid: "u".into(), ..pb::Flow::default() }),
        (&["IP"], pb::Flow { ip: sample().ip, ..pb::Flow::default() }),
        (
            &["Summary", "is_reply"],
            pb::Flow { summary: "s".into(), is_reply: Some(false), ..pb::Flow::default() },
        ),
        (&["source.pod_name"], source(pb::Endpoint { pod_name: "web".into(), ..pb::Endpoint::default() })),
        (
            &["source.labels", "source.ID"],
            source(pb::Endpoint { id: 7, labels: vec!["a".into(), "b".into()], ..pb::Endpoint::default() }),
        ),
        (&["source", "source.pod_name"], pb::Flow { source: sample().source, ..pb::Flow::default() }),
        (&["source.pod_name", "source"], pb::Flow { source: sample().source, ..pb::Flow::default() }),
        // Absent in the flow, but there with parts wanted.
        (
            &["destination.namespace"],
            pb::Flow { destination: Some(pb::Endpoint::default()), ..pb::Flow::default() },
        ),
        (&["destination"], pb::Flow::default()),
        (&["l4.TCP.flags"], pb::Flow { l4: Some(pb::Layer4::default()), ..pb::Flow::default() }),
    ] {
        let mask = compile(paths).unwrap().unwrap();
        assert_eq!(mask.apply(&sample()).unwrap(), expected, "{paths:?}");
    }
}

#[test]
fn an_absent_alternative_does_not_displace_the_other() {
    let l4 = |protocol| pb::Flow { l4: Some(pb::Layer4 { protocol: Some(protocol) }), ..pb::Flow::default() };
    let udp = pb::layer4::Protocol::Udp(pb::Udp { source_port: 1, destination_port: 53 });
    let tcp = |flags| pb::layer4::Protocol::Tcp(pb::Tcp { source_port: 0, destination_port: 80, flags });
    let mask = compile(&["l4.TCP.destination_port", "l4.UDP"]).unwrap().unwrap();
    assert_eq!(mask.apply(&l4(udp.clone())).unwrap(), l4(udp));
    assert_eq!(mask.apply(&l4(tcp(Some(pb::TcpFlags::default())))).unwrap(), l4(tcp(None)));
}

#[test]
fn wrong_paths_are_named() {
    for path in
        ["", "nope", "source.nope", "source.", ".source", "ip", "uuid.x", "source.nope", "node_labels.x"]
    {
        let error = compile(&["uuid", path]).unwrap_err();
        assert_eq!(error.to_string(), format!("invalid fieldmask: flow.Flow has no field \"{path}\""));
    }
    assert!(compile(&["source", "source.nope"]).is_err());
}

#[test]
fn broken_encodings_are_errors() {
    let mask = compile(&["uuid"]).unwrap().unwrap();
    for bytes in [
        &[0x0a_u8, 0x05, 0x00][..],
        &[0x80],
        &[0x0b],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    ] {
        assert!(keep(&mask.root, bytes, &mut Vec::new()).is_err(), "{bytes:?}");
    }
}
