//! Where the answer of two maps may change: the edges of their entries.

use std::collections::{BTreeMap, BTreeSet};

use super::Protocols;
use crate::map_state::{Entry, Key};

/// Edges of one direction.
#[derive(Debug)]
pub(super) struct Spans {
    identities: BTreeSet<u32>,
    protocols: BTreeSet<u8>,
    /// First ports of stretches that are alike, by identity and protocol.
    starts: BTreeMap<(u32, u8), BTreeSet<u16>>,
}

impl Spans {
    pub(super) fn new<'a>(entries: impl Iterator<Item = (&'a Key, &'a Entry)>, egress: bool) -> Self {
        let mut spans =
            Self { identities: BTreeSet::from([0]), protocols: BTreeSet::new(), starts: BTreeMap::new() };
        for (key, _) in entries.filter(|(key, _)| key.egress == egress) {
            spans.identities.insert(key.identity);
            if key.proto == 0 {
                continue;
            }
            spans.protocols.insert(key.proto);
            let (first, last) = key.ports();
            let starts = spans.starts.entry((key.identity, key.proto)).or_default();
            starts.insert(first);
            starts.extend(last.checked_add(1));
        }
        spans
    }

    /// Identities that an entry names, and 0 for all others.
    pub(super) fn identities(&self) -> impl Iterator<Item = u32> {
        self.identities.iter().copied()
    }

    /// Protocols, each with the number to ask about.
    pub(super) fn protocols(&self) -> Vec<(Protocols, u8)> {
        let named = self.protocols.iter().map(|proto| (Protocols::One(*proto), *proto));
        let other = (1..=u8::MAX).rev().find(|proto| !self.protocols.contains(proto));
        named.chain(other.map(|proto| (Protocols::Others, proto))).collect()
    }

    /// Stretches of ports that both maps treat alike, first and last.
    pub(super) fn ports(&self, identity: u32, proto: u8) -> Vec<(u16, u16)> {
        // An entry for everybody counts for each of them.
        let mut starts = BTreeSet::from([0]);
        for identity in [0, identity] {
            starts.extend(self.starts.get(&(identity, proto)).into_iter().flatten());
        }
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([u16::MAX]);
        starts.iter().copied().zip(ends).collect()
    }
}
