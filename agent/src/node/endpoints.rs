//! Endpoints come and go.
//!
//! A link takes a while to make, so adding is two calls with the link between them: [`Node::plan`] reserves, then
//! [`Node::attach`] puts it into force or [`Node::abandon`] takes it back. Removing is [`Node::disconnect`], then
//! [`Node::forget`]: an address is not given again before its link is gone.

use std::path::PathBuf;

use specola_datapath::abi::endpoint::{EndpointRecord, LAST_POD_SLOT};
use specola_labels::NumericIdentity;

use super::Node;
use super::life::Endpoint;
use crate::endpoint::{EndpointFile, EndpointKey, State};
use crate::ipam::IpamError;
use crate::net::{PodLink, PodLinkRequest};
use crate::overrides::OverrideError;
use crate::persist::PersistError;
use crate::store::{Key, Kind};

/// Why a request about an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("{field}: {message}")]
    Invalid { field: &'static str, message: String },
    #[error("endpoint {0} is being removed; try again when that is done")]
    Disconnecting(EndpointKey),
    #[error("endpoint {0} does not exist; add it again")]
    Gone(u16),
    #[error("all {0} endpoint slots are in use; delete endpoints or use another node")]
    Full(u32),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error("{0}")]
    Unknown(String),
    #[error(transparent)]
    Override(#[from] OverrideError),
    #[error(transparent)]
    State(#[from] PersistError),
    #[error("{0:#}")]
    Kernel(anyhow::Error),
}

/// A link to be made for an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct LinkPlan {
    pub(crate) id: u16,
    pub(crate) request: PodLinkRequest,
}

/// What asks for an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndpointRequest {
    pub(crate) key: EndpointKey,
    pub(crate) netns: PathBuf,
    pub(crate) pod_namespace: String,
    pub(crate) pod_name: String,
}

impl Node {
    /// Reserves id, slot and addresses, the same ones for a key that has them.
    pub(crate) fn plan(&mut self, request: EndpointRequest) -> Result<LinkPlan, NodeError> {
        let existing = self.endpoints.values().find(|endpoint| endpoint.file.key == request.key);
        if let Some(endpoint) = existing {
            if matches!(endpoint.state, State::Disconnecting | State::Disconnected) {
                return Err(NodeError::Disconnecting(request.key));
            }
            let pod = (&endpoint.file.pod_namespace, &endpoint.file.pod_name);
            if pod != (&request.pod_namespace, &request.pod_name) {
                let message = format!("container {} belongs to pod {}", request.key, endpoint.pod());
                return Err(NodeError::Invalid { field: "pod", message });
            }
            return Ok(self.link_plan(endpoint.file.id, &endpoint.file));
        }
        let file = self.reserve(request)?;
        let plan = self.link_plan(file.id, &file);
        self.endpoints.insert(file.id, Endpoint::new(file, State::Creating));
        Ok(plan)
    }

    /// Puts a made link into force: programs, slot, identity, policy. On return the endpoint is ready, or its
    /// conditions say why not.
    pub(crate) fn attach(&mut self, id: u16, link: &PodLink) -> Result<(), NodeError> {
        let endpoint = self.endpoints.get_mut(&id).ok_or(NodeError::Gone(id))?;
        if matches!(endpoint.state, State::Disconnecting | State::Disconnected) {
            return Err(NodeError::Disconnecting(endpoint.file.key.clone()));
        }
        let replaced = endpoint.ifindex != 0 && endpoint.ifindex != link.host_ifindex;
        endpoint.file.mac = link.mac;
        endpoint.file.host_mac = link.host_mac;
        endpoint.file.attached = true;
        endpoint.file.save(&self.settings.endpoints_dir)?;
        let (slot, old_ifindex) = (endpoint.file.slot, endpoint.ifindex);
        if replaced {
            // The pod's link was made anew: the slot's record is for another interface.
            self.kernel.detach(old_ifindex).map_err(NodeError::Kernel)?;
            self.kernel.remove_endpoint(slot).map_err(NodeError::Kernel)?;
            self.forget_policy(id);
        }
        self.enter_kernel(id, link.host_ifindex).map_err(NodeError::Kernel)?;
        if old_ifindex == 0
            && let Some(endpoint) = self.endpoints.get(&id)
        {
            self.notices.endpoint_created(endpoint);
        }
        self.touch();
        self.reconcile();
        Ok(())
    }

    /// Takes back what [`Node::plan`] reserved for a link that could not be made. An endpoint that was attached
    /// before is left as it is.
    pub(crate) fn abandon(&mut self, id: u16) -> Result<(), NodeError> {
        match self.endpoints.get(&id) {
            Some(endpoint) if endpoint.ifindex == 0 => {
                let owner = endpoint.file.key.to_string();
                EndpointFile::remove(&self.settings.endpoints_dir, id)?;
                self.ipam.release(&owner)?;
                self.endpoints.remove(&id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes an endpoint out of the kernel and the store. Returns its id and the device to remove; nothing when there
    /// is no such endpoint.
    pub(crate) fn disconnect(&mut self, key: &EndpointKey) -> Result<Option<(u16, String)>, NodeError> {
        let Some(endpoint) = self.endpoints.values_mut().find(|endpoint| endpoint.file.key == *key) else {
            return Ok(None);
        };
        endpoint.become_state(State::Disconnecting);
        let (id, slot, ifindex) = (endpoint.file.id, endpoint.file.slot, endpoint.ifindex);
        let host_ifname = endpoint.file.host_ifname.clone();
        if let Some(subject) = endpoint.subject.take() {
            self.engine.drop_subject(subject);
        }
        // Addresses first: nobody sends to a slot that is being emptied.
        self.touch();
        self.reconcile();
        self.kernel.remove_endpoint(slot).map_err(NodeError::Kernel)?;
        if ifindex != 0 {
            self.kernel.detach(ifindex).map_err(NodeError::Kernel)?;
            let unnamed = self.feed.no_interface(ifindex);
            self.note(unnamed.map_err(anyhow::Error::from));
        }
        Ok(Some((id, host_ifname)))
    }

    /// Frees id, slot and addresses of a disconnected endpoint whose link is gone.
    pub(crate) fn forget(&mut self, id: u16) -> Result<(), NodeError> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(()) };
        let owner = endpoint.file.key.to_string();
        EndpointFile::remove(&self.settings.endpoints_dir, id)?;
        self.ipam.release(&owner)?;
        endpoint.become_state(State::Disconnected);
        self.notices.endpoint_deleted(endpoint);
        tracing::info!(endpoint = id, pod = %endpoint.pod(), "endpoint removed");
        self.endpoints.remove(&id);
        self.count();
        Ok(())
    }

    /// Takes up the endpoints of an earlier process, with ids, slots, addresses and the policy that the kernel
    /// enforces; `devices` are the interfaces that exist. The rest of that process is cleaned away; returns devices
    /// of links that were never finished, to be removed.
    pub(crate) fn restore(&mut self, devices: &[(u32, String)]) -> Result<Vec<String>, NodeError> {
        let mut half_made = Vec::new();
        for file in EndpointFile::load_all(&self.settings.endpoints_dir)? {
            let device = devices.iter().find(|(_, name)| *name == file.host_ifname);
            match device {
                Some((ifindex, _)) if file.attached => self.restore_one(file, *ifindex),
                _ => {
                    tracing::info!(
                        endpoint = file.id,
                        device = file.host_ifname,
                        "no link, endpoint forgotten"
                    );
                    EndpointFile::remove(&self.settings.endpoints_dir, file.id)?;
                    half_made.extend(device.map(|(_, name)| name.clone()));
                }
            }
        }
        self.clean_kernel(devices).map_err(NodeError::Kernel)?;
        let owners: Vec<String> =
            self.endpoints.values().map(|endpoint| endpoint.file.key.to_string()).collect();
        self.ipam.retain(|owner| owners.iter().any(|known| known == owner))?;
        for (ifindex, name) in devices {
            let named = self.feed.interface(*ifindex, name);
            self.note(named.map_err(anyhow::Error::from));
        }
        Ok(half_made)
    }

    /// Empties slots without an endpoint, and unhooks interfaces that do not exist.
    fn clean_kernel(&mut self, devices: &[(u32, String)]) -> anyhow::Result<()> {
        let mut slots: Vec<u16> = self.endpoints.values().map(|endpoint| endpoint.file.slot).collect();
        slots.extend(self.host_slot());
        for (slot, _) in self.kernel.endpoints().into_iter().filter(|(slot, _)| !slots.contains(slot)) {
            self.kernel.remove_endpoint(slot)?;
        }
        let exists = |ifindex: &u32| devices.iter().any(|(known, _)| known == ifindex);
        for ifindex in self.kernel.attached()?.into_iter().filter(|ifindex| !exists(ifindex)) {
            self.kernel.detach(ifindex)?;
        }
        Ok(())
    }

    fn restore_one(&mut self, file: EndpointFile, ifindex: u32) {
        let id = file.id;
        let mut endpoint = Endpoint::new(file, State::Restoring);
        let number = NumericIdentity(endpoint.file.identity);
        if let Some(identity) =
            self.contents.identities.iter().find(|identity| identity.number() == Some(number.0))
        {
            endpoint.labels = super::identities::labels_of(identity);
        }
        let slot = endpoint.file.slot;
        self.endpoints.insert(id, endpoint);
        if slot > LAST_SLOT {
            if let Some(endpoint) = self.endpoints.get_mut(&id) {
                endpoint.condition(format!("slot {slot} is the node's own now; delete and add the endpoint"));
                endpoint.become_state(State::Invalid);
            }
            return;
        }
        let restored = self.free_slot(slot, id, ifindex).and_then(|()| self.enter_kernel(id, ifindex));
        if let Err(error) = restored
            && let Some(endpoint) = self.endpoints.get_mut(&id)
        {
            endpoint.condition(format!("cannot be restored: {error:#}"));
            endpoint.become_state(State::Invalid);
        }
    }

    /// Empties a slot that the kernel has another endpoint in.
    fn free_slot(&mut self, slot: u16, id: u16, ifindex: u32) -> anyhow::Result<()> {
        let other = |(holder, record): &(u16, EndpointRecord)| {
            *holder == slot && (record.id != id || record.ifindex != ifindex)
        };
        if self.kernel.endpoints().iter().any(other) {
            self.kernel.remove_endpoint(slot)?;
        }
        Ok(())
    }

    /// Hooks the programs and fills the slot. The kernel drops all packets of a new endpoint until its first policy.
    fn enter_kernel(&mut self, id: u16, ifindex: u32) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(()) };
        let entry = record(&endpoint.file, ifindex);
        self.kernel.add_endpoint(endpoint.file.slot, &entry)?;
        endpoint.recorded = entry.identity;
        if self.takes_over && endpoint.state == State::Restoring {
            endpoint.old_programs = true;
        } else {
            self.kernel.attach_endpoint(ifindex)?;
            endpoint.old_programs = false;
        }
        endpoint.ifindex = ifindex;
        if matches!(endpoint.state, State::Creating | State::Invalid) {
            endpoint.become_state(State::WaitingForIdentity);
        }
        self.feed.interface(ifindex, &endpoint.file.host_ifname)?;
        Ok(())
    }

    fn forget_policy(&mut self, id: u16) {
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            endpoint.realized = None;
        }
    }

    fn reserve(&mut self, request: EndpointRequest) -> Result<EndpointFile, NodeError> {
        let used_slots: Vec<u16> = self.endpoints.values().map(|endpoint| endpoint.file.slot).collect();
        let full = || NodeError::Full(LAST_SLOT.into());
        let slot = self.slots.take(|slot| used_slots.contains(&slot)).ok_or_else(full)?;
        let id = self.ids.take(|id| self.endpoints.contains_key(&id)).ok_or_else(full)?;
        let addresses = self.ipam.allocate(&request.key.to_string())?;
        let (host_ifname, mac, host_mac) = request.key.link_names();
        let file = EndpointFile {
            id,
            slot,
            key: request.key,
            netns: request.netns,
            pod_namespace: request.pod_namespace,
            pod_name: request.pod_name,
            addresses,
            mac,
            host_mac,
            host_ifname,
            identity: 0,
            attached: false,
        };
        file.save(&self.settings.endpoints_dir)?;
        Ok(file)
    }

    fn link_plan(&self, id: u16, file: &EndpointFile) -> LinkPlan {
        let request = PodLinkRequest {
            netns: file.netns.clone(),
            ifname: file.key.ifname.clone(),
            host_ifname: file.host_ifname.clone(),
            mac: file.mac,
            host_mac: file.host_mac,
            mtu: self.settings.mtu,
            addresses: file.addresses,
            gateways: self.ipam.routers(),
        };
        LinkPlan { id, request }
    }

    /// Removes the pod's object from the store, if it is this endpoint's.
    pub(super) fn unpublish(&mut self, namespace: &str, name: &str) -> anyhow::Result<()> {
        self.store.delete(Kind::Endpoint, &Key::namespaced(namespace, name))?;
        Ok(())
    }
}

/// The kernel's record of an endpoint; without an identity of its own it is `init`.
pub(super) fn record(file: &EndpointFile, ifindex: u32) -> EndpointRecord {
    let identity = if file.identity == 0 { NumericIdentity::INIT.0 } else { file.identity };
    EndpointRecord {
        ifindex,
        identity,
        id: file.id,
        mac: file.mac,
        host_mac: file.host_mac,
        ipv4: file.addresses.ipv4.map(|address| address.octets()).unwrap_or_default(),
        ipv6: file.addresses.ipv6.map(|address| address.octets()).unwrap_or_default(),
        ..EndpointRecord::default()
    }
}

/// The last slot that pods can have; slot 0 is none.
pub(super) const LAST_SLOT: u16 = LAST_POD_SLOT;
