//! What readers see.

use std::{collections::HashMap, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use specola_flow::{
    EventType, Flow, FlowNames, FlowUuid, MetaHandle, MetaTable, Metas, NodeInfo, PolicyOrigin, WireFlow,
    WireOrigins, flags,
};

use crate::addresses::Addresses;

/// One immutable state of the directory.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) endpoints: Arc<HashMap<u16, MetaHandle>>,
    pub(crate) identities: Arc<HashMap<u32, MetaHandle>>,
    pub(crate) origins: Arc<HashMap<u32, Arc<OriginSet>>>,
    pub(crate) interfaces: Arc<HashMap<u32, Arc<str>>>,
    pub(crate) node: Arc<NodeInfo>,
}

/// The rules behind a cookie, with what is made of them for every flow.
#[derive(Debug)]
pub(crate) struct OriginSet {
    pub(crate) origins: Arc<[PolicyOrigin]>,
    pub(crate) wire: WireOrigins,
}

impl FlowNames for Directory {
    fn interface_name(&self, ifindex: u32) -> Option<&str> {
        self.interface(ifindex)
    }

    fn policy_origins(&self, cookie: u32) -> &[PolicyOrigin] {
        self.origins(cookie).map_or(&[], AsRef::as_ref)
    }
}

/// What is known of one side of a packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Who it is.
    pub meta: MetaHandle,
    /// Security identity: the datapath's when it gave one, else the address's.
    pub identity: u32,
    /// Endpoint id when it is local, else 0.
    pub endpoint: u16,
}

impl Directory {
    /// Finds who is behind an address that the datapath gave `identity` (0 = none).
    pub fn find(&self, address: [u8; 16], identity: u32) -> Found {
        let entry = self.addresses.lookup(address).copied().unwrap_or_default();
        let identity = if identity == 0 { entry.identity } else { identity };
        let meta = if entry.meta == MetaHandle::NONE { self.identity(identity) } else { entry.meta };
        Found { meta, identity, endpoint: entry.endpoint }
    }

    /// The entry of an identity that belongs to no certain pod.
    pub fn identity(&self, identity: u32) -> MetaHandle {
        self.identities.get(&identity).copied().unwrap_or_default()
    }

    /// The entry of a local endpoint.
    pub fn endpoint(&self, id: u16) -> MetaHandle {
        self.endpoints.get(&id).copied().unwrap_or_default()
    }

    /// The rules behind a cookie; `None` when it is not known.
    pub fn origins(&self, cookie: u32) -> Option<&Arc<[PolicyOrigin]>> {
        self.origins.get(&cookie).map(|set| &set.origins)
    }

    /// The same rules in encoded form.
    pub fn wire_origins(&self, cookie: u32) -> Option<&WireOrigins> {
        self.origins.get(&cookie).map(|set| &set.wire)
    }

    /// A flow with what its message needs, in encoded form. `metas` were loaded after the flow was read.
    pub fn wire_flow<'a>(&'a self, flow: &'a Flow, uuid: FlowUuid, metas: &'a Metas) -> WireFlow<'a> {
        let is_trace = flow.event_type() == EventType::TRACE;
        WireFlow {
            flow,
            uuid,
            source: metas.wire(flow.source_meta),
            destination: metas.wire(flow.destination_meta),
            // Looked for only where the message says it.
            origins: if flow.has(flags::ATTRIBUTED) { self.wire_origins(flow.cookie) } else { None },
            interface: if is_trace { self.interface(flow.ifindex) } else { None },
            detail: None,
        }
    }

    /// Name of an interface.
    pub fn interface(&self, ifindex: u32) -> Option<&str> {
        self.interfaces.get(&ifindex).map(AsRef::as_ref)
    }

    /// The observing node.
    pub fn node(&self) -> &Arc<NodeInfo> {
        &self.node
    }

    /// Addresses and prefixes.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// A snapshot that stays as it is while it is held.
pub type Snapshot = Guard<Arc<Directory>>;

/// Loads the current snapshot; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct DirectoryReader {
    pub(crate) published: Arc<ArcSwap<Directory>>,
    pub(crate) metas: Arc<MetaTable>,
}

impl DirectoryReader {
    /// The current snapshot. Hold it for a batch, not for long: it keeps its maps alive.
    pub fn load(&self) -> Snapshot {
        self.published.load()
    }

    /// The entries that handles lead to, of old snapshots and of all flows that can be read. Load it after the snapshot
    /// or the flows that the handles come from.
    pub fn metas(&self) -> Metas {
        self.metas.load()
    }
}
