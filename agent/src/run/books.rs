//! The flow server's counters, in a pinned map: a restart does not set them back.

use specola_datapath::abi::metrics::BOOK_WORDS;
use specola_datapath::{Book, Datapath};

/// The node's books.
#[derive(Debug)]
pub(super) struct Books {
    book: Book,
    /// Records that earlier processes took out of the lanes.
    pub(super) taken: u64,
}

impl Books {
    /// Opens them. To be called before the reader starts.
    pub(super) fn open(datapath: &Datapath) -> anyhow::Result<Self> {
        let taken = datapath.lane_books()?.iter().map(|lane| lane.taken).sum();
        Ok(Self { book: datapath.book(), taken })
    }
}

impl specola_flow_server::Book for Books {
    fn read(&self) -> [u64; BOOK_WORDS] {
        self.book.read()
    }

    fn write(&self, numbers: &[u64; BOOK_WORDS]) {
        self.book.write(numbers);
    }
}
