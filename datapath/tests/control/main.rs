//! Loading, attaching, policy, restarts and the event reader, with the real kernel.
//!
//! Needs root and bpf(2). Everything happens in network namespaces and BPF file systems of the tests' own.

use std::collections::HashMap;

use ipnet::IpNet;
use specola_datapath::{
    ApplyError, AttachMode, Attachment, Config, ConfigError, Connection, ConnectionKey, Datapath, LoadError,
    PolicyUpdate, ReaderCounts, ReaderWaker, Sweep, Tick, abi,
};
use specola_datapath_common::endpoint::{EndpointRecord, PolicyState, policy_flags};
use specola_datapath_common::event::lane;
use specola_datapath_common::ipcache::IpInfo;
use specola_datapath_common::names;
use specola_datapath_common::policy::{
    FULL_PREFIX_STATIC, MAX_ENTRIES, PRECEDENCE_ALLOW, PREFIX_FULL, PolicyKey, PolicyValue, VALUE_PLEN_SHIFT,
};
use specola_testkit::BpfFs;

mod attaching;
mod connections;
mod dumps;
mod folding;
mod paths;
mod policies;
mod restarts;
mod takeover;
mod traffic;
mod waking;

/// Where a test pins.
struct Pins(BpfFs);

impl Pins {
    fn new() -> Self {
        Self(BpfFs::mount())
    }

    /// Small sizes, so that tests are quick.
    fn config(&self) -> Config {
        Config {
            lane_bytes: [1 << 16; 3],
            ct_tcp_entries: 1024,
            ct_any_entries: 1024,
            ..Config::new(self.0.path().join("cluster/node"))
        }
    }

    /// Maps without programs, which take the verifier a while.
    fn load(&self) -> Datapath {
        Datapath::load_maps(&self.config()).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn endpoint(id: u16, ifindex: u32) -> EndpointRecord {
    let [high, low] = id.to_be_bytes();
    EndpointRecord {
        ifindex,
        identity: 1000 + u32::from(id),
        id,
        mac: [2, 0, 0, 0, high, low],
        host_mac: [2, 0, 0, 1, high, low],
        ipv4: [10, 0, high, low],
        ..EndpointRecord::default()
    }
}

fn key(identity: u32, port: u16) -> PolicyKey {
    PolicyKey { prefix_len: PREFIX_FULL, identity, egress: 0, proto: 6, dport_be: port.to_be() }
}

fn allow(identity: u32, port: u16, cookie: u32) -> (PolicyKey, PolicyValue) {
    let plen = u8::try_from(PREFIX_FULL - FULL_PREFIX_STATIC).unwrap();
    let value = PolicyValue {
        proxy_port_be: 0,
        deny_plen: plen << VALUE_PLEN_SHIFT,
        auth: 0,
        precedence: PRECEDENCE_ALLOW,
        cookie,
    };
    (key(identity, port), value)
}

fn ready(revision: u32) -> PolicyState {
    PolicyState {
        default_cookie_ingress: 100 + revision,
        default_cookie_egress: 200 + revision,
        revision,
        flags: policy_flags::READY,
    }
}

fn active(datapath: &Datapath, slot: u16) -> u32 {
    EndpointRecord::active(datapath.endpoint(slot).expect("a live endpoint").word)
}

fn epoch(datapath: &Datapath, slot: u16) -> u32 {
    EndpointRecord::epoch(datapath.endpoint(slot).expect("a live endpoint").word)
}
