//! Counters of the reader that survive it: an array map of its own, pinned, written by plain stores.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::{Map, MapData, MapError};
use specola_datapath_common::event::lane;

use super::Rejected;
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
    pub(crate) fn open(pin: &Path) -> Result<Self, MapsError> {
        let data = match Self::reuse(pin)? {
            Some(data) => data,
            None => Self::create(pin)?,
        };
        let words = Words::map(data.fd().as_fd(), WORDS * size_of::<u64>())
            .map_err(|source| MapsError::Mmap { name: NAME, source })?;
        Ok(Self { words: Arc::new(words), _map: Arc::new(Map::Array(data)) })
    }

    /// The pinned array, if there is one of the right size.
    fn reuse(pin: &Path) -> Result<Option<MapData>, MapsError> {
        if !pin.exists() {
            return Ok(None);
        }
        let data = MapData::from_pin(pin).map_err(MapsError::kernel(NAME, "open its pin"))?;
        let info = data.info().map_err(MapsError::kernel(NAME, "look at its pin"))?;
        if info.value_size() == 8 && info.max_entries() as usize == WORDS {
            return Ok(Some(data));
        }
        tracing::warn!(map = NAME, "pinned counters have another layout and begin anew");
        remove_pin(pin).map_err(|error| MapsError::kernel(NAME, "unpin")(MapError::IoError(error)))?;
        Ok(None)
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

    /// Samples taken out of each lane, and bad samples among them.
    pub(crate) fn read(&self) -> ([u64; lane::COUNT], Rejected) {
        let word = |index| self.words.word(index).load(Ordering::Relaxed);
        let consumed = std::array::from_fn(word);
        let rejected =
            Rejected { size: word(lane::COUNT), abi: word(lane::COUNT + 1), kind: word(lane::COUNT + 2) };
        (consumed, rejected)
    }
}

const NAME: &str = "SP_READER";
const WORDS: usize = lane::COUNT + 3;
