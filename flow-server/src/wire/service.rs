//! Hubble's Observer service with its own way for GetFlows: the body of that response is made of ready bytes.

use std::{convert::Infallible, fmt, pin::Pin};

use futures::{FutureExt, Stream};
use prost::bytes::Bytes;
use specola_proto::observer::{GetFlowsRequest, observer_server::ObserverServer};
use specola_serve::{read_request, respond};
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Context, Poll, Service, StdError, http},
    server::NamedService,
};

use crate::{observer::ObserverService, serve::MAX_REQUEST};

/// Answers of GetFlows, as gRPC messages one behind the other.
pub(crate) type FlowChunks = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The Observer service.
#[derive(Clone)]
pub(crate) struct GetFlowsService {
    observer: ObserverService,
    /// All other methods.
    rest: ObserverServer<ObserverService>,
}

impl GetFlowsService {
    pub(crate) fn new(observer: ObserverService) -> Self {
        let rest = ObserverServer::new(observer.clone()).max_decoding_message_size(MAX_REQUEST);
        Self { rest, observer }
    }
}

impl fmt::Debug for GetFlowsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetFlowsService").field("observer", &self.observer).finish_non_exhaustive()
    }
}

impl NamedService for GetFlowsService {
    const NAME: &'static str = <ObserverServer<ObserverService> as NamedService>::NAME;
}

const GET_FLOWS: &str = "/observer.Observer/GetFlows";

impl<B> Service<http::Request<B>> for GetFlowsService
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != GET_FLOWS {
            return Box::pin(self.rest.call(request));
        }
        let observer = self.observer.clone();
        Box::pin(answer(observer, request).map(|answer| Ok(answer.unwrap_or_else(Status::into_http))))
    }
}

async fn answer<B>(
    observer: ObserverService,
    request: http::Request<B>,
) -> Result<http::Response<Body>, Status>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let request = read_request::<GetFlowsRequest, _>(request, MAX_REQUEST).await?;
    // What the answer held is in the status that ends it.
    Ok(respond(observer.open_flows(request).await?))
}
