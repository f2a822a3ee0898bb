//! Removes what an agent left in the kernel of a host: programs, maps, its devices and routes. Nothing can run
//! meanwhile, and nothing of others is touched.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;
use specola_datapath::{Leftovers, Removal};

use crate::bpf::NodePlace;
use crate::endpoint::EndpointFile;
use crate::net::{Filter, Hooks, Net, hooks_in, in_netns_blocking};

/// What there is to remove.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct CleanupPlan {
    /// Directory of pins.
    pub pin_dir: PathBuf,
    /// Programs at hooks: `from_container at lxc0a1b (tcx)`.
    pub programs: Vec<String>,
    /// Pinned maps.
    pub maps: Vec<String>,
    /// Policy tries of endpoints.
    pub policy_tries: usize,
    /// Devices that the agent made.
    pub devices: Vec<String>,
    /// Files in the pin directory that are not ours; they stay.
    pub foreign: Vec<String>,
}

impl CleanupPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.policy_tries == 0 && self.devices.is_empty()
    }
}

/// A removal that is prepared: no agent can start with these pins until it is dropped.
#[derive(Debug)]
pub struct Cleanup {
    place: NodePlace,
    removal: Removal,
    /// Interfaces with filters of ours.
    filtered: Vec<u32>,
    plan: CleanupPlan,
}

impl Cleanup {
    /// Looks what there is. Links of pods are among it unless `keep_pod_links`.
    ///
    /// # Errors
    /// An agent runs, or this process may not look.
    pub fn prepare(place: NodePlace, keep_pod_links: bool) -> anyhow::Result<Self> {
        let removal = Removal::prepare(&place.pin_dir)?;
        let leftovers = removal.leftovers()?;
        let hooks = hooks_in(place.netns.as_deref())?;
        let filters: Vec<&Filter> = hooks.filters.iter().filter(|filter| filter.is_own()).collect();
        let mut filtered: Vec<u32> = filters.iter().map(|filter| filter.ifindex).collect();
        filtered.dedup();
        let mut devices = Vec::new();
        if !keep_pod_links {
            let endpoints = EndpointFile::peek_all(&place.state_dir.join("endpoints"))?;
            devices.extend(endpoints.into_iter().map(|endpoint| endpoint.host_ifname));
        }
        devices.push(Net::HOST_DEVICE.to_owned());
        devices.retain(|name| hooks.devices.iter().any(|(_, known)| known == name));
        let plan = CleanupPlan {
            pin_dir: place.pin_dir.clone(),
            programs: programs(&leftovers, &filters, &hooks),
            maps: leftovers.maps,
            policy_tries: leftovers.tries,
            devices,
            foreign: leftovers.foreign,
        };
        Ok(Self { place, removal, filtered, plan })
    }

    /// What there is to remove.
    pub fn plan(&self) -> &CleanupPlan {
        &self.plan
    }

    /// Removes it: first the pods' links, so that no pod talks without its policy. Blocks.
    ///
    /// # Errors
    /// Something cannot be removed; the rest stays, and the command can be repeated.
    pub fn run(self) -> anyhow::Result<CleanupPlan> {
        let Self { place, removal, filtered, plan } = self;
        let devices = plan.devices.clone();
        in_netns_blocking(place.netns.as_deref(), move |net| async move {
            for device in devices {
                net.remove_device(&device).await?;
            }
            net.remove_own_routes().await
        })
        .context("removing devices and routes")?;
        in_netns_blocking(place.netns.as_deref(), |_| async move {
            let detached = filtered.into_iter().try_for_each(|ifindex| removal.detach(ifindex));
            Ok(detached.map(|()| removal))
        })
        .context("entering the network namespace")?
        .context("detaching programs")?
        .run()
        .context("removing pins")?;
        Ok(plan)
    }
}

fn programs(leftovers: &Leftovers, filters: &[&Filter], hooks: &Hooks) -> Vec<String> {
    let device = |ifindex: u32| {
        hooks.name_of(ifindex).unwrap_or_else(|| format!("interface {ifindex}, which is gone"))
    };
    let links = leftovers.attachments.iter();
    let links = links.map(|link| format!("{} at {} (tcx)", link.program, device(link.ifindex)));
    let filters = filters.iter().map(|filter| {
        let program = filter.program.as_deref().unwrap_or_default();
        format!("{program} at {} (clsact)", device(filter.ifindex))
    });
    links.chain(filters).collect()
}
