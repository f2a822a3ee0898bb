//! Connections: how many there may be, how soon they must speak, how often they may ask.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tonic::{Status, transport::server::Connected};

use crate::io::Io;

/// Connections of one listener.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Connections of one address, so that nobody takes all of them; those of a unix socket count as one address.
const MAX_PER_PEER: usize = 512;
/// Time in which a client must send the beginning of HTTP/2: its preface and the head of the first frame.
const GREETING_TIME: Duration = Duration::from_secs(10);
const GREETING_BYTES: usize = 24 + 9;
/// Requests that a connection may make at once, and each second from then on.
const BURST: u64 = 500;
const PER_SECOND: u64 = 100;
const SECOND_NS: u64 = 1_000_000_000;

/// Counts the connections of a listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Mutex<HashMap<Option<IpAddr>, usize>>>);

/// A place among a listener's connections.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Gate,
    peer: Option<IpAddr>,
}

impl Gate {
    /// A place for a connection of this address; `None` when there are too many.
    pub(crate) fn enter(&self, peer: Option<IpAddr>) -> Option<Place> {
        let mut peers = self.0.lock();
        let (all, own) = (peers.values().sum::<usize>(), peers.get(&peer).copied().unwrap_or(0));
        // All clients of a unix socket look the same.
        let own_limit = if peer.is_none() { MAX_CONNECTIONS } else { MAX_PER_PEER };
        if all >= MAX_CONNECTIONS || own >= own_limit {
            return None;
        }
        *peers.entry(peer).or_default() += 1;
        drop(peers);
        Some(Place { gate: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.gate.0.lock();
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// What requests know of their connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo(Arc<Mutex<Bucket>>);

/// Requests that may still be made; refilled as time goes by.
#[derive(Debug)]
struct Bucket {
    left: u64,
    /// Up to when it was refilled, ns.
    filled_ns: u64,
}

impl ConnectionInfo {
    /// Takes a request into account.
    ///
    /// # Errors
    /// The connection asks too often.
    pub fn admit(&self, now_ns: u64) -> Result<(), Status> {
        let mut bucket = self.0.lock();
        if bucket.left < BURST {
            let step_ns = SECOND_NS / PER_SECOND;
            let earned = now_ns.saturating_sub(bucket.filled_ns) / step_ns;
            bucket.left = bucket.left.saturating_add(earned).min(BURST);
            bucket.filled_ns =
                if bucket.left == BURST { now_ns } else { bucket.filled_ns + earned * step_ns };
        } else {
            bucket.filled_ns = now_ns;
        }
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => Err(Status::resource_exhausted(format!(
                "more than {PER_SECOND} requests per second on one connection: wait, or follow one stream"
            ))),
        }
    }
}

/// A connection with its place, which must begin to speak in time.
#[derive(Debug)]
pub struct Guarded {
    inner: Io,
    info: ConnectionInfo,
    _place: Place,
    /// `None` once enough was read.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Guarded {
    pub(crate) fn new(inner: Io, place: Place) -> Self {
        let info = ConnectionInfo(Arc::new(Mutex::new(Bucket { left: BURST, filled_ns: 0 })));
        let deadline = Box::pin(tokio::time::sleep_until(Instant::now() + GREETING_TIME));
        Self { inner, info, _place: place, greeting: Some((deadline, GREETING_BYTES)) }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(context, buffer) {
            let read = buffer.filled().len() - before;
            if let Some((_, missing)) = &mut self.greeting {
                *missing = missing.saturating_sub(read);
                if *missing == 0 {
                    self.greeting = None;
                }
            }
            return Poll::Ready(result);
        }
        match &mut self.greeting {
            None => Poll::Pending,
            Some((deadline, _)) => {
                ready!(deadline.as_mut().poll(context));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not begin HTTP/2")))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Connected for Guarded {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let gate = Gate::default();
        let one: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let other: Option<IpAddr> = Some([10, 0, 0, 2].into());
        let third: Option<IpAddr> = Some([10, 0, 0, 3].into());
        let mut places: Vec<Place> = (0..MAX_PER_PEER).map(|_| gate.enter(one).unwrap()).collect();
        assert!(gate.enter(one).is_none());
        places.extend((0..MAX_CONNECTIONS - MAX_PER_PEER).map(|_| gate.enter(other).unwrap()));
        assert!(gate.enter(third).is_none());
        places.pop();
        drop(gate.enter(third).unwrap());
        places.clear();
        assert!(gate.0.lock().is_empty());
        let local: Vec<Place> = (0..MAX_CONNECTIONS).map(|_| gate.enter(None).unwrap()).collect();
        assert!(gate.enter(None).is_none());
        drop(local);
    }

    #[test]
    fn requests_are_limited_per_connection() {
        let info = ConnectionInfo(Arc::new(Mutex::new(Bucket { left: BURST, filled_ns: 0 })));
        let ask = |now_ns| info.admit(now_ns).is_ok();
        let granted = |now_ns| (0..10 * BURST).take_while(|_| ask(now_ns)).count() as u64;
        for (now_ns, expected) in [
            (SECOND_NS, BURST),
            (SECOND_NS, 0),
            (2 * SECOND_NS, PER_SECOND),
            (2 * SECOND_NS + SECOND_NS / 2, PER_SECOND / 2),
            (60 * SECOND_NS, BURST),
            (SECOND_NS, 0),
        ] {
            assert_eq!(granted(now_ns), expected, "{now_ns}");
        }
    }
}
