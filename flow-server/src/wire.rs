//! The way of flows from the ring to HTTP/2 without a message in between: records are written as gRPC messages into one
//! buffer, and the buffer is the DATA of the response.

mod feed;
mod frames;
mod scan;
mod service;

pub(crate) use feed::{Chunk, Feed, FeedStep, Feeds};
pub(crate) use frames::{push_frame, split_frames};
pub(crate) use scan::{Bounds, Scanned, Scanner, Stop, UNTIL_SLACK_NS, buffer_for};
pub(crate) use service::{FlowChunks, GetFlowsService};
