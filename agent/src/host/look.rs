//! A look at a machine without a daemon: an agent that keeps nothing, in mounts that only its process has.
//!
//! Pins and sockets are in file systems of a private mount namespace. When the process ends, in whatever way, the kernel
//! takes them away, and with the pins the links and the programs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use specola_datapath::Removal;

use super::devices::{Devices, check_free};
use crate::config::AgentConfig;
use crate::net::{Device, Net, hooks_in};
use crate::run::run_ready;

/// The right to look, and where.
#[derive(Clone, Debug)]
pub struct Look {
    devices: Devices,
    dir: PathBuf,
}

impl Look {
    /// Gives this thread, and those that it starts from now on, mounts of their own. To be called before there are
    /// other threads.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn prepare(devices: Devices) -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("making mounts of our own; run as root")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("separating our mounts")?;
        let dir =
            PLACES.iter().map(Path::new).find(|place| place.is_dir()).context("no place for a mount")?;
        let options = Some("mode=700");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options).context("mounting a tmpfs")?;
        let look = Self { devices, dir: dir.to_owned() };
        for name in [PINS, STATE, DESIRED] {
            let path = look.dir.join(name);
            std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        }
        mount(Some("bpf"), &look.dir.join(PINS), Some("bpf"), MsFlags::empty(), options)
            .context("mounting a BPF file system")?;
        Ok(look)
    }

    /// Socket of the flow API, for this process.
    pub fn observer_socket(&self) -> PathBuf {
        self.dir.join("observer.sock")
    }

    /// Attaches, serves flows until `stop`, and takes everything away again. `ready` is called when the socket is there.
    ///
    /// # Errors
    /// A device cannot be used, an agent has programs on it, or programs cannot be loaded.
    pub async fn run(self, stop: impl Future<Output = ()>, ready: impl FnOnce()) -> anyhow::Result<()> {
        let found = self.devices.find(&Net::open()?).await?;
        let hooks = tokio::task::spawn_blocking(|| hooks_in(None)).await??;
        check_free(&found, &hooks)?;
        let outcome = run_ready(self.config(&found)?, stop, ready).await;
        let removed = tokio::task::spawn_blocking(move || self.remove(&found)).await?;
        outcome.and(removed)
    }

    fn config(&self, devices: &[Device]) -> anyhow::Result<AgentConfig> {
        #[derive(Debug, Parser)]
        struct Flags {
            #[command(flatten)]
            agent: AgentConfig,
        }
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let mut config = Flags::try_parse_from(["agent", "--devices", &names.join(",")])?.agent;
        let path = |name: &str| self.dir.join(name);
        config.pin_dir = path(PINS).join("look");
        config.state_dir = path(STATE);
        config.desired_dir = path(DESIRED);
        config.admin_socket = path("admin.sock");
        config.observer_socket = self.observer_socket();
        config.observer_listen = Some(crate::Listen::Nowhere);
        config.metrics_listen = Some(crate::Listen::Nowhere);
        config.ring_size = FLOWS;
        Ok(config)
    }

    /// Filters of clsact live until they are removed.
    fn remove(&self, devices: &[Device]) -> anyhow::Result<()> {
        let removal = Removal::prepare(self.dir.join(PINS).join("look"))?;
        for device in devices {
            removal.detach(device.index).context("detaching programs")?;
        }
        removal.run().context("removing pins")?;
        Ok(())
    }
}

/// Directories to mount over, the first one that exists. Nobody else sees the mount.
const PLACES: [&str; 3] = ["/sys/fs/bpf", "/mnt", "/run"];
const PINS: &str = "bpf";
const STATE: &str = "state";
const DESIRED: &str = "desired";
/// Flows that may wait for a slow terminal.
const FLOWS: usize = 1 << 15;
