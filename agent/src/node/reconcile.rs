//! One pass that brings everything in line with desired state and store.
//!
//! The order keeps the network from ever being more open than both the old and the new policy:
//!
//! 1. identities: those of the store, those of this node's pods, those of the prefixes that old or new policies name;
//! 2. the *old* policies are realized with the new identities, so that no packet meets an identity unknown to a policy;
//! 3. the kernel learns new addresses, and new identities of endpoints;
//! 4. the *new* policies are realized;
//! 5. the ipcache forgets what nobody has and no policy names any more; then the policies forget those identities.
//!
//! Whatever fails leaves the last realized policy in force, shows as a condition or a warning, and is tried again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::abi::ipcache::IpInfo;
use specola_labels::{NumericIdentity, Scope};

use super::Node;
use super::endpoints::record;
use super::ips::{self, LocalAddress};
use super::names;
use super::policies::Named;

impl Node {
    /// Brings kernel, directory and store in line. Never fails as a whole; see the module.
    pub(super) fn reconcile(&mut self) {
        let started = Instant::now();
        self.retry = false;
        let is_new = self.see();
        if is_new {
            self.assign_identities();
            self.learn_identities();
            self.learn_nodes();
        }
        let allocated = self.allocate_prefixes();
        // Without identities for their prefixes the new policies must not come into force.
        let allocated = match allocated {
            Ok(allocated) => allocated,
            Err(error) => {
                self.fail("identities", &error);
                self.publish();
                return self.finish(started);
            }
        };
        self.warnings.set("identities", None);
        let mut wanted = None;
        if is_new || allocated {
            self.publish_directory();
            wanted = Some(self.wanted_ips());
        }
        let changes = wanted.as_ref().map(|wanted| self.upserts(wanted)).unwrap_or_default();
        if self.engine.is_pending() && !changes.is_empty() {
            self.realize();
        }
        let addresses_known = (!is_new || self.refresh_records()) & self.upsert_ips(changes);
        if addresses_known {
            let result = self.take_policies();
            self.note_as("policy revisions", result);
        }
        let realized = self.realize() && addresses_known;
        if addresses_known {
            let result = self.take_over();
            self.note_as("takeover", result);
        }
        if realized {
            let result = self.forget_stale(wanted);
            self.note_as("ipcache", result);
        }
        if is_new || allocated || self.seen.unpublished || self.retry {
            self.publish();
        }
        self.finish(started);
    }

    /// The next pass looks at everything again.
    pub(super) fn touch(&mut self) {
        self.seen.touched = true;
    }

    /// Whether there is more to do than to follow policies.
    fn see(&mut self) -> bool {
        let same_cluster =
            self.seen.desired.as_ref().is_some_and(|desired| desired.same_cluster(&self.desired));
        let same_contents = self.seen.contents_version == self.contents_version;
        let touched = std::mem::take(&mut self.seen.touched);
        self.seen.desired = Some(Arc::clone(&self.desired));
        self.seen.contents_version = self.contents_version;
        touched || !same_cluster || !same_contents
    }

    fn wanted_ips(&self) -> HashMap<IpNet, IpInfo> {
        let attached = self.endpoints.values().filter(|endpoint| endpoint.is_attached());
        let local = attached.flat_map(|endpoint| {
            let identity = record(&endpoint.file, endpoint.ifindex).identity;
            let slot = endpoint.file.slot;
            endpoint.file.addresses.iter().map(move |address| LocalAddress { address, identity, slot })
        });
        let mut wanted = ips::wanted(
            self.settings.families(),
            self.local_identities.iter(),
            &self.contents,
            &self.settings.node_name,
            &self.addresses,
            local,
        );
        self.name_peers(&mut wanted);
        wanted
    }

    fn upserts(&self, wanted: &HashMap<IpNet, IpInfo>) -> Vec<(IpNet, IpInfo)> {
        let changed = wanted.iter().filter(|(prefix, info)| self.ips.get(*prefix) != Some(*info));
        changed.map(|(prefix, info)| (*prefix, *info)).collect()
    }

    fn upsert_ips(&mut self, changes: Vec<(IpNet, IpInfo)>) -> bool {
        let write = || -> anyhow::Result<()> {
            for (prefix, info) in changes {
                let action = || format!("ipcache entry {prefix}");
                self.kernel.upsert_ip(prefix, info).with_context(action)?;
                let before = self.ips.insert(prefix, info);
                let pod = self.feed.pod_of(prefix);
                self.notices.address_known(prefix, info, before, pod);
            }
            Ok(())
        };
        let result = write();
        let complete = result.is_ok();
        self.note_as("ipcache", result);
        complete
    }

    /// Forgets addresses that nobody has, then the identities that no endpoint has or whose prefix no policy names.
    fn forget_stale(&mut self, wanted: Option<HashMap<IpNet, IpInfo>>) -> anyhow::Result<()> {
        let named = Named::of(self);
        let unneeded =
            if self.seen.named.as_ref() == Some(&named) { BTreeSet::new() } else { self.unneeded() };
        let wanted = match wanted {
            Some(wanted) => wanted,
            None if unneeded.is_empty() && self.leaving.is_empty() => {
                self.seen.named = Some(named);
                return Ok(());
            }
            None => self.wanted_ips(),
        };
        // A prefix of a policy may be the address of a pod or node as well: that entry stays.
        let local = |info: &IpInfo| NumericIdentity(info.identity).scope() == Scope::Local;
        let stale: Vec<IpNet> = self
            .ips
            .iter()
            .filter(|(prefix, info)| {
                !wanted.contains_key(*prefix) || (unneeded.contains(*prefix) && local(info))
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in stale {
            self.kernel.remove_ip(prefix)?;
            if let Some(info) = self.ips.remove(&prefix) {
                self.notices.address_forgotten(prefix, info);
            }
        }
        if unneeded.is_empty() && self.leaving.is_empty() {
            self.seen.named = Some(named);
            return Ok(());
        }
        // A packet that found such an identity just now is judged by policies that know it.
        self.kernel.wait_for_readers();
        for number in self.local_identities.remove(&unneeded)? {
            self.engine.remove_identity(NumericIdentity(number));
            self.note_identity(NumericIdentity(number), true);
        }
        for identity in std::mem::take(&mut self.leaving) {
            self.engine.remove_identity(identity);
            self.note_identity(identity, true);
        }
        self.seen.named = Some(Named::of(self));
        // Flows of the next pass must not find their names.
        self.seen.unpublished = true;
        if self.engine.is_pending() {
            self.realize();
        }
        Ok(())
    }

    /// Prefixes with an identity that no policy names, and that are no address of a name that one selects by.
    fn unneeded(&self) -> BTreeSet<IpNet> {
        let repository = self.engine.repository();
        let by_name = names::labels(self.names(), &repository.dns_selectors(), self.desired.api_servers());
        let is_needed = |prefix: &IpNet| repository.names_prefix(prefix) || by_name.contains_key(prefix);
        self.local_identities.iter().map(|(prefix, _)| prefix).filter(|prefix| !is_needed(prefix)).collect()
    }

    pub(super) fn note(&mut self, result: anyhow::Result<()>) {
        self.note_as("node", result);
    }

    pub(super) fn note_as(&mut self, part: &'static str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.warnings.set(part, None),
            Err(error) => self.fail(part, &error),
        }
    }

    fn fail(&mut self, part: &'static str, error: &anyhow::Error) {
        self.retry = true;
        self.warnings.set(part, Some(format!("{error:#}")));
    }

    fn finish(&mut self, started: Instant) {
        // What failed may be mended by anything.
        self.seen.touched |= self.retry;
        self.metrics.reconciled(started.elapsed());
        self.count();
    }
}
