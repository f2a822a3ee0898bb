//! Tasks that follow what is outside: the desired directory, the store, the node's addresses, the routes it wants.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use specola_lifecycle::Drain;
use tokio::sync::watch;

use crate::desired::{Desired, DesiredDirectory};
use crate::fs_watch::{Changed, DirWatch};
use crate::net::{AddressWatch, Net};
use crate::node::NodeHandle;
use crate::store::{Contents, DirectoryStore, StoreView};
use crate::warnings::Warnings;

/// Publishes a new [`Desired`] after each change of the directory.
#[derive(Debug)]
pub(crate) struct DesiredFollower {
    pub(crate) directory: DesiredDirectory,
    pub(crate) watch: DirWatch,
    pub(crate) out: watch::Sender<Arc<Desired>>,
    pub(crate) warnings: Warnings,
}

impl DesiredFollower {
    pub(crate) async fn run(mut self, drain: Drain) -> std::io::Result<()> {
        let mut changed = Changed::Anything;
        loop {
            let is_other = match &changed {
                Changed::Anything => {
                    // The directory may have been removed and made again.
                    let watched = self.watch.add(self.directory.root());
                    self.warnings
                        .set("desired", watched.err().map(|error| format!("cannot watch: {error}; polling")));
                    self.directory.scan()
                }
                Changed::Paths(paths) => self.directory.scan_paths(paths),
            };
            if is_other {
                self.publish();
            }
            // Nobody who waits for the policies waits for this.
            if self.directory.remember() {
                self.publish();
            }
            changed = tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                changed = self.watch.changed() => changed?,
            };
        }
    }
}

impl DesiredFollower {
    fn publish(&self) {
        self.out.send_replace(Arc::new(self.directory.merge()));
    }
}

/// Publishes the store's contents after each change.
#[derive(Debug)]
pub(crate) struct StoreFollower {
    pub(crate) store: Arc<DirectoryStore>,
    pub(crate) watch: DirWatch,
    pub(crate) out: watch::Sender<Arc<Contents>>,
    pub(crate) warnings: Warnings,
}

impl StoreFollower {
    pub(crate) async fn run(self, drain: Drain) -> std::io::Result<()> {
        let mut view = StoreView::new(DirectoryStore::clone(&self.store));
        let mut changed = Changed::Anything;
        loop {
            let looked = match &changed {
                Changed::Paths(paths) if paths.iter().all(|path| !path.is_dir()) => view.refresh_paths(paths),
                // A namespace that comes is to be watched before it is listed.
                Changed::Paths(paths) => {
                    self.store.watch(&self.watch).and_then(|()| view.refresh_paths(paths))
                }
                Changed::Anything => self.store.watch(&self.watch).and_then(|()| view.refresh()),
            };
            match looked {
                Ok(true) => {
                    self.warnings.set("store listing", None);
                    self.out.send_replace(Arc::new(view.contents().clone()));
                }
                Ok(false) => self.warnings.set("store listing", None),
                // What was known stays known: enforced, though maybe stale.
                Err(error) => self.warnings.set("store listing", Some(error.to_string())),
            }
            tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                happened = self.watch.changed() => changed = happened?,
            }
        }
    }
}

/// Tells the node which addresses its devices have, after each change.
#[derive(Debug)]
pub(crate) struct AddressFollower {
    pub(crate) net: Net,
    pub(crate) watch: AddressWatch,
    pub(crate) node: NodeHandle,
    pub(crate) warnings: Warnings,
}

impl AddressFollower {
    pub(crate) async fn run(self, drain: Drain) -> std::io::Result<()> {
        loop {
            match self.net.local_addresses().await {
                Ok(addresses) => {
                    self.warnings.set("node addresses", None);
                    if self.node.call(move |node| node.take_addresses(addresses)).await.is_err() {
                        // The node thread is gone, so a drain is coming.
                        drain.signalled().await;
                        return Ok(());
                    }
                }
                // What was known stays known.
                Err(error) => self.warnings.set("node addresses", Some(error.to_string())),
            }
            tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                changed = self.watch.changed() => changed?,
            }
        }
    }
}

/// Keeps the routes to other nodes' pods as the node wants them.
#[derive(Debug)]
pub(crate) struct RouteFollower {
    pub(crate) net: Net,
    pub(crate) wanted: watch::Receiver<BTreeMap<IpNet, IpAddr>>,
    pub(crate) warnings: Warnings,
}

impl RouteFollower {
    pub(crate) async fn run(mut self, drain: Drain) -> std::io::Result<()> {
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        // The node thread is gone, so a drain is coming.
                        drain.signalled().await;
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(RETRY), if failed => {}
            }
            let wanted = self.wanted.borrow_and_update().clone();
            let errors = self.net.sync_peer_routes(&wanted).await;
            failed = !errors.is_empty();
            let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            self.warnings.set("routes", failed.then_some(text));
        }
    }
}

const RETRY: std::time::Duration = std::time::Duration::from_secs(2);
