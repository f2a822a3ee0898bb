//! The commands that ask an agent, as a process, against a small agent on a unix socket.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use specola_proto::specola::v1::agent_server::{Agent, AgentServer};
use specola_proto::specola::v1::get_endpoint_request::Key;
use specola_proto::specola::v1::{
    AddEndpointRequest, AddEndpointResponse, DeleteEndpointRequest, DeleteEndpointResponse, Endpoint,
    EndpointState, GetEndpointRequest, GetEndpointResponse, GetPolicyRequest, GetPolicyResponse,
    GetStatusRequest, GetStatusResponse, Identity, ListAddressesRequest, ListAddressesResponse,
    ListEndpointsRequest, ListEndpointsResponse, ListIdentitiesRequest, ListIdentitiesResponse,
    ListMetricsRequest, ListMetricsResponse, MetricFamily, PodRef, Policy, RefusedDocument,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Knows one endpoint, one identity and one policy.
struct SmallAgent {
    ready: bool,
}

fn backend() -> Endpoint {
    Endpoint {
        id: 7,
        state: EndpointState::Ready.into(),
        pod: Some(PodRef { namespace: "shop".to_owned(), name: "backend".to_owned() }),
        identity: 258,
        ips: vec!["10.244.1.2".to_owned()],
        node: "n1".to_owned(),
        ..Endpoint::default()
    }
}

#[tonic::async_trait]
impl Agent for SmallAgent {
    async fn add_endpoint(
        &self,
        _: Request<AddEndpointRequest>,
    ) -> Result<Response<AddEndpointResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn delete_endpoint(
        &self,
        _: Request<DeleteEndpointRequest>,
    ) -> Result<Response<DeleteEndpointResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_endpoints(
        &self,
        _: Request<ListEndpointsRequest>,
    ) -> Result<Response<ListEndpointsResponse>, Status> {
        Ok(Response::new(ListEndpointsResponse { endpoints: vec![backend()] }))
    }

    async fn get_endpoint(
        &self,
        request: Request<GetEndpointRequest>,
    ) -> Result<Response<GetEndpointResponse>, Status> {
        let known = match request.into_inner().key {
            Some(Key::Id(id)) => id == 7,
            Some(Key::Pod(pod)) => Some(pod) == backend().pod,
            Some(Key::Ip(ip)) => ip == "10.244.1.2",
            None => false,
        };
        if !known {
            return Err(Status::not_found("no such endpoint"));
        }
        Ok(Response::new(GetEndpointResponse { endpoint: Some(backend()), ..GetEndpointResponse::default() }))
    }

    async fn list_identities(
        &self,
        _: Request<ListIdentitiesRequest>,
    ) -> Result<Response<ListIdentitiesResponse>, Status> {
        let identities = vec![
            Identity { id: 258, labels: vec!["k8s:app=backend".to_owned()], ..Identity::default() },
            Identity { id: 2, labels: vec!["reserved:world".to_owned()], ..Identity::default() },
        ];
        Ok(Response::new(ListIdentitiesResponse { identities }))
    }

    async fn list_addresses(
        &self,
        _: Request<ListAddressesRequest>,
    ) -> Result<Response<ListAddressesResponse>, Status> {
        Ok(Response::new(ListAddressesResponse::default()))
    }

    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        let GetPolicyRequest { namespace, name } = request.into_inner();
        let policy = Policy {
            kind: "NetworkPolicy".to_owned(),
            namespace: "shop".to_owned(),
            name: "closed".to_owned(),
            revision: 4,
            source: "closed.yaml:1".to_owned(),
            yaml: "kind: NetworkPolicy\n".to_owned(),
            ..Policy::default()
        };
        let wanted = (name.is_empty() || name == policy.name)
            && (namespace.is_empty() || namespace == policy.namespace);
        let policies = if wanted { vec![policy] } else { Vec::new() };
        Ok(Response::new(GetPolicyResponse {
            revision: 4,
            policies,
            refused: refused(),
            ..GetPolicyResponse::default()
        }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let status = GetStatusResponse {
            node_name: "n1".to_owned(),
            ready: self.ready,
            refused: refused(),
            ..GetStatusResponse::default()
        };
        Ok(Response::new(status))
    }

    async fn list_metrics(
        &self,
        _: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        let family = MetricFamily {
            metric: "tcp".to_owned(),
            options: "sourceContext=pod".to_owned(),
            name: "hubble_tcp_flags_total".to_owned(),
            labels: vec!["flag".to_owned(), "source".to_owned()],
            series: 12,
            budget: 100,
            limited: 3,
        };
        Ok(Response::new(ListMetricsResponse { families: vec![family], consumers: Vec::new() }))
    }
}

fn refused() -> Vec<RefusedDocument> {
    let error = "spec.ingress[0].toPorts[0].ports[0].port: no port".to_owned();
    vec![RefusedDocument { source: "bad.yaml:9".to_owned(), errors: vec![error], object: String::new() }]
}

struct Running {
    socket: PathBuf,
    _dir: TempDir,
    _runtime: Runtime,
}

fn serve(ready: bool) -> Running {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("admin.sock");
    let runtime = Runtime::new().expect("a runtime starts");
    let listener = runtime.block_on(async { UnixListener::bind(&socket) }).expect("the socket can be made");
    let service = AgentServer::new(SmallAgent { ready });
    runtime.spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        server.await.expect("the small agent runs");
    });
    Running { socket, _dir: dir, _runtime: runtime }
}

fn specola(agent: &Running, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specola"));
    command.args(arguments).arg("--admin-socket").arg(&agent.socket);
    command.env_remove("HUBBLE_SERVER").stdin(Stdio::null()).output().expect("specola runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("specola writes text")
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("-o json is JSON")
}

#[test]
fn endpoints_are_listed_and_found_by_every_key() {
    let agent = serve(true);
    assert!(text(&specola(&agent, &["endpoint", "list"])).contains("n1     7    shop/backend   ready"));
    assert_eq!(json(&specola(&agent, &["endpoint", "list", "-o", "json"]))["endpoints"][0]["state"], "READY");
    for key in ["7", "shop/backend", "10.244.1.2"] {
        let found = json(&specola(&agent, &["endpoint", "get", key, "-o", "json"]));
        assert_eq!(found["endpoint"]["pod"]["name"], "backend", "{key}");
    }
    let absent = specola(&agent, &["endpoint", "get", "shop/nobody"]);
    assert_eq!(absent.status.code(), Some(1));
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(said.contains("NotFound: no such endpoint") && said.contains("specola endpoint list"), "{said}");
}

#[test]
fn identities_are_listed_by_number() {
    let agent = serve(true);
    let list = text(&specola(&agent, &["identity", "list"]));
    assert_eq!(list, "ID    NAME    LABELS\n2     world   reserved:world\n258   -       k8s:app=backend\n");
    assert_eq!(text(&specola(&agent, &["identity", "get", "world"])), "reserved:world\n");
    assert_eq!(
        json(&specola(&agent, &["identity", "get", "258", "-o", "json"]))["labels"][0],
        "k8s:app=backend"
    );
    assert_eq!(specola(&agent, &["identity", "get", "259"]).status.code(), Some(1));
    assert_eq!(specola(&agent, &["identity", "get", "wolrd"]).status.code(), Some(2));
}

#[test]
fn metrics_are_listed_with_their_labels_and_their_size() {
    let agent = serve(true);
    let list = text(&specola(&agent, &["metrics", "list"]));
    assert_eq!(
        list,
        "FAMILY                   METRIC   LABELS        OPTIONS\n\
         hubble_tcp_flags_total   tcp      flag,source   sourceContext=pod\n"
    );
    let sizes = text(&specola(&agent, &["metrics", "cardinality"]));
    assert_eq!(
        sizes,
        "FAMILY                   SERIES   BUDGET   OTHER\nhubble_tcp_flags_total   12       100      3\n"
    );
    let found = json(&specola(&agent, &["metrics", "list", "-o", "json"]));
    assert_eq!(found["nodes"][0]["metrics"]["families"][0]["name"], "hubble_tcp_flags_total");
}

#[test]
fn policies_are_listed_and_shown_as_they_were_read() {
    let agent = serve(true);
    let list = text(&specola(&agent, &["policy", "get"]));
    assert!(list.contains("NetworkPolicy   shop        closed   4          closed.yaml:1\n"), "{list}");
    assert!(list.contains("bad.yaml:9: spec.ingress[0].toPorts[0].ports[0].port: no port\n"), "{list}");
    let one = text(&specola(&agent, &["policy", "get", "shop/closed"]));
    assert_eq!(one, "# closed.yaml:1 revision 4\nkind: NetworkPolicy\n");
    let found = json(&specola(&agent, &["policy", "get", "-o", "json"]));
    assert_eq!(found["nodes"][0]["policy"]["policies"][0]["name"], "closed");
    assert_eq!(specola(&agent, &["policy", "get", "shop/open"]).status.code(), Some(1));
}

#[test]
fn the_status_tells_refused_documents_and_readiness() {
    let agent = serve(true);
    let status = specola(&agent, &["status", "-o", "json"]);
    assert_eq!(json(&status)["nodes"][0]["agent"]["refused"][0]["source"], "bad.yaml:9");
    let agent = serve(false);
    let status = specola(&agent, &["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status).starts_with("Agent: not ready, node n1 "), "{}", text(&status));
}

#[test]
fn an_absent_agent_is_an_error_that_says_what_to_do() {
    let agent = serve(true);
    std::fs::remove_file(&agent.socket).expect("the socket is there");
    let output = specola(&agent, &["endpoint", "list"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.starts_with("error: cannot connect to ") && said.contains("see that the agent runs"),
        "{said}"
    );
}
