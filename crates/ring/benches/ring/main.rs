//! Compares designs of the ring: `cargo bench -p specola-ring --bench ring [-- --rounds N] [--json FILE]`.
//!
//! Prints Markdown. Each figure is the smallest of several rounds; the designs take turns.

mod designs;
mod measure;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use designs::{Counted, Design, Epochs, Locks, Words};
use measure::{bytes, drain, followed, handed_over};

/// Counts what is asked for; what the allocator adds of its own is not in it.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CAPACITY: usize = 65_536;
const RECORDS: u64 = 1_000_000;
const BATCH: u64 = 64;
const FOLLOWERS: [usize; 3] = [0, 1, 8];

/// Smallest figures of one design.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    push: [f64; 3],
    read: [f64; 3],
    lost: [f64; 3],
    drain: f64,
    single: f64,
    batch: f64,
    bytes: f64,
}

impl Row {
    fn new(name: &'static str) -> Self {
        let none = f64::INFINITY;
        Self {
            name,
            push: [none; 3],
            read: [none; 3],
            lost: [none; 3],
            drain: none,
            single: none,
            batch: none,
            bytes: none,
        }
    }

    fn measure<D: Design>(&mut self) {
        for (index, readers) in FOLLOWERS.into_iter().enumerate() {
            let figures = followed::<D>(CAPACITY, RECORDS, readers);
            self.push[index] = self.push[index].min(figures.push);
            self.read[index] = self.read[index].min(figures.read);
            self.lost[index] = self.lost[index].min(figures.lost);
        }
        self.drain = self.drain.min(drain::<D>(CAPACITY, 4));
        self.single = self.single.min(handed_over::<D>(CAPACITY, RECORDS / 10, 1));
        self.batch = self.batch.min(handed_over::<D>(CAPACITY, RECORDS, BATCH));
        self.bytes = self.bytes.min(bytes::<D>(CAPACITY, || LIVE.load(Ordering::Relaxed)));
    }

    fn line(&self) -> String {
        let [push0, push1, push8] = self.push;
        let [_, read1, read8] = self.read;
        let [_, lost1, lost8] = self.lost;
        format!(
            "| {} | {push0:.1} | {push1:.1} | {push8:.1} | {:.1} | {read1:.1} ({lost1:.0} %) | {read8:.1} ({lost8:.0} %) \
             | {:.0} | {:.0} | {:.0} |",
            self.name, self.drain, self.batch, self.single, self.bytes
        )
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "design": self.name,
            "push_ns": { "0": self.push[0], "1": self.push[1], "8": self.push[2] },
            "read_following_ns": { "1": self.read[1], "8": self.read[2] },
            "lost_percent": { "1": self.lost[1], "8": self.lost[2] },
            "drain_ns": self.drain,
            "hand_over_batch_ns": self.batch,
            "hand_over_single_ns": self.single,
            "bytes_per_record": self.bytes,
        })
    }
}

struct Options {
    rounds: usize,
    json: Option<String>,
}

fn options() -> Options {
    let mut options = Options { rounds: 5, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => {
                let rounds = arguments.next().and_then(|rounds| rounds.parse().ok());
                options.rounds = rounds.expect("--rounds takes a number");
            }
            "--json" => options.json = Some(arguments.next().expect("--json takes a file")),
            // What cargo passes to every bench.
            "--bench" => {}
            other => panic!("unknown argument {other}: --rounds N, --json FILE"),
        }
    }
    options
}

#[expect(clippy::print_stdout, reason = "the report")]
fn main() {
    let options = options();
    let mut rows = [Words::NAME, Counted::NAME, Epochs::NAME, Locks::NAME].map(Row::new);
    for _ in 0..options.rounds.max(1) {
        let [words, counted, epochs, locks] = &mut rows;
        words.measure::<Words>();
        counted.measure::<Counted>();
        epochs.measure::<Epochs>();
        locks.measure::<Locks>();
    }
    println!(
        "{CAPACITY} slots of {} B; ns of CPU time per record; smallest of {} rounds.\n",
        8 * designs::WORDS,
        options.rounds
    );
    println!(
        "| design | push, alone | push, 1 reader | push, 8 | read, whole ring | read, following (lost) | read, 8 follow (lost) \
         | push + wake + read, batches of {BATCH} | same, one by one | bytes per slot |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{}", row.line()));
    if let Some(file) = options.json {
        let figures: Vec<_> = rows.iter().map(Row::json).collect();
        let text = serde_json::to_string_pretty(&figures).expect("plain numbers");
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}
