//! A flow server of few flows, without sockets.

use specola_datapath_common::event::Event;
use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config, FlowServer, ObserverService, Pipeline, flow_server};
use specola_lifecycle::drain;
use specola_proto::observer::observer_server::Observer;
use specola_proto::observer::{GetFlowsRequest, GetFlowsResponse};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt;
use tonic::{Request, Status};

/// The server, and what drives it.
pub struct Server {
    pipeline: Pipeline,
    server: FlowServer,
    runtime: Runtime,
}

impl Server {
    pub fn new() -> Self {
        let config = Config { capacity: 64, ..Config::new(InstanceId::new(1), "0.0.0") };
        let (_, names) = directory(NodeInfo::default());
        let (pipeline, server) = flow_server(config, names).expect("a power of two");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        Self { pipeline, server, runtime }
    }

    pub fn ingest(&mut self, events: &[Event]) {
        self.pipeline.ingest(events, 0);
    }

    /// What became of the records.
    pub fn book(&self) -> specola_flow_server::LedgerCounts {
        self.server.status().ledger
    }

    /// Everything that a request without follow answers.
    pub fn flows(&self, request: GetFlowsRequest) -> Result<Vec<GetFlowsResponse>, Status> {
        let (_trigger, drain) = drain();
        let service = ObserverService::new(self.server.clone(), drain);
        self.runtime.block_on(async {
            let request = GetFlowsRequest { follow: false, ..request };
            let mut stream = service.get_flows(Request::new(request)).await?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.next().await {
                answers.push(answer?);
            }
            Ok(answers)
        })
    }
}
