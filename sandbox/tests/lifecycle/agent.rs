//! A stand-in for the agent: it wires pods with plain routes and enforces nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, bail};
use serde_json::Value;
use specola_proto::specola::v1 as api;
use specola_proto::specola::v1::agent_server::{Agent, AgentServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// The real agent's flags; those that are not needed are taken and ignored.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    #[arg(long)]
    node_name: String,
    #[arg(long)]
    desired_dir: PathBuf,
    #[arg(long)]
    admin_socket: PathBuf,
    #[arg(long)]
    pin_dir: PathBuf,
    #[arg(long)]
    state_dir: PathBuf,
    #[arg(long)]
    store_dir: PathBuf,
    #[arg(long)]
    observer_socket: PathBuf,
    #[arg(long)]
    observer_listen: String,
    #[arg(long)]
    metrics_listen: String,
    #[arg(long)]
    device: String,
    #[arg(long)]
    attach: String,
    #[arg(long)]
    policy_mode: String,
    #[arg(long, default_value = "keep")]
    policy_overflow: String,
}

pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    if flags.policy_mode == "always" {
        bail!("this stand-in refuses --policy-mode always");
    }
    if flags.policy_overflow != "keep" {
        bail!("this stand-in keeps every policy");
    }
    std::fs::create_dir_all(&flags.pin_dir).context("the pin directory cannot be made in bpffs")?;
    let pod_cidrs = route_to_peers(&flags.desired_dir, &flags.node_name)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if flags.admin_socket.try_exists()? {
            std::fs::remove_file(&flags.admin_socket)?;
        }
        let listener = UnixListener::bind(&flags.admin_socket)?;
        let service =
            AgentServer::new(StandIn { pod_cidrs, store: flags.store_dir, endpoints: Mutex::default() });
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await?;
        Ok(())
    })
}

struct StandIn {
    /// Shared by all stand-ins: one file per pod.
    store: PathBuf,
    pod_cidrs: Vec<String>,
    endpoints: Mutex<BTreeMap<String, api::Endpoint>>,
}

impl StandIn {
    fn wire(&self, request: &api::AddEndpointRequest) -> anyhow::Result<api::Endpoint> {
        let mut endpoints = self.endpoints.lock().expect("no panic");
        let number = endpoints.len() + 1;
        let host = format!("lxc{number}");
        let prefix =
            |v6: bool| self.pod_cidrs.iter().find(|cidr| cidr.contains(':') == v6).context("no pod network");
        let v4 = prefix(false)?.replace(".0/24", &format!(".{}", number + 9));
        let v6 = prefix(true)?.replace("::/64", &format!("::{}", number + 9));
        ip(&format!("link add {host} type veth peer name eth0 netns {}", request.netns))?;
        ip(&format!("addr add fe80::1/64 dev {host} nodad"))?;
        ip(&format!("link set {host} up"))?;
        ip(&format!("addr add 169.254.1.1/32 dev {host}"))?;
        ip(&format!("route add {v4}/32 dev {host}"))?;
        ip(&format!("-6 route add {v6}/128 dev {host}"))?;
        for arguments in [
            "link set eth0 up".to_owned(),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "route add 169.254.1.1 dev eth0 scope link".to_owned(),
            "route add default via 169.254.1.1".to_owned(),
            "-6 route add default via fe80::1 dev eth0".to_owned(),
        ] {
            command(&format!("nsenter --net={} ip {arguments}", request.netns))?;
        }
        let endpoint = api::Endpoint {
            id: u32::try_from(number)?,
            state: api::EndpointState::Ready.into(),
            pod: request.pod.clone(),
            container_id: request.container_id.clone(),
            identity: 255 + u32::try_from(number)?,
            ips: vec![v4, v6],
            host_ifname: host,
            ..Default::default()
        };
        std::fs::write(self.store.join(&request.container_id), "")?;
        endpoints.insert(request.container_id.clone(), endpoint.clone());
        Ok(endpoint)
    }
}

#[tonic::async_trait]
impl Agent for StandIn {
    async fn add_endpoint(
        &self,
        request: Request<api::AddEndpointRequest>,
    ) -> Result<Response<api::AddEndpointResponse>, Status> {
        let endpoint =
            self.wire(request.get_ref()).map_err(|error| Status::internal(format!("{error:#}")))?;
        Ok(Response::new(api::AddEndpointResponse { endpoint: Some(endpoint), ..Default::default() }))
    }

    async fn delete_endpoint(
        &self,
        request: Request<api::DeleteEndpointRequest>,
    ) -> Result<Response<api::DeleteEndpointResponse>, Status> {
        let found = self.endpoints.lock().expect("no panic").remove(&request.get_ref().container_id);
        if let Some(endpoint) = found {
            ip(&format!("link del {}", endpoint.host_ifname))
                .map_err(|error| Status::internal(format!("{error:#}")))?;
        }
        Ok(Response::new(api::DeleteEndpointResponse {}))
    }

    async fn list_endpoints(
        &self,
        _: Request<api::ListEndpointsRequest>,
    ) -> Result<Response<api::ListEndpointsResponse>, Status> {
        let endpoints = self.endpoints.lock().expect("no panic").values().cloned().collect();
        Ok(Response::new(api::ListEndpointsResponse { endpoints }))
    }

    async fn get_status(
        &self,
        _: Request<api::GetStatusRequest>,
    ) -> Result<Response<api::GetStatusResponse>, Status> {
        let known =
            std::fs::read_dir(&self.store).map_err(|error| Status::internal(error.to_string()))?.count();
        let ipcache_entries = u32::try_from(2 * known).expect("few pods");
        Ok(Response::new(api::GetStatusResponse { ready: true, ipcache_entries, ..Default::default() }))
    }

    async fn get_endpoint(
        &self,
        _: Request<api::GetEndpointRequest>,
    ) -> Result<Response<api::GetEndpointResponse>, Status> {
        Err(Status::unimplemented("the sandbox does not ask for it"))
    }

    async fn list_identities(
        &self,
        _: Request<api::ListIdentitiesRequest>,
    ) -> Result<Response<api::ListIdentitiesResponse>, Status> {
        let identities = (256..300).map(|id| api::Identity { id, ..Default::default() }).collect();
        Ok(Response::new(api::ListIdentitiesResponse { identities }))
    }

    async fn list_metrics(
        &self,
        _: Request<api::ListMetricsRequest>,
    ) -> Result<Response<api::ListMetricsResponse>, Status> {
        Err(Status::unimplemented("the sandbox does not ask for it"))
    }

    async fn list_addresses(
        &self,
        _: Request<api::ListAddressesRequest>,
    ) -> Result<Response<api::ListAddressesResponse>, Status> {
        Err(Status::unimplemented("the sandbox does not ask for it"))
    }

    async fn get_policy(
        &self,
        _: Request<api::GetPolicyRequest>,
    ) -> Result<Response<api::GetPolicyResponse>, Status> {
        Err(Status::unimplemented("the sandbox does not ask for it"))
    }
}

/// Routes to the other nodes' pods; returns the own pod networks.
fn route_to_peers(desired: &Path, own: &str) -> anyhow::Result<Vec<String>> {
    let mut own_cidrs = Vec::new();
    for entry in std::fs::read_dir(desired)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        if !name.starts_with("node_") {
            continue;
        }
        let node: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path)?)?;
        let cidrs: Vec<String> = serde_json::from_value(node["spec"]["podCIDRs"].clone())?;
        if node["metadata"]["name"] == own {
            own_cidrs = cidrs;
            continue;
        }
        for cidr in cidrs {
            let addresses = node["status"]["addresses"].as_array().context("a node has addresses")?;
            let address =
                addresses.iter().filter_map(|entry| entry["address"].as_str()?.parse::<IpAddr>().ok());
            let via = address.into_iter().find(|address| address.is_ipv6() == cidr.contains(':'));
            ip(&format!("route replace {cidr} via {}", via.context("an address of the family")?))?;
        }
    }
    Ok(own_cidrs)
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    command(&format!("ip {arguments}"))
}

fn command(line: &str) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().context("a program")?).args(words).output()?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
