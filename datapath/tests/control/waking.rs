//! The reader sleeps when nothing comes, and every event wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use specola_testkit::eventually;
use specola_testkit::packet::Frame;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);
/// The interface of test runs.
const LOOPBACK: u32 = 1;

/// A node whose one endpoint is closed, so that each packet of it is an event, and its reader.
struct Node {
    datapath: Datapath,
    frame: Vec<u8>,
    waker: ReaderWaker,
    reader: Option<JoinHandle<ReaderCounts>>,
    seen: Arc<Seen>,
    _pins: Pins,
}

/// What the reader's sink did.
#[derive(Debug, Default)]
struct Seen {
    thread: AtomicI32,
    events: AtomicU64,
    calls: AtomicU64,
}

impl Node {
    fn new() -> Self {
        let pins = Pins::new();
        let config = Config { fold_per_second: 0, ..pins.config() };
        let mut datapath = Datapath::load(&config).unwrap_or_else(|error| panic!("{error}"));
        let pod = endpoint(7, LOOPBACK);
        datapath.add_endpoint(1, &pod).unwrap();
        let frame = Frame::v4("10.0.0.7", "10.0.9.9").tcp(40_000, 80, 2).macs(pod.mac, pod.host_mac).bytes();
        let seen = Arc::new(Seen::default());
        let sink = {
            let seen = Arc::clone(&seen);
            move |tick: Tick<'_>| {
                seen.thread.store(nix::unistd::gettid().as_raw(), Ordering::Release);
                seen.calls.fetch_add(1, Ordering::AcqRel);
                seen.events.fetch_add(tick.events.len() as u64, Ordering::AcqRel);
                None
            }
        };
        let reader = datapath.take_reader().unwrap();
        let waker = reader.waker();
        Self { datapath, frame, waker, reader: Some(reader.spawn(sink).unwrap()), seen, _pins: pins }
    }

    /// One packet, which is one event.
    fn send(&mut self) {
        let run = self.datapath.test_run(names::FROM_CONTAINER, &self.frame).unwrap();
        assert_eq!(run.action, 2, "the packet is dropped");
    }

    #[track_caller]
    fn wait_for_events(&self, wanted: u64) {
        eventually("the event is read", LIMIT, || match self.seen.events.load(Ordering::Acquire) {
            seen if seen == wanted => Ok(()),
            seen => Err(format!("{seen} of {wanted} events")),
        });
    }

    /// Waits until the reader sleeps without an end: in ppoll(2) without a time limit.
    #[track_caller]
    fn wait_until_asleep(&self) {
        eventually("the reader sleeps", LIMIT, || {
            let thread = self.seen.thread.load(Ordering::Acquire);
            let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
            let text = text.map_err(|error| error.to_string())?;
            let words: Vec<&str> = text.split_whitespace().collect();
            // Number and arguments: the third argument is the time limit.
            let sleeps = words.first() == Some(&PPOLL) && words.get(3) == Some(&"0x0");
            if sleeps { Ok(()) } else { Err(text) }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.waker.stop();
        if let Some(reader) = self.reader.take() {
            // A panic of the reader shows by itself; there may be one already.
            drop(reader.join());
        }
    }
}

#[cfg(target_arch = "x86_64")]
const PPOLL: &str = "271";
#[cfg(not(target_arch = "x86_64"))]
const PPOLL: &str = "73";

#[test]
fn an_idle_reader_sleeps_until_an_event_a_wake_up_or_the_end() {
    let mut node = Node::new();
    node.wait_until_asleep();
    node.send();
    node.wait_for_events(1);
    node.wait_until_asleep();
    let calls = node.seen.calls.load(Ordering::Acquire);
    node.waker.wake();
    eventually("the sink is called", LIMIT, || match node.seen.calls.load(Ordering::Acquire) {
        now if now > calls => Ok(()),
        now => Err(now),
    });
    node.wait_until_asleep();
    // Of a sleeping reader too: otherwise this waits for ever.
    node.waker.stop();
    let counts = node.reader.take().unwrap().join().unwrap();
    assert_eq!(counts.consumed.iter().sum::<u64>(), 1);
}

/// A reader that missed one wake-up would sleep until the next event, which does not come.
#[test]
fn no_single_event_is_left_lying() {
    const EVENTS: u64 = 500;
    let mut node = Node::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for sent in 1..=EVENTS {
        node.send();
        node.wait_for_events(sent);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // From at once to a little after it falls asleep, which takes some 8 ms; most often just about then.
        let micros = if random >> 63 == 0 { (random >> 40) % 9_000 } else { 7_500 + (random >> 40) % 1_500 };
        let until = Instant::now() + Duration::from_micros(micros);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
    assert_eq!(node.datapath.reader_counts().consumed.iter().sum::<u64>(), EVENTS);
}

#[test]
fn a_burst_larger_than_the_lane_wakes_a_sleeping_reader_and_the_books_balance() {
    let mut node = Node::new();
    node.wait_until_asleep();
    for _ in 0..5_000 {
        node.send();
    }
    let deny = node.datapath.lane_counts().unwrap()[usize::from(lane::DENY)];
    assert_eq!(deny.attempts, 5_000);
    assert_eq!(deny.attempts, deny.submitted + deny.reserve_failed);
    node.wait_for_events(deny.submitted);
    node.wait_until_asleep();
}
