//! A flow server that follows a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use specola_proto::flow::{Flow, Verdict};
use specola_proto::google::Timestamp;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::observer::observer_server::{Observer, ObserverServer};
use specola_proto::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
    GetNodesResponse, ServerStatusRequest, ServerStatusResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// How a stream of answers ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It does not.
    Open,
    /// With success.
    Done,
    /// With an error.
    Error(tonic::Code, &'static str),
    /// It starts again from the first answer, for ever.
    Again,
}

/// What one request is answered with.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The answers.
    pub(crate) answers: Vec<GetFlowsResponse>,
    /// How the stream ends.
    pub(crate) end: End,
}

/// A running server. Each request takes the next script; without one it is refused as unavailable.
#[derive(Debug)]
pub(crate) struct FakeObserver {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    scripts: Mutex<VecDeque<Script>>,
    requests: Mutex<Vec<GetFlowsRequest>>,
}

impl FakeObserver {
    /// Starts a server on loopback.
    pub(crate) async fn start(scripts: impl IntoIterator<Item = Script>) -> Self {
        let state =
            Arc::new(State { scripts: Mutex::new(scripts.into_iter().collect()), ..State::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let service = ObserverServer::new(Service(Arc::clone(&state)));
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .expect("the fake server runs");
        });
        Self { address, state, task }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> Vec<GetFlowsRequest> {
        self.state.requests.lock().expect("no test panics while it holds the lock").clone()
    }
}

impl Drop for FakeObserver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A dropped flow `second` seconds after 1970, with a uuid and a summary of that name.
pub(crate) fn flow(second: i64, name: &str) -> GetFlowsResponse {
    let time = Some(Timestamp { seconds: second, nanos: 0 });
    let flow = Flow {
        time,
        uuid: name.to_owned(),
        summary: name.to_owned(),
        verdict: Verdict::Dropped.into(),
        node_name: "n".to_owned(),
        ..Flow::default()
    };
    GetFlowsResponse { response_types: Some(ResponseTypes::Flow(flow)), node_name: "n".to_owned(), time }
}

struct Service(Arc<State>);

type Stream<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Observer for Service {
    type GetFlowsStream = Stream<GetFlowsResponse>;
    type GetAgentEventsStream = Stream<GetAgentEventsResponse>;
    type GetDebugEventsStream = Stream<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        self.0.requests.lock().expect("not poisoned").push(request.into_inner());
        let script = self.0.scripts.lock().expect("not poisoned").pop_front();
        let script = script.ok_or_else(|| Status::unavailable("the script is over"))?;
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(play(script, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

async fn play(script: Script, sender: mpsc::Sender<Result<GetFlowsResponse, Status>>) {
    loop {
        for answer in &script.answers {
            if sender.send(Ok(answer.clone())).await.is_err() {
                return;
            }
        }
        match script.end {
            End::Again => {}
            End::Done => return,
            End::Open => return sender.closed().await,
            // The client may be gone already.
            End::Error(code, text) => return drop(sender.send(Err(Status::new(code, text))).await),
        }
    }
}
