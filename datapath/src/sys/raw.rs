//! Hash maps as bytes, where the types of keys and values are known at run time only.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{MapData, MapError, MapType};

use super::{
    BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_ELEM, BPF_NOEXIST, BatchAttr, CHUNK, ElemAttr, MAX_CHUNK,
    address_of, bpf,
};

/// A hash map.
#[derive(Debug)]
pub(crate) struct RawMap {
    data: MapData,
    key_size: usize,
    value_size: usize,
}

impl RawMap {
    /// Looks what the map is.
    ///
    /// # Errors
    /// The kernel does not say, or it is no hash map.
    pub(crate) fn new(data: MapData) -> Result<Self, MapError> {
        let info = data.info()?;
        let kind = info.map_type()?;
        if !matches!(kind, MapType::Hash | MapType::LruHash) {
            return Err(MapError::InvalidMapType { map_type: kind as u32 });
        }
        let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
        Ok(Self { data, key_size, value_size })
    }

    /// Bytes of a key.
    pub(crate) fn key_size(&self) -> usize {
        self.key_size
    }

    /// Bytes of a value.
    pub(crate) fn value_size(&self) -> usize {
        self.value_size
    }

    /// All entries, read bucket by bucket: one that stays is seen exactly once.
    pub(crate) fn for_each(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let mut chunks = Chunks::new(self);
        loop {
            let count = chunks.next_chunk().map_err(MapError::IoError)?;
            let keys = chunks.keys.chunks_exact(self.key_size);
            for (key, value) in keys.zip(chunks.values.chunks_exact(self.value_size)).take(count) {
                visit(key, value)?;
            }
            if chunks.is_done {
                return Ok(());
            }
        }
    }

    /// Enters a key with its value unless the key is there. Gives whether it was entered.
    pub(crate) fn insert_new(&self, key: &[u8], value: &[u8]) -> Result<bool, MapError> {
        if value.len() != self.value_size {
            return Err(MapError::InvalidValueSize { size: value.len(), expected: self.value_size });
        }
        if key.len() != self.key_size {
            return Err(MapError::InvalidKeySize { size: key.len(), expected: self.key_size });
        }
        let mut attr = ElemAttr {
            map_fd: self.data.fd().as_fd().as_raw_fd().cast_unsigned(),
            pad: 0,
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            flags: BPF_NOEXIST,
        };
        // SAFETY: `attr` is laid out as the kernel's element member of `union bpf_attr`; key and value have the map's
        // own sizes, just checked, and outlive the call, which only reads them.
        match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &raw mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(MapError::IoError(error)),
        }
    }
}

struct Chunks<'a> {
    map: &'a RawMap,
    next: Option<u32>,
    room: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
    is_done: bool,
}

impl<'a> Chunks<'a> {
    fn new(map: &'a RawMap) -> Self {
        let mut chunks =
            Self { map, next: None, room: 0, keys: Vec::new(), values: Vec::new(), is_done: false };
        chunks.make_room(CHUNK);
        chunks
    }

    fn make_room(&mut self, room: usize) {
        self.room = room;
        self.keys.resize(room * self.map.key_size, 0);
        self.values.resize(room * self.map.value_size, 0);
    }

    /// Fills the buffers. Gives how many entries they have now.
    fn next_chunk(&mut self) -> io::Result<usize> {
        loop {
            match self.read() {
                // A bucket with more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && self.room < MAX_CHUNK => {
                    self.make_room(self.room * 2);
                }
                result => return result,
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut after = 0_u32;
        let mut attr = BatchAttr {
            in_batch: self.next.as_ref().map_or(0, address_of),
            out_batch: &raw mut after as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.room).map_err(io::Error::other)?,
            map_fd: self.map.data.fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `attr` is laid out as the kernel's `union bpf_attr.batch`; the two buffers have room for `count` keys
        // and values of the sizes that the kernel gave for this map, a hash map without values per CPU (checked in
        // `new`); the two batch fields point to `u32`s, which is what hash maps use; all outlive the call.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &raw mut attr) };
        match result {
            Ok(_) => self.next = Some(after),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_done = true,
            Err(error) => return Err(error),
        }
        Ok((attr.count as usize).min(self.room))
    }
}
