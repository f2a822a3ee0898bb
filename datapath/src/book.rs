//! Counters that survive the process that writes them, also its sudden end: two copies in a pinned array, of which one
//! holds at any moment.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use aya::maps::Map;
use specola_datapath_common::metrics::BOOK_WORDS;

use crate::maps::MapsError;
use crate::maps::words::{Words, pinned_array};

/// The node's books: a handful of numbers that their writer replaces as a whole.
///
/// One writer at a time; readers may be anywhere.
#[derive(Clone, Debug)]
pub struct Book {
    words: Arc<Words>,
    _map: Arc<Map>,
}

impl Book {
    /// Opens the pinned array, or makes it.
    pub(crate) fn open(pin: &Path) -> Result<Self, MapsError> {
        let data = pinned_array(NAME, pin, WORDS)?;
        let words = Words::map(data.fd().as_fd(), WORDS * size_of::<u64>())
            .map_err(|source| MapsError::Mmap { name: NAME, source })?;
        Ok(Self { words: Arc::new(words), _map: Arc::new(Map::Array(data)) })
    }

    /// The numbers as the latest [`Self::write`] left them; zeros before the first one.
    pub fn read(&self) -> [u64; BOOK_WORDS] {
        let state = self.words.word(STATE);
        loop {
            let turn = state.load(Ordering::Acquire);
            let numbers =
                std::array::from_fn(|index| self.words.word(copy(turn) + index).load(Ordering::Relaxed));
            // Pairs with the fence in `write`: whoever read a word of a later turn sees that turn here.
            fence(Ordering::Acquire);
            if state.load(Ordering::Relaxed) == turn {
                return numbers;
            }
        }
    }

    /// Replaces the numbers. A process that dies in here leaves the old ones or the new ones.
    pub fn write(&self, numbers: &[u64; BOOK_WORDS]) {
        let state = self.words.word(STATE);
        let next = state.load(Ordering::Relaxed).wrapping_add(1);
        fence(Ordering::Release);
        for (index, number) in numbers.iter().enumerate() {
            self.words.word(copy(next) + index).store(*number, Ordering::Relaxed);
        }
        state.store(next, Ordering::Release);
    }
}

/// Index of the first word of the copy that holds in a turn.
fn copy(turn: u64) -> usize {
    if turn.is_multiple_of(2) { STATE + 1 } else { STATE + 1 + BOOK_WORDS }
}

/// Name of the map, without layout version.
pub(crate) const NAME: &str = "SP_BOOK";
/// Index of the word that says which copy holds: the lowest bit of the number of writes.
const STATE: usize = 0;
const WORDS: usize = 1 + 2 * BOOK_WORDS;
