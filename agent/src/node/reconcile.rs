//! One pass that brings everything in line with desired state and store.
//!
//! The order keeps the network from ever being more open than both the old and the new policy:
//!
//! 1. identities: those of the store, those of this node's pods, those of the prefixes that old or new policies name;
//! 2. the *old* policies are realized with the new identities, so that no packet meets an identity unknown to a policy;
//! 3. the kernel learns new addresses, and new identities of endpoints;
//! 4. the *new* policies are realized;
//! 5. the ipcache and the local identities forget what no policy names any more.
//!
//! Whatever fails leaves the last realized policy in force, shows as a condition or a warning, and is tried again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::abi::ipcache::IpInfo;
use specola_labels::NumericIdentity;
use specola_policy::PolicyRef;

use super::Node;
use super::endpoints::record;
use super::ips::{self, LocalAddress};

impl Node {
    /// Brings kernel, directory and store in line. Never fails as a whole; see the module.
    pub(super) fn reconcile(&mut self) {
        let started = Instant::now();
        self.retry = false;
        self.assign_identities();
        let generation = self.generation;
        self.learn_identities();
        if let Err(error) = self.allocate_prefixes() {
            // Without identities for their prefixes the new policies must not come into force.
            self.fail("identities", &error);
            self.publish();
            return self.finish(started);
        }
        self.warnings.set("identities", None);
        self.publish_directory();
        let wanted = self.wanted_ips();
        let changes = self.upserts(&wanted);
        if self.generation != generation && !changes.is_empty() {
            self.realize();
        }
        let addresses_known = self.refresh_records() & self.upsert_ips(changes);
        if addresses_known {
            self.take_policies();
        }
        let realized = self.realize() && addresses_known;
        if addresses_known {
            let result = self.take_over();
            self.note_as("takeover", result);
        }
        if realized {
            let result = self.forget_stale(&wanted);
            self.note_as("ipcache", result);
        }
        self.publish();
        self.finish(started);
    }

    pub(super) fn has_new_policies(&self) -> bool {
        self.taken.as_ref().is_none_or(|taken| !Arc::ptr_eq(taken, &self.desired))
    }

    /// Makes the repository equal to the desired policies.
    fn take_policies(&mut self) {
        if !self.has_new_policies() {
            return;
        }
        let gone: Vec<PolicyRef> = self
            .repository
            .iter()
            .map(|stored| stored.object().reference.clone())
            .filter(|reference| !self.desired.policies.contains_key(reference))
            .collect();
        let before = self.repository.revision();
        for reference in gone {
            self.repository.remove(&reference);
        }
        for policy in self.desired.policies.values() {
            self.repository.upsert(policy.clone());
        }
        self.taken = Some(Arc::clone(&self.desired));
        let revision = self.repository.revision();
        if revision != before {
            tracing::info!(revision, policies = self.repository.len(), "policies changed");
        }
    }

    fn wanted_ips(&self) -> HashMap<IpNet, IpInfo> {
        let attached = self.endpoints.values().filter(|endpoint| endpoint.is_attached());
        let local = attached.flat_map(|endpoint| {
            let identity = record(&endpoint.file, endpoint.ifindex).identity;
            let slot = endpoint.file.slot;
            endpoint.file.addresses.iter().map(move |address| LocalAddress { address, identity, slot })
        });
        ips::wanted(
            self.settings.families(),
            self.local_identities.iter(),
            &self.contents,
            &self.settings.node_name,
            &self.addresses,
            local,
        )
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
                self.ips.insert(prefix, info);
            }
            Ok(())
        };
        let result = write();
        let complete = result.is_ok();
        self.note_as("ipcache", result);
        complete
    }

    /// Forgets addresses that nobody has, then the identities of prefixes that no policy names.
    fn forget_stale(&mut self, wanted: &HashMap<IpNet, IpInfo>) -> anyhow::Result<()> {
        let needed = self.repository.prefixes();
        let unneeded: BTreeSet<IpNet> =
            self.local_identities.iter().map(|(prefix, _)| prefix).filter(|p| !needed.contains(p)).collect();
        // A prefix of a policy may be the address of a pod or node as well: that entry stays.
        let local = |info: &IpInfo| NumericIdentity(info.identity) >= NumericIdentity::LOCAL_MIN;
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
            self.ips.remove(&prefix);
        }
        let gone = self.local_identities.retain(&needed)?;
        let mut changed = false;
        for number in gone {
            changed |= self.identities.remove(NumericIdentity(number));
        }
        if changed {
            self.generation += 1;
            self.realize();
        }
        Ok(())
    }

    pub(super) fn note(&mut self, result: anyhow::Result<()>) {
        self.note_as("node", result);
    }

    fn note_as(&mut self, part: &'static str, result: anyhow::Result<()>) {
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
        self.metrics.reconciled(started.elapsed());
        self.count();
    }
}
