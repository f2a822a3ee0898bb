//! GetFlows of one peer, as encoded answers.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use prost::Message as _;
use prost::bytes::Bytes;
use specola_proto::observer::GetFlowsRequest;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::{Service as _, http};
use tonic::{Code, Status};

use crate::dial::Link;
use crate::envelope::{Answer, BadAnswer, Splitter, push_frame};

/// An open stream of a peer.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) id: u32,
    body: Incoming,
    splitter: Splitter,
    /// The peer says that its answer is whole.
    pub(crate) is_whole: bool,
}

/// Time in which a peer must begin to answer.
const OPEN_TIME: Duration = Duration::from_secs(5);

impl Upstream {
    /// Asks a peer.
    ///
    /// # Errors
    /// The peer refuses, or does not begin to answer.
    pub(crate) async fn open(
        id: u32,
        mut link: Link,
        request: GetFlowsRequest,
        authorization: Option<http::HeaderValue>,
    ) -> Result<Self, Status> {
        let mut message = Vec::new();
        push_frame(&request.encode_to_vec(), &[], &mut message);
        let mut post = http::Request::post("http://peer/observer.Observer/GetFlows")
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers");
        if let Some(value) = authorization {
            post = post.header(http::header::AUTHORIZATION, value);
        }
        let post = post
            .body(Body::new(Full::new(Bytes::from(message))))
            .map_err(|error| Status::internal(format!("make a request: {error}")))?;
        let broken = |error: hyper::Error| Status::unavailable(format!("ask the peer: {error}"));
        let asked = async {
            std::future::poll_fn(|context| link.poll_ready(context)).await?;
            link.call(post).await
        };
        let answer = timeout(OPEN_TIME, asked).await;
        let response = answer
            .map_err(|_slow| Status::deadline_exceeded(format!("no answer within {OPEN_TIME:?}")))?
            .map_err(broken)?;
        if response.status() != http::StatusCode::OK {
            return Err(Status::unavailable(format!("the peer answers with HTTP {}", response.status())));
        }
        if let Some(status) = Status::from_header_map(response.headers())
            && status.code() != Code::Ok
        {
            return Err(status);
        }
        let is_whole = response.headers().get("specola-coverage").is_some_and(|coverage| coverage == "whole");
        Ok(Self { id, body: response.into_body(), splitter: Splitter::default(), is_whole })
    }

    /// The next answers; `None` at the end.
    ///
    /// # Errors
    /// The peer breaks off, or sends what is no answer.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        let bad = |error: BadAnswer| Status::data_loss(format!("the peer sends nonsense: {error}"));
        let mut answers = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Status::unavailable(format!("connection lost: {error}")))?;
            match frame.into_data() {
                Ok(data) => {
                    self.splitter.split(data, &mut answers).map_err(bad)?;
                    if !answers.is_empty() {
                        return Ok(Some(answers));
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return match Status::from_header_map(&trailers) {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ if self.splitter.is_partial() => Err(bad(BadAnswer::Incomplete)),
                        _ => Ok(None),
                    };
                }
            }
        }
        Err(Status::unavailable("the peer ended the stream without a status"))
    }
}
