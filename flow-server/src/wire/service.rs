//! Hubble's Observer service with its own way for GetFlows: the body of that response is made of ready bytes.

use std::{convert::Infallible, fmt, pin::Pin};

use futures::{FutureExt, Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::bytes::Bytes;
use specola_proto::observer::{GetFlowsRequest, observer_server::ObserverServer};
use tonic::{
    Request, Status,
    body::Body,
    codec::{Codec, Streaming},
    codegen::{Body as HttpBody, BoxFuture, Context, Poll, Service, StdError, http},
    metadata::MetadataMap,
    server::NamedService,
};
use tonic_prost::ProstCodec;

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
    let request = read_request(request).await?;
    let (metadata, chunks, extensions) = observer.open_flows(request).await?.into_parts();
    let mut response = http::Response::new(Body::new(StreamBody::new(frames(chunks))));
    *response.headers_mut() = metadata.into_headers();
    *response.extensions_mut() = extensions;
    response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    Ok(response)
}

async fn read_request<B>(request: http::Request<B>) -> Result<Request<GetFlowsRequest>, Status>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    if parts.headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
        let mut refusal =
            Status::unimplemented("compressed requests are not supported: send them as they are");
        refusal.metadata_mut().insert("grpc-accept-encoding", "identity".parse().expect("plain ASCII"));
        return Err(refusal);
    }
    let decoder = ProstCodec::<GetFlowsRequest, GetFlowsRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MAX_REQUEST));
    let message = messages.message().await?.ok_or_else(|| Status::internal("the request has no message"))?;
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(parts.headers);
    *request.extensions_mut() = parts.extensions;
    Ok(request)
}

/// The chunks as DATA, then the status as trailers.
fn frames(chunks: FlowChunks) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::unfold(Some(chunks), async |chunks| {
        let mut chunks = chunks?;
        let end = match chunks.next().await {
            Some(Ok(bytes)) => return Some((Ok(Frame::data(bytes)), Some(chunks))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        Some((Ok(Frame::trailers(trailers(&end))), None))
    })
}

fn trailers(status: &Status) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    match status.add_header(&mut headers) {
        Ok(()) => headers,
        // A text that no header can carry; the code can.
        Err(_) => trailers(&Status::new(status.code(), "")),
    }
}
