//! gRPC methods whose answers are ready bytes: tonic has no way to serve those beside generated methods.

use std::convert::Infallible;

use futures::{Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic::codegen::{Body as HttpBody, StdError, http};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Reads the one message of a request, which may have so many bytes.
///
/// # Errors
/// There is no such message, it is too large, or it is compressed; the refusal says what is understood.
pub async fn read_request<T, B>(request: http::Request<B>, most: usize) -> Result<Request<T>, Status>
where
    T: Message + Default + Send + 'static,
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
    let decoder = ProstCodec::<T, T>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(most));
    let message = messages.message().await?.ok_or_else(|| Status::internal("the request has no message"))?;
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(parts.headers);
    *request.extensions_mut() = parts.extensions;
    Ok(request)
}

/// An answer of gRPC messages that are already encoded, many in a piece.
pub trait Pieces: Send + 'static {
    /// The next piece; an error is the last one.
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, Status>>> + Send;

    /// What else is said at the end, beside the status.
    fn trailers(&self) -> http::HeaderMap {
        http::HeaderMap::new()
    }
}

impl<S: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static> Pieces for S {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        StreamExt::next(self).await
    }
}

/// The answer as it is sent: pieces as DATA, then the status as trailers.
pub fn respond(answer: Response<impl Pieces>) -> http::Response<Body> {
    let (metadata, pieces, extensions) = answer.into_parts();
    let mut response = http::Response::new(Body::new(StreamBody::new(frames(pieces))));
    *response.headers_mut() = metadata.into_headers();
    *response.extensions_mut() = extensions;
    response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}

fn frames(pieces: impl Pieces) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    futures::stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        let status = match pieces.next().await {
            Some(Ok(bytes)) => return Some((Ok(Frame::data(bytes)), Some(pieces))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        let mut headers = status_headers(&status);
        headers.extend(pieces.trailers());
        Some((Ok(Frame::trailers(headers)), None))
    })
}

fn status_headers(status: &Status) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    match status.add_header(&mut headers) {
        Ok(()) => headers,
        // A text that no header can carry; the code can.
        Err(_) => status_headers(&Status::new(status.code(), "")),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use tonic::Code;

    use super::*;

    fn request(encoding: Option<&str>, body: &'static [u8]) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::builder().header("specola-test", "x");
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        request.body(Full::new(Bytes::from_static(body))).expect("a request")
    }

    #[tokio::test]
    async fn requests() {
        // A message with the text "ab" in field 1.
        let body: &[u8] = b"\0\0\0\0\x04\x0a\x02ab";
        for encoding in [None, Some("identity")] {
            let read: Request<String> = read_request(request(encoding, body), 4).await.expect("a request");
            assert_eq!(read.get_ref(), "ab");
            assert_eq!(read.metadata().get("specola-test").expect("its headers"), "x");
        }
        for (encoding, body, most, code) in [
            (Some("gzip"), body, 4, Code::Unimplemented),
            (None, body, 3, Code::OutOfRange),
            (None, b"".as_slice(), 4, Code::Internal),
        ] {
            let refusal =
                read_request::<String, _>(request(encoding, body), most).await.expect_err("refused");
            assert_eq!(refusal.code(), code, "{refusal}");
            let accepts = refusal.metadata().get("grpc-accept-encoding").map(|value| value.as_bytes());
            assert_eq!(accepts, encoding.map(|_| b"identity".as_slice()));
        }
    }

    /// Says something at the end.
    struct Told<S>(S);

    impl<S: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static> Pieces for Told<S> {
        async fn next(&mut self) -> Option<Result<Bytes, Status>> {
            StreamExt::next(&mut self.0).await
        }

        fn trailers(&self) -> http::HeaderMap {
            let name = http::HeaderName::from_static("specola-end");
            http::HeaderMap::from_iter([(name, http::HeaderValue::from_static("1"))])
        }
    }

    #[tokio::test]
    async fn answers_end_with_status_and_what_else_is_said() {
        let piece = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        for (end, code, text) in
            [(None, "0", None), (Some(Status::data_loss("too slow")), "15", Some("too%20slow"))]
        {
            let items: Vec<Result<Bytes, Status>> =
                [piece("a"), piece("b")].into_iter().chain(end.map(Err)).collect();
            let answer = respond(Response::new(Told(futures::stream::iter(items))));
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            let body = answer.into_body().collect().await.expect("no failure");
            let trailers = body.trailers().expect("trailers").clone();
            assert_eq!(
                (&trailers["grpc-status"], &trailers["specola-end"]),
                (&code.parse().expect("ASCII"), &"1".parse().expect("ASCII"))
            );
            assert_eq!(trailers.get("grpc-message").map(|value| value.as_bytes()), text.map(str::as_bytes));
            assert_eq!(body.to_bytes(), "ab");
        }
    }
}
