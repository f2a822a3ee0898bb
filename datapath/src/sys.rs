//! Operations of `bpf(2)` that aya does not offer.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::maps::plain::{Abi, Plain};

#[cfg(feature = "test-util")]
mod empty;
pub(crate) mod raw;

#[cfg(feature = "test-util")]
pub use empty::EmptyProgram;

/// Entries of a hash map, read bucket by bucket: an entry that stays is seen exactly once.
#[derive(Debug)]
pub(crate) struct Chunks<'a, K, V> {
    map: BorrowedFd<'a>,
    /// Bucket to go on with; `None` = the first one.
    next: Option<u32>,
    keys: Vec<Plain<K>>,
    values: Vec<Plain<V>>,
    is_done: bool,
}

/// Keys and their values.
type Entries<'a, K, V> = (&'a [Plain<K>], &'a [Plain<V>]);

impl<'a, K: Abi + Default, V: Abi + Default> Chunks<'a, K, V> {
    /// Reads a hash map whose keys and values are of these types; the caller has checked their sizes.
    pub(crate) fn new(map: BorrowedFd<'a>) -> Self {
        let keys = vec![Plain(K::default()); CHUNK];
        let values = vec![Plain(V::default()); CHUNK];
        Self { map, next: None, keys, values, is_done: false }
    }

    /// The next entries; `None` when there are no more.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Entries<'_, K, V>>> {
        if self.is_done {
            return Ok(None);
        }
        let count = loop {
            match self.read() {
                // A bucket with more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && self.keys.len() < MAX_CHUNK => {
                    let room = self.keys.len() * 2;
                    self.keys.resize(room, Plain(K::default()));
                    self.values.resize(room, Plain(V::default()));
                }
                result => break result?,
            }
        };
        Ok(Some((&self.keys[..count], &self.values[..count])))
    }

    fn read(&mut self) -> io::Result<usize> {
        let room = u32::try_from(self.keys.len()).map_err(io::Error::other)?;
        let mut after = 0_u32;
        let mut attr = BatchAttr {
            in_batch: self.next.as_ref().map_or(0, address_of),
            out_batch: &raw mut after as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: room,
            map_fd: self.map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `attr` is laid out as the kernel's `union bpf_attr.batch`. `keys` and `values` have room for `count`
        // entries of the map's own sizes (checked when the map was opened), all initialized and free of padding; the
        // two batch fields point to `u32`s, which is what hash maps use; all outlive the call.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &raw mut attr) };
        match result {
            Ok(_) => self.next = Some(after),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_done = true,
            Err(error) => return Err(error),
        }
        Ok((attr.count as usize).min(self.keys.len()))
    }
}

/// Removes an entry of a hash map and gives what it held at that moment.
pub(crate) fn take<K: Abi, V: Abi + Default>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: address_of(key),
        value: &raw mut value as u64,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's element member of `union bpf_attr`; key and value are of the map's own
    // sizes (checked when the map was opened), initialized, free of padding, and outlive the call.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &raw mut attr) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts maps into an array of maps, all by one call.
///
/// # Errors
/// The kernel is older than 5.19, or refuses an entry; those before it are there then.
pub(crate) fn set_inner_maps(outer: BorrowedFd<'_>, entries: &[(u32, BorrowedFd<'_>)]) -> io::Result<()> {
    let keys: Vec<u32> = entries.iter().map(|(index, _)| *index).collect();
    let values: Vec<u32> = entries.iter().map(|(_, map)| map.as_raw_fd().cast_unsigned()).collect();
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(entries.len()).map_err(io::Error::other)?,
        map_fd: outer.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's `union bpf_attr.batch`; an array of maps has keys of 4 bytes and takes
    // descriptors of 4 bytes as values, of which there are `count` each; all outlive the call, which only reads them.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &raw mut attr) }?;
    Ok(())
}

/// Opens a pinned map so that it can only be read.
pub(crate) fn open_map_read_only(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: BPF_F_RDONLY };
    // SAFETY: `attr` is laid out as the kernel's object member of `union bpf_attr`; the path ends with a zero byte and
    // outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &raw mut attr) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `bpf(2)`. Gives what it returns: a descriptor for some commands, else 0.
///
/// # Safety
/// `attr` is what the command expects, and every address in it is valid for what the command does with it.
unsafe fn bpf<A>(command: libc::c_int, attr: *mut A) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the attribute; its size is passed along.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn address_of<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

/// `union bpf_attr.batch` of `linux/bpf.h`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The member of `union bpf_attr` for operations on one element.
#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The member of `union bpf_attr` for pinned objects.
#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_NOEXIST: u64 = 1;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_F_RDONLY: u32 = 1 << 3;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const CHUNK: usize = 512;
const MAX_CHUNK: usize = 1 << 20;
