//! Memory of a map, mapped into this process and accessed as atomic words.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, MapError};

use super::MapsError;
use super::policy::remove_pin;

/// A shared mapping of an array map's values, or of a ring buffer's positions.
///
/// The kernel programs see every store at once, and an aligned word is never seen half-written.
#[derive(Debug)]
pub(crate) struct Words {
    start: NonNull<AtomicU64>,
    words: usize,
    mapped_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone, is valid until it is dropped, and is accessed through atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `bytes` bytes of an mmapable array map (`bytes` a multiple of 8).
    pub(crate) fn map(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        Self::map_as(map, bytes, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Maps the two pages of a ring buffer that hold the consumer's and the producer's position; they can only be
    /// loaded.
    pub(crate) fn map_positions(ring: BorrowedFd<'_>) -> io::Result<Positions> {
        let page = usize::try_from(crate::config::page_size()).map_err(io::Error::other)?;
        let words = Self::map_as(ring, 2 * page, libc::PROT_READ)?;
        Ok(Positions { words, producer: page / size_of::<u64>() })
    }

    fn map_as(map: BorrowedFd<'_>, bytes: usize, protection: libc::c_int) -> io::Result<Self> {
        let page = usize::try_from(crate::config::page_size()).map_err(io::Error::other)?;
        let mapped_bytes = bytes.next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), mapped_bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, words: bytes / size_of::<u64>(), mapped_bytes })
    }

    /// The word at an index.
    ///
    /// # Panics
    /// The index is outside the map: callers check slots before.
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: inside the mapping (checked above), which is page aligned, lives as long as `self`, and whose memory
        // is zeroed integers; `AtomicU64` accepts every bit pattern and concurrent access by the kernel.
        unsafe { self.start.add(index).as_ref() }
    }
}

/// Opens a pinned array of words, or makes it, mmapable. One of another size is replaced, which is said.
pub(crate) fn pinned_array(name: &'static str, pin: &Path, words: usize) -> Result<MapData, MapsError> {
    let entries = u32::try_from(words).expect("a handful of words");
    if pin.exists() {
        let data = MapData::from_pin(pin).map_err(MapsError::kernel(name, "open its pin"))?;
        let info = data.info().map_err(MapsError::kernel(name, "look at its pin"))?;
        if info.value_size() == 8 && info.max_entries() == entries {
            return Ok(data);
        }
        tracing::warn!(map = name, "pinned counters have another layout and begin anew");
        remove_pin(pin).map_err(|error| MapsError::kernel(name, "unpin")(MapError::IoError(error)))?;
    }
    let array = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let definition = aya_obj::Map::new_from_params(array, 4, 8, entries, aya_obj::generated::BPF_F_MMAPABLE);
    let kernel_name = name.to_lowercase();
    let data = MapData::create(definition, &kernel_name, None).map_err(MapsError::kernel(name, "create"))?;
    data.pin(pin).map_err(|error| {
        MapsError::kernel(name, "pin")(MapError::PinError { name: Some(name.to_owned()), error })
    })?;
    Ok(data)
}

/// Positions of a ring buffer.
#[derive(Debug)]
pub(crate) struct Positions {
    words: Words,
    /// Index of the word that holds the producer's position.
    producer: usize,
}

impl Positions {
    /// Bytes that were taken out since the ring buffer was made, and bytes that the programs wrote, with record headers.
    pub(crate) fn read(&self) -> (u64, u64) {
        // The consumer first: it never overtakes the producer.
        let consumed = self.words.word(0).load(Ordering::Acquire);
        (consumed, self.words.word(self.producer).load(Ordering::Acquire))
    }

    /// Bytes that the programs wrote and nobody consumed, with record headers.
    pub(crate) fn backlog(&self) -> u64 {
        let (consumed, produced) = self.read();
        produced.wrapping_sub(consumed)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: address and length are those that `mmap` returned and was given; no reference outlives `self`.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped_bytes) };
        debug_assert_eq!(result, 0, "munmap of our own mapping cannot fail");
    }
}
