//! Sockets of a daemon: gRPC listeners with limits and TLS, probes and metrics over HTTP.
#![forbid(unsafe_code)]

mod connection;
mod grpc;
mod http;
mod io;
mod listen;
mod scrapes;
mod tls;

pub use connection::{ConnectionInfo, Guarded};
pub use grpc::{Pieces, read_request, respond};
pub use http::{HttpListener, HttpServer, Refresh};
pub use io::Io;
pub use listen::{ListenConfig, ListenError, Listeners};
pub use scrapes::Scrapes;
pub use tls::{TlsError, TlsFiles};
