//! Counters of the reader that survive it: an array map of its own, pinned, written by plain stores.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::{Map, MapData, MapError};
use specola_datapath_common::event::lane;

use super::{ReaderCounts, Rejected};
use crate::maps::MapsError;
use crate::maps::policy::remove_pin;
use crate::maps::words::Words;

/// What readers of this node took out of the lanes since the maps were made.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    words: Arc<Words>,
    _map: Arc<Map>,
}

impl Ledger {
    /// Opens the pinned array, or makes it.
    ///
    /// An earlier version's, which has fewer counters, is replaced by one that goes on from its values.
    pub(crate) fn open(pin: &Path) -> Result<Self, MapsError> {
        let old = Self::pinned(pin)?;
        if let Some((ledger, WORDS)) = old {
            return Ok(ledger);
        }
        let values: Vec<u64> = match &old {
            Some((ledger, count)) if *count < WORDS => {
                (0..*count).map(|index| ledger.words.word(index).load(Ordering::Relaxed)).collect()
            }
            _ => Vec::new(),
        };
        if old.is_some() {
            tracing::info!(map = NAME, kept = values.len(), "pinned counters have another layout");
            remove_pin(pin).map_err(|error| MapsError::kernel(NAME, "unpin")(MapError::IoError(error)))?;
        }
        let ledger = Self::over(Self::create(pin)?, WORDS)?;
        for (index, value) in values.into_iter().enumerate() {
            ledger.words.word(index).store(value, Ordering::Relaxed);
        }
        Ok(ledger)
    }

    /// The pinned array and how many counters it has.
    fn pinned(pin: &Path) -> Result<Option<(Self, usize)>, MapsError> {
        if !pin.exists() {
            return Ok(None);
        }
        let data = MapData::from_pin(pin).map_err(MapsError::kernel(NAME, "open its pin"))?;
        let info = data.info().map_err(MapsError::kernel(NAME, "look at its pin"))?;
        let count = if info.value_size() == 8 { info.max_entries() as usize } else { 0 };
        Ok(Some((Self::over(data, count.max(1))?, count)))
    }

    fn over(data: MapData, count: usize) -> Result<Self, MapsError> {
        let words = Words::map(data.fd().as_fd(), count * size_of::<u64>())
            .map_err(|source| MapsError::Mmap { name: NAME, source })?;
        Ok(Self { words: Arc::new(words), _map: Arc::new(Map::Array(data)) })
    }

    fn create(pin: &Path) -> Result<MapData, MapsError> {
        let definition = aya_obj::Map::new_from_params(
            aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            4,
            8,
            u32::try_from(WORDS).expect("a handful of words"),
            aya_obj::generated::BPF_F_MMAPABLE,
        );
        let data =
            MapData::create(definition, "sp_reader", None).map_err(MapsError::kernel(NAME, "create"))?;
        data.pin(pin).map_err(|error| {
            MapsError::kernel(NAME, "pin")(MapError::PinError { name: Some(NAME.to_owned()), error })
        })?;
        Ok(data)
    }

    /// Adds what one round took.
    pub(super) fn add(&self, consumed: [u64; lane::COUNT], rejected: Rejected) {
        let rejected = rejected.by_reason().map(|(_, count)| count);
        for (index, count) in consumed.into_iter().chain(rejected).enumerate() {
            if count > 0 {
                self.words.word(index).fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Adds packets that a record was made for although they were counted only.
    pub(super) fn add_folded(&self, packets: u64) {
        self.words.word(lane::COUNT + 3).fetch_add(packets, Ordering::Relaxed);
    }

    /// What readers did since the counters were made.
    pub(crate) fn read(&self) -> ReaderCounts {
        let word = |index| self.words.word(index).load(Ordering::Relaxed);
        let consumed = std::array::from_fn(word);
        let rejected =
            Rejected { size: word(lane::COUNT), abi: word(lane::COUNT + 1), kind: word(lane::COUNT + 2) };
        ReaderCounts { consumed, rejected, folded: word(lane::COUNT + 3) }
    }
}

/// Also the name of the pin.
pub(crate) const NAME: &str = "SP_READER";
const WORDS: usize = lane::COUNT + 4;
