use std::sync::Mutex;

use specola_datapath::abi::endpoint::{EndpointRecord, policy_flags};
use specola_datapath::abi::policy::{PolicyKey, PolicyValue};
use specola_datapath::{ConnectionCounts, FoldBook, LaneBook, PacketCounts, PolicyUpdate};
use specola_directory::{DirectoryReader, directory, mapped};
use specola_flow::NodeInfo;
use specola_flow_server::AgentLog;

use super::*;
use crate::config::PolicyOverflow;
use crate::desired::DesiredDirectory;
use crate::endpoint::{EndpointKey, State};
use crate::net::PodLink;
use crate::store::DirectoryStore;

mod groups;
mod identities;
mod notices;
mod operator;
mod overflow;
mod peers;
mod redirects;
mod revisions;
mod takeover;

/// What the kernel holds, shared with the test.
#[derive(Debug, Default)]
struct KernelState {
    endpoints: BTreeMap<u16, EndpointRecord>,
    policies: HashMap<u16, HashMap<PolicyKey, PolicyValue>>,
    ips: HashMap<IpNet, IpInfo>,
    attached: Vec<u32>,
    /// Everything that was done, in order.
    log: Vec<String>,
    /// Policy updates fail.
    full: bool,
    /// Programs of an earlier build run.
    old_maps: bool,
}

#[derive(Clone, Debug, Default)]
struct FakeKernel(Arc<Mutex<KernelState>>);

impl FakeKernel {
    fn state(&self) -> std::sync::MutexGuard<'_, KernelState> {
        self.0.lock().expect("no test panics while it holds the lock")
    }
}

impl Kernel for FakeKernel {
    fn attach_endpoint(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let mut state = self.state();
        state.attached.push(ifindex);
        state.log.push(format!("programs at {ifindex}"));
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.state().attached.retain(|known| *known != ifindex);
        Ok(())
    }

    fn attached(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self.state().attached.clone())
    }

    fn add_endpoint(&mut self, slot: u16, record: &EndpointRecord) -> anyhow::Result<()> {
        let mut state = self.state();
        let flags = state.endpoints.get(&slot).map(|old| old.policy).unwrap_or_default();
        state.endpoints.insert(slot, EndpointRecord { policy: flags, ..*record });
        Ok(())
    }

    fn remove_endpoint(&mut self, slot: u16) -> anyhow::Result<()> {
        let mut state = self.state();
        state.endpoints.remove(&slot);
        state.policies.remove(&slot);
        state.log.push(format!("slot {slot} emptied"));
        Ok(())
    }

    fn endpoints(&self) -> Vec<(u16, EndpointRecord)> {
        self.state().endpoints.iter().map(|(slot, record)| (*slot, *record)).collect()
    }

    fn policy(&self, slot: u16) -> HashMap<PolicyKey, PolicyValue> {
        self.state().policies.get(&slot).cloned().unwrap_or_default()
    }

    fn apply_policies(&mut self, updates: &[PolicyUpdate]) -> Vec<anyhow::Result<()>> {
        let mut state = self.state();
        if state.full {
            return updates.iter().map(|_| Err(anyhow::anyhow!("no room"))).collect();
        }
        for update in updates {
            let policy = state.policies.entry(update.slot).or_default();
            policy.retain(|key, _| !update.deletes.contains(key));
            policy.extend(update.upserts.iter().copied());
            let peers: Vec<u32> = update.upserts.iter().map(|(key, _)| key.identity).collect();
            if let Some(record) = state.endpoints.get_mut(&update.slot) {
                record.policy = [update.state; 2];
            }
            state.log.push(format!("policy of slot {}: {peers:?}", update.slot));
        }
        updates.iter().map(|_| Ok(())).collect()
    }

    fn finish_policies(&mut self) {}

    fn wait_for_readers(&self) {
        self.state().log.push("no packet under way".to_owned());
    }

    fn has_unfinished_policies(&self) -> bool {
        false
    }

    fn ips(&self) -> anyhow::Result<HashMap<IpNet, IpInfo>> {
        Ok(self.state().ips.clone())
    }

    fn upsert_ip(&mut self, prefix: IpNet, info: IpInfo) -> anyhow::Result<()> {
        let mut state = self.state();
        state.ips.insert(prefix, info);
        state.log.push(format!("ip {prefix} is {}", info.identity));
        Ok(())
    }

    fn remove_ip(&mut self, prefix: IpNet) -> anyhow::Result<()> {
        let mut state = self.state();
        state.ips.remove(&prefix);
        state.log.push(format!("ip {prefix} gone"));
        Ok(())
    }

    fn packet_counts(&self) -> anyhow::Result<Vec<PacketCounts>> {
        Ok(Vec::new())
    }

    fn lane_books(&self) -> anyhow::Result<Vec<LaneBook>> {
        Ok(Vec::new())
    }

    fn fold_book(&self) -> anyhow::Result<FoldBook> {
        Ok(FoldBook::default())
    }

    fn connection_counts(&self) -> anyhow::Result<ConnectionCounts> {
        Ok(ConnectionCounts::default())
    }

    fn has_old_maps(&self) -> anyhow::Result<bool> {
        Ok(self.state().old_maps)
    }

    fn migrate_connections(&mut self) -> anyhow::Result<()> {
        self.state().log.push("connections".to_owned());
        Ok(())
    }

    fn attach_node(&mut self, devices: &NodeDevices) -> anyhow::Result<()> {
        self.attach_endpoint(devices.host)?;
        devices.network.iter().try_for_each(|ifindex| self.attach_endpoint(*ifindex))
    }

    fn remove_old_maps(&mut self) -> anyhow::Result<Vec<String>> {
        let mut state = self.state();
        state.old_maps = false;
        state.log.push("old maps gone".to_owned());
        Ok(vec!["SP_NODE@0".to_owned()])
    }

    fn attach_mode(&self) -> &'static str {
        "tcx"
    }
}

/// A node with a kernel of memory, and the directories around it.
struct Fixture {
    dir: tempfile::TempDir,
    kernel: FakeKernel,
    files: DesiredDirectory,
    store: Arc<DirectoryStore>,
    node: Node,
    names: DirectoryReader,
    routes: watch::Receiver<BTreeMap<IpNet, IpAddr>>,
    log: AgentLog,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("desired")).expect("makes the directory");
        Self::start(dir, FakeKernel::default(), PolicyOverflow::Keep)
    }

    fn start(dir: tempfile::TempDir, kernel: FakeKernel, overflow: PolicyOverflow) -> Self {
        Self::start_with(dir, kernel, overflow, ParseOptions::default())
    }

    fn start_with(
        dir: tempfile::TempDir,
        kernel: FakeKernel,
        overflow: PolicyOverflow,
        language: ParseOptions,
    ) -> Self {
        let path = |name: &str| dir.path().join(name);
        let store = Arc::new(DirectoryStore::open(&path("store")).expect("opens"));
        let mut files =
            DesiredDirectory::open(&path("desired"), &path("desired.jsonl"), language).expect("opens");
        files.scan();
        let (writer, names) = directory(NodeInfo::default());
        let (peer_routes, routes) = watch::channel(BTreeMap::new());
        let cidrs: Vec<IpNet> = vec![net("10.0.1.0/24"), net("fd00:1::/64")];
        let settings = NodeSettings {
            node_name: "n1".to_owned(),
            cluster_name: "default".to_owned(),
            policy: Settings { max_entries: 64, ..Settings::default() },
            audit_mode: false,
            language,
            overflow,
            node_labels: BTreeMap::new(),
            internal_ips: vec![ip("172.30.0.2")],
            local_ips: vec![ip("172.30.0.2"), ip("10.0.1.1")],
            mtu: 1500,
            devices: NodeDevices { host: 3, network: vec![4] },
            flow_api: FlowApi { port: Some(4244), server_name: None },
            endpoints_dir: path("endpoints"),
            host: None,
        };
        std::fs::create_dir_all(path("endpoints")).expect("makes the directory");
        let log = AgentLog::new(specola_flow_server::Clock::system());
        let parts = NodeParts {
            kernel: Box::new(kernel.clone()),
            store: Arc::clone(&store) as Arc<dyn Store>,
            directory: writer,
            ipam: Ipam::open(&path("ipam.json"), &cidrs).expect("opens"),
            revisions: Revisions::open(&path("revisions.jsonl")).expect("opens"),
            overrides: Overrides::open(&path("overrides.json")).expect("opens"),
            cookies: CookieTable::open(&path("cookies.jsonl")).expect("opens"),
            local_identities: LocalIdentities::open(&path("identities.json")).expect("opens"),
            metrics: AgentMetrics::new(),
            warnings: Warnings::default(),
            agent_log: log.clone(),
            peer_routes,
            flows: HeldFlows(Box::new(Held::default)),
        };
        let (desired, contents) = (Arc::new(files.merge()), Arc::new(store.list().expect("lists")));
        let node = Node::new(settings, parts, desired, contents).expect("starts");
        Self { dir, kernel, files, store, node, names, routes, log }
    }

    /// The agent dies and comes back; the kernel and the files are as they were.
    fn restart(self, devices: &[(u32, String)]) -> Self {
        let Self { dir, kernel, node, .. } = self;
        let (overflow, language) = (node.settings.overflow, node.settings.language);
        drop(node);
        let mut fixture = Self::start_with(dir, kernel, overflow, language);
        assert!(fixture.node.restore(devices).expect("restores").is_empty(), "no half-made link");
        fixture
    }

    fn write(&mut self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("desired").join(name), text).expect("writes");
        self.pass();
    }

    fn remove(&mut self, name: &str) {
        std::fs::remove_file(self.dir.path().join("desired").join(name)).expect("removes");
        self.pass();
    }

    /// Desired state and store are read, and one pass is made.
    fn pass(&mut self) {
        self.files.scan();
        self.node.desired = Arc::new(self.files.merge());
        self.node.contents = Arc::new(self.store.list().expect("lists"));
        self.node.contents_version += 1;
        self.kernel.state().log.clear();
        self.node.reconcile();
    }

    fn add(&mut self, pod: &str, ifindex: u32) -> u16 {
        let plan = self.node.plan(request(pod)).expect("plans");
        let link = PodLink { host_ifindex: ifindex, host_mac: plan.request.host_mac, mac: plan.request.mac };
        self.node.attach(plan.id, &link).expect("attaches");
        plan.id
    }

    fn used_addresses(&self) -> usize {
        self.node.ipam.usage().map(|(_, used, _)| used).sum()
    }

    fn endpoint(&self, id: u16) -> &Endpoint {
        &self.node.endpoints[&id]
    }

    fn is_ready_in_kernel(&self, id: u16) -> bool {
        let record = self.kernel.state().endpoints[&self.endpoint(id).file.slot];
        record.policy[0].flags & policy_flags::READY != 0
    }

    /// Peers that the endpoint's realized policy has an incoming entry for.
    fn ingress_peers(&self, id: u16) -> Vec<u32> {
        let policies = &self.kernel.state().policies[&self.endpoint(id).file.slot];
        let mut peers: Vec<u32> =
            policies.keys().filter(|key| key.egress == 0).map(|key| key.identity).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn key(pod: &str) -> EndpointKey {
    EndpointKey { container_id: format!("c-{pod}"), ifname: "eth0".to_owned() }
}

fn request(pod: &str) -> EndpointRequest {
    EndpointRequest {
        key: key(pod),
        netns: "/run/netns/x".into(),
        pod_namespace: "shop".to_owned(),
        pod_name: pod.to_owned(),
    }
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n"
    )
}

fn allow(name: &str, from: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{app: {from}}}\n"
    )
}

fn allow_cidr(prefix: &str, except: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: cidr, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromCIDRSet:\n    - cidr: {prefix}\n      except: [{except}]\n"
    )
}

#[test]
fn an_endpoint_is_closed_until_its_labels_are_known_and_then_ready() {
    let mut fixture = Fixture::new();
    let id = fixture.add("web", 11);
    assert_eq!(fixture.endpoint(id).state, State::WaitingForIdentity);
    assert!(!fixture.is_ready_in_kernel(id));
    assert!(fixture.endpoint(id).conditions[0].contains("shop/web"), "{:?}", fixture.endpoint(id).conditions);
    fixture.write("web.yaml", &pod("web"));
    assert_eq!(fixture.endpoint(id).state, State::Ready);
    assert!(fixture.is_ready_in_kernel(id));
    assert!(fixture.endpoint(id).conditions.is_empty());
    assert_eq!(fixture.endpoint(id).file.identity, 256);
    let info = fixture.kernel.state().ips[&net("10.0.1.2/32")];
    assert_eq!((info.identity, info.slot), (256, fixture.endpoint(id).file.slot));
    let found = fixture.names.load().find(mapped(ip("10.0.1.2")), 0);
    assert_eq!((found.identity, found.endpoint), (256, id));
    fixture.pass();
    let contents = fixture.store.list().expect("lists");
    assert_eq!(contents.endpoints.iter().next().expect("one").status.state, "ready");
    assert_eq!(contents.nodes.iter().next().expect("one").metadata.name, "n1");
}

#[test]
fn adding_is_idempotent_and_one_container_is_one_pod() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let id = fixture.add("web", 11);
    assert_eq!(fixture.add("web", 11), id);
    assert_eq!(fixture.node.endpoints.len(), 1);
    let other = EndpointRequest { pod_name: "db".to_owned(), ..request("web") };
    assert!(matches!(fixture.node.plan(other), Err(NodeError::Invalid { field: "pod", .. })));
}

#[test]
fn a_link_that_cannot_be_made_gives_everything_back() {
    let mut fixture = Fixture::new();
    let plan = fixture.node.plan(request("web")).expect("plans");
    assert_eq!(fixture.used_addresses(), 2);
    fixture.node.abandon(plan.id).expect("abandons");
    assert_eq!(fixture.used_addresses(), 0);
    assert!(fixture.node.endpoints.is_empty());
    assert!(fixture.restart(&[]).node.endpoints.is_empty());
}

#[test]
fn a_removed_endpoint_leaves_nothing() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    fixture.add("web", 11);
    fixture.pass();
    let (id, device) = fixture.node.disconnect(&key("web")).expect("disconnects").expect("is there");
    assert!(device.starts_with("lxc"));
    assert!(matches!(fixture.node.plan(request("web")), Err(NodeError::Disconnecting(_))));
    assert_eq!(fixture.used_addresses(), 2, "the address is kept until the link is gone");
    fixture.node.forget(id).expect("forgets");
    assert_eq!(fixture.used_addresses(), 0);
    {
        let kernel = fixture.kernel.state();
        assert!(kernel.endpoints.is_empty() && kernel.attached.is_empty());
        assert!(!kernel.ips.contains_key(&net("10.0.1.2/32")));
        let gone =
            kernel.log.iter().position(|line| line == "ip 10.0.1.2/32 gone").expect("forgot the address");
        let emptied = kernel.log.iter().position(|line| line.ends_with("emptied")).expect("emptied the slot");
        assert!(gone < emptied, "{:?}", kernel.log);
    }
    assert!(fixture.store.list().expect("lists").endpoints.is_empty());
    assert!(fixture.node.disconnect(&key("web")).expect("gone is fine").is_none());
}

#[test]
fn policies_follow_the_files() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let db = fixture.add("db", 12);
    assert_eq!(fixture.ingress_peers(web), [0], "not selected: open");
    fixture.write("p.yaml", &allow("p", "db"));
    let db_identity = fixture.endpoint(db).file.identity;
    assert_eq!(fixture.ingress_peers(web), [1, db_identity], "the local host and db");
    assert_eq!(fixture.ingress_peers(db), [0]);
    let shown = fixture.node.show_endpoint(&Wanted::Id(web.into())).expect("is there");
    assert_eq!(shown.ingress_selected_by[0].name, "p");
    assert!(shown.policy.iter().any(|entry| entry.identity == db_identity && entry.cookie != 0));
    let bad = allow("p", "db").replace("fromEndpoints", "fromNowhere");
    fixture.write("p.yaml", &bad);
    assert_eq!(fixture.ingress_peers(web), [1, db_identity], "the last good version stays in force");
    assert_eq!(fixture.node.show_status().0.refused.len(), 1);
    fixture.remove("p.yaml");
    assert_eq!(fixture.ingress_peers(web), [0]);
}

#[test]
fn cookies_are_known_to_the_directory_before_the_kernel_has_them() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    fixture.add("db", 12);
    fixture.write("p.yaml", &allow("p", "db"));
    let slot = fixture.endpoint(web).file.slot;
    let kernel = fixture.kernel.state();
    let default = kernel.endpoints[&slot].policy[0].default_cookie_ingress;
    let names = fixture.names.load();
    for cookie in kernel.policies[&slot].values().map(|value| value.cookie).chain([default]) {
        let origins = names.origins(cookie).expect("every cookie has origins");
        assert!(!origins.is_empty());
    }
    assert_eq!(names.origins(default).expect("default deny is named")[0].name, "p");
}

#[test]
fn prefixes_are_known_to_policies_before_the_ipcache_and_forgotten_after() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.write("a.yaml", &allow_cidr("192.0.2.0/24", ""));
    let first = fixture.kernel.state().ips[&net("192.0.2.0/24")].identity;
    assert_eq!(fixture.ingress_peers(web), [1, first]);
    // An exception appears: under the old policy its new identity must be allowed before the ipcache hands it out.
    fixture.write("a.yaml", &allow_cidr("192.0.2.0/24", "192.0.2.128/25"));
    let exception = fixture.kernel.state().ips[&net("192.0.2.128/25")].identity;
    let log = fixture.kernel.state().log.clone();
    let at =
        |text: &str| log.iter().position(|line| line == text).unwrap_or_else(|| panic!("{text} in {log:?}"));
    let ip = at(&format!("ip 192.0.2.128/25 is {exception}"));
    assert!(at(&format!("policy of slot 1: [{exception}]")) < ip, "{log:?}");
    assert!(log[ip + 1..].iter().any(|line| line.starts_with("policy of slot 1")), "{log:?}");
    assert_eq!(fixture.ingress_peers(web), [1, first], "the exception is not allowed");
    fixture.remove("a.yaml");
    let kernel = fixture.kernel.state();
    assert!(
        !kernel.ips.contains_key(&net("192.0.2.0/24")) && !kernel.ips.contains_key(&net("192.0.2.128/25"))
    );
    let last_policy = kernel.log.iter().position(|line| line.starts_with("policy")).expect("policy changed");
    let gone = kernel.log.iter().position(|line| line.ends_with("gone")).expect("prefixes are gone");
    assert!(last_policy < gone, "{:?}", kernel.log);
}

#[test]
fn a_policy_that_cannot_be_written_leaves_the_old_one_and_is_tried_again() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    fixture.kernel.state().full = true;
    fixture.write("p.yaml", &allow("p", "db"));
    assert_eq!(fixture.ingress_peers(web), [0]);
    let endpoint = fixture.endpoint(web);
    assert_eq!(endpoint.state, State::NotReady);
    assert!(endpoint.conditions[0].contains("no room"), "{:?}", endpoint.conditions);
    assert!(fixture.node.retry);
    fixture.kernel.state().full = false;
    fixture.node.reconcile();
    assert_eq!(fixture.endpoint(web).state, State::Ready);
    assert!(!fixture.node.retry);
}

#[test]
fn a_restart_keeps_ids_addresses_identities_and_policy() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    fixture.add("db", 12);
    fixture.write("p.yaml", &allow("p", "db"));
    let before = fixture.endpoint(web).file.clone();
    let peers = fixture.ingress_peers(web);
    let devices = [(11, before.host_ifname.clone())];
    let mut fixture = fixture.restart(&devices);
    assert_eq!(fixture.endpoint(web).state, State::Restoring);
    assert_eq!(fixture.ingress_peers(web), peers, "the kernel went on");
    assert_eq!(fixture.node.endpoints.len(), 1, "db's link is gone");
    assert_eq!(fixture.kernel.state().endpoints.len(), 1);
    assert_eq!(fixture.names.load().interface(11), Some(before.host_ifname.as_str()));
    assert!(!fixture.kernel.state().attached.contains(&12), "programs of the lost interface are unhooked");
    fixture.pass();
    assert_eq!(fixture.endpoint(web).file, before);
    assert_eq!(fixture.endpoint(web).state, State::Ready);
    assert_eq!(fixture.used_addresses(), 2);
    let stored = fixture.store.list().expect("lists").endpoints;
    assert_eq!(stored.len(), 1, "the object of the lost endpoint is removed");
}

#[test]
fn a_link_that_was_half_made_at_the_end_is_given_back() {
    let mut fixture = Fixture::new();
    let plan = fixture.node.plan(request("web")).expect("plans");
    let device = plan.request.host_ifname;
    let Fixture { dir, kernel, node, .. } = fixture;
    drop(node);
    let mut fixture = Fixture::start(dir, kernel, PolicyOverflow::Keep);
    assert_eq!(fixture.node.restore(&[(11, device.clone())]).expect("restores"), [device]);
    assert_eq!(fixture.used_addresses(), 0);
}

#[test]
fn a_link_that_was_made_anew_while_no_agent_ran_gets_the_slot_again() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    let device = fixture.endpoint(web).file.host_ifname.clone();
    let mut fixture = fixture.restart(&[(21, device)]);
    fixture.pass();
    assert_eq!(fixture.endpoint(web).state, State::Ready);
    let slot = fixture.endpoint(web).file.slot;
    assert_eq!(fixture.kernel.state().endpoints[&slot].ifindex, 21);
    assert!(fixture.is_ready_in_kernel(web));
}

#[test]
fn an_object_that_was_removed_from_the_store_comes_back() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    fixture.add("web", 11);
    fixture.pass();
    let key = crate::store::Key::namespaced("shop", "web");
    assert!(fixture.store.delete(crate::store::Kind::Endpoint, &key).expect("deletes"));
    fixture.pass();
    assert_eq!(fixture.store.list().expect("lists").endpoints.len(), 1);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    fixture.add("web", 11);
    fixture.write("p.yaml", &allow("p", "db"));
    fixture.pass();
    assert!(fixture.kernel.state().log.is_empty(), "{:?}", fixture.kernel.state().log);
}

impl Fixture {
    /// A pod of another node appears in the store. Gives its identity.
    fn put_far(&mut self) -> u32 {
        let labels = vec![
            "k8s:app=far".to_owned(),
            "k8s:io.kubernetes.pod.namespace=shop".to_owned(),
            "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
        ];
        let number = self.store.identity(&"0".repeat(64), &labels).expect("allocates");
        let mut status = crate::store::EndpointStatus::default();
        status.identity.id = number;
        status.networking.node = Some(ip("172.30.0.3"));
        status.networking.addressing =
            vec![crate::store::Addressing { ipv4: "10.0.2.9".parse().ok(), ipv6: None }];
        let metadata = crate::store::ObjectMeta {
            name: "far".to_owned(),
            namespace: "shop".to_owned(),
            ..crate::store::ObjectMeta::default()
        };
        let endpoint = crate::store::CiliumEndpoint::new(metadata, status);
        self.store.put(&crate::store::Object::Endpoint(endpoint)).expect("puts");
        number
    }
}

#[test]
fn peers_come_from_the_store_with_names_and_routes() {
    let mut fixture = Fixture::new();
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.write("p.yaml", &allow("p", "far"));
    let number = fixture.put_far();
    let address = crate::store::NodeAddress { kind: "InternalIP".to_owned(), ip: ip("172.30.0.3") };
    let mut spec = NodeSpec { addresses: vec![address], ..NodeSpec::default() };
    spec.ipam.pod_cidrs = vec![net("10.0.2.0/24")];
    let peer = crate::store::CiliumNode::new("n2", spec);
    fixture.store.put(&crate::store::Object::Node(peer)).expect("puts");
    fixture.pass();
    assert_eq!(fixture.ingress_peers(web), [1, number]);
    assert_eq!(fixture.kernel.state().ips[&net("10.0.2.9/32")].identity, number);
    assert_eq!(fixture.kernel.state().ips[&net("172.30.0.3/32")].identity, 6);
    let log = fixture.kernel.state().log.clone();
    let policy = log.iter().position(|line| line.starts_with("policy")).expect("policy changed");
    let address = log.iter().position(|line| line.starts_with("ip 10.0.2.9/32")).expect("address is known");
    assert!(policy < address, "{log:?}");
    let names = fixture.names.load();
    let found = names.find(mapped(ip("10.0.2.9")), 0);
    assert_eq!(fixture.names.metas().get(found.meta).expect("has a name").pod_name, "far");
    assert_eq!(fixture.routes.borrow().get(&net("10.0.2.0/24")), Some(&ip("172.30.0.3")));
}

#[test]
fn changed_labels_give_another_identity_everywhere() {
    let mut fixture = Fixture::new();
    fixture.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let web = fixture.add("web", 11);
    let db = fixture.add("db", 12);
    fixture.write("p.yaml", &allow("p", "db"));
    let old = fixture.endpoint(db).file.identity;
    fixture.write("pods.yaml", &[pod("web"), pod("db").replace("{app: db}", "{app: cache}")].join("---\n"));
    let new = fixture.endpoint(db).file.identity;
    assert_ne!(new, old);
    let slot = fixture.endpoint(db).file.slot;
    assert_eq!(fixture.kernel.state().endpoints[&slot].identity, new);
    let addresses = fixture.endpoint(db).file.addresses;
    for address in addresses.iter() {
        assert_eq!(fixture.kernel.state().ips[&IpNet::from(address)].identity, new);
    }
    assert!(!fixture.ingress_peers(web).contains(&new));
}
