//! Keeps the programs on the devices that were asked for, while devices come and go.

use specola_lifecycle::Drain;

use super::devices::{DeviceError, Devices};
use super::seed::{Seeded, Seeder};
use crate::net::{AddressWatch, Device, Net};
use crate::node::NodeHandle;
use crate::warnings::Warnings;

/// Attaches programs to devices.
#[derive(Debug)]
pub(crate) struct DeviceFollower {
    pub(crate) devices: Devices,
    pub(crate) net: Net,
    pub(crate) node: NodeHandle,
    pub(crate) watch: AddressWatch,
    pub(crate) seeder: Option<Seeder>,
    /// Policies may drop packets: attaching without knowing the open connections would end them.
    pub(crate) must_seed: bool,
    pub(crate) warnings: Warnings,
    /// Those that have programs.
    pub(crate) current: Vec<Device>,
}

impl DeviceFollower {
    /// Attaches for the first time; all devices must be there.
    ///
    /// # Errors
    /// A device cannot be used, or the programs cannot be attached.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let wanted = self.devices.find(&self.net).await?;
        self.attach(wanted).await
    }

    /// Follows until the drain.
    pub(crate) async fn run(mut self, drain: Drain) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                changed = self.watch.changed() => changed?,
            }
            let problem = match self.devices.find_present(&self.net).await {
                Ok((wanted, problem)) if wanted == self.current => problem.map(anyhow::Error::from),
                Ok((wanted, problem)) => self.attach(wanted).await.err().or(problem.map(anyhow::Error::from)),
                Err(error) => Some(error.into()),
            };
            self.warnings.set("devices", problem.map(|error| format!("{error:#}")));
        }
    }

    /// Connections first: those that are open go on, whatever the policy. Once more afterwards, for those that came
    /// between the look and the programs.
    async fn attach(&mut self, wanted: Vec<Device>) -> anyhow::Result<()> {
        let attached = self.node.call(|node| node.attached_devices()).await??;
        let has_new = wanted.iter().any(|device| !attached.contains(&device.index));
        let before = if has_new { self.seed().await? } else { Seeded::default() };
        let named: Vec<(u32, String)> =
            wanted.iter().map(|device| (device.index, device.name.clone())).collect();
        self.node.call(move |node| node.set_devices(named)).await??;
        let after = if has_new { self.seed().await? } else { Seeded::default() };
        let names: Vec<&str> = wanted.iter().map(|device| device.name.as_str()).collect();
        let (devices, connections) = (names.join(","), before.entered + after.entered);
        tracing::info!(devices, connections, "programs attached; open connections go on");
        if after.left_out > 0 {
            tracing::warn!(
                after.left_out,
                "more open connections than half the connection table holds; a policy may end those left out"
            );
        }
        self.current = wanted;
        Ok(())
    }

    async fn seed(&mut self) -> anyhow::Result<Seeded> {
        let Some(mut seeder) = self.seeder.take() else { return Ok(Seeded::default()) };
        let cookie = self.node.call(|node| node.highest_cookie()).await?;
        // The runtime's threads are in the agent's network namespace.
        let (seeder, seeded) = tokio::task::spawn_blocking(move || {
            let seeded = seeder.run(cookie);
            (seeder, seeded)
        })
        .await?;
        self.seeder = Some(seeder);
        match seeded {
            Err(error) if !self.must_seed => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "open connections are not known; they will be reported as new"
                );
                Ok(Seeded::default())
            }
            seeded => seeded,
        }
    }
}

impl Devices {
    /// The usable devices there are, and why one of those asked for is not among them.
    async fn find_present(&self, net: &Net) -> Result<(Vec<Device>, Option<DeviceError>), DeviceError> {
        Ok(self.choose_present(&net.devices().await?))
    }
}
