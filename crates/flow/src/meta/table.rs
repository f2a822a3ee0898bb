//! The table behind the handles: one writer adds and frees entries, readers take no lock.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};

use super::{EndpointMeta, GENERATIONS, MetaHandle, PLACES};

/// Where readers find the entries.
#[derive(Debug, Default)]
pub struct MetaTable {
    chunks: ArcSwap<Vec<Chunk>>,
}

/// Places that are published together. Entries are added in place; to free some, the chunk is replaced.
type Chunk = Arc<[OnceLock<Arc<Entry>>]>;

/// An entry with what is made of it over and over.
#[derive(Debug)]
struct Entry {
    handle: MetaHandle,
    meta: Arc<EndpointMeta>,
    shown_labels: Box<[String]>,
    /// What of the endpoint's message follows from the entry.
    #[cfg(feature = "proto")]
    wire: Box<[u8]>,
    /// 1 + number of the latest common flow that refers to it, 0 = none.
    common: AtomicU64,
    /// 1 + number of the latest protected flow that refers to it, 0 = none.
    protected: AtomicU64,
}

impl Entry {
    fn new(handle: MetaHandle, meta: Arc<EndpointMeta>) -> Self {
        let shown_labels: Box<[String]> = meta.shown_labels().map(ToString::to_string).collect();
        Self {
            #[cfg(feature = "proto")]
            wire: crate::wire::endpoint_tail(&meta, &shown_labels),
            handle,
            meta,
            shown_labels,
            common: AtomicU64::new(0),
            protected: AtomicU64::new(0),
        }
    }
}

/// The entries of one moment, and those added since as far as there was room beside them.
///
/// Load it after reading the flows whose handles it shall resolve, and hold it for a batch of them, not for long: it
/// keeps freed entries in memory.
pub struct Metas(Guard<Arc<Vec<Chunk>>>);

/// Which flows refer to an entry: the numbers of the latest ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LastUse {
    /// Latest flow of the ring's common class; `None` = never.
    pub common: Option<u64>,
    /// Latest protected flow.
    pub protected: Option<u64>,
}

impl MetaTable {
    /// What is in the table now.
    pub fn load(&self) -> Metas {
        Metas(self.chunks.load())
    }
}

impl Metas {
    /// The entry behind a handle; `None` for [`MetaHandle::NONE`] and for entries that were freed.
    pub fn get(&self, handle: MetaHandle) -> Option<&EndpointMeta> {
        self.entry(handle).map(|entry| entry.meta.as_ref())
    }

    /// Text of the entry's [`EndpointMeta::shown_labels`]; none without an entry.
    pub fn shown_labels(&self, handle: MetaHandle) -> &[String] {
        self.entry(handle).map_or(&[], |entry| &entry.shown_labels)
    }

    /// Entry and text of its labels in one look-up.
    pub(crate) fn known(&self, handle: MetaHandle) -> (Option<&EndpointMeta>, &[String]) {
        self.entry(handle).map_or((None, &[]), |entry| (Some(entry.meta.as_ref()), &entry.shown_labels))
    }

    /// The encoded fields of an endpoint's message that follow from the entry: all but id and identity.
    #[cfg(feature = "proto")]
    pub fn wire(&self, handle: MetaHandle) -> &[u8] {
        self.entry(handle).map_or(&[], |entry| &entry.wire)
    }

    /// Notes that flow number `seq` refers to the entry, which keeps it until that flow is overwritten. Numbers grow.
    pub fn note_use(&self, handle: MetaHandle, seq: u64, is_protected: bool) {
        if let Some(entry) = self.entry(handle) {
            entry.common.store(seq + 1, Ordering::Relaxed);
            if is_protected {
                entry.protected.store(seq + 1, Ordering::Relaxed);
            }
        }
    }

    fn entry(&self, handle: MetaHandle) -> Option<&Entry> {
        let place = handle.place()?;
        let chunk = self.0.get(place / CHUNK)?;
        let entry = chunk.get(place % CHUNK)?.get()?;
        // Another generation is another pod.
        (entry.handle == handle).then_some(entry)
    }
}

impl fmt::Debug for Metas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metas").field("chunks", &self.0.len()).finish_non_exhaustive()
    }
}

/// The side that adds and frees entries. Equal entries share one handle.
#[derive(Debug, Default)]
pub struct MetaInterner {
    table: Arc<MetaTable>,
    chunks: Vec<Chunk>,
    handles: HashMap<Arc<EndpointMeta>, MetaHandle>,
    places: Vec<Place>,
    /// Places that were freed. The one that was freed first is used again first.
    vacant: VecDeque<u32>,
}

/// The writer's view of a place.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    generation: u32,
    /// How often the entry was interned and not released.
    holders: u32,
}

/// The table holds as many different entries as it can.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "endpoint table is full: it had {PLACES} entries at once or two thousand million in all; restart the agent"
)]
pub struct TableFull;

impl MetaInterner {
    /// An interner with an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The table that handles point into.
    pub fn table(&self) -> Arc<MetaTable> {
        Arc::clone(&self.table)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// The handle of this entry, which is new when no equal one exists. The caller holds it until [`Self::release`].
    ///
    /// # Errors
    /// No place is left; the entry is not in the table.
    pub fn intern(&mut self, meta: EndpointMeta) -> Result<MetaHandle, TableFull> {
        let handle = match self.handles.get(&meta) {
            Some(handle) => *handle,
            None => self.add(meta)?,
        };
        if let Some(place) = self.place_mut(handle) {
            place.holders += 1;
        }
        Ok(handle)
    }

    /// Gives back what one [`Self::intern`] gave. The entry stays until [`Self::free`]. Whether nobody holds it now.
    pub fn release(&mut self, handle: MetaHandle) -> bool {
        let Some(place) = self.place_mut(handle) else { return false };
        place.holders = place.holders.saturating_sub(1);
        place.holders == 0
    }

    /// Whether nobody holds the entry. It may have flows all the same.
    pub fn is_released(&self, handle: MetaHandle) -> bool {
        self.current(handle).is_some_and(|place| place.holders == 0)
    }

    /// Which flows referred to the entry last; `None` when there is no such entry.
    pub fn last_use(&self, handle: MetaHandle) -> Option<LastUse> {
        let place = handle.place()?;
        let entry = self.chunks.get(place / CHUNK)?.get(place % CHUNK)?.get()?;
        let seq = |word: &AtomicU64| word.load(Ordering::Relaxed).checked_sub(1);
        let last = LastUse { common: seq(&entry.common), protected: seq(&entry.protected) };
        (entry.handle == handle).then_some(last)
    }

    /// Frees entries that nobody holds; others stay. Their handles lead nowhere from now on. Gives how many were freed.
    pub fn free(&mut self, handles: impl IntoIterator<Item = MetaHandle>) -> usize {
        let mut places: Vec<usize> = handles
            .into_iter()
            .filter(|handle| self.is_released(*handle))
            .filter_map(MetaHandle::place)
            .collect();
        places.sort_unstable();
        places.dedup();
        for in_chunk in places.chunk_by(|a, b| a / CHUNK == b / CHUNK) {
            self.replace_chunk(in_chunk);
        }
        if !places.is_empty() {
            self.publish();
        }
        places.len()
    }

    fn add(&mut self, meta: EndpointMeta) -> Result<MetaHandle, TableFull> {
        let place = match self.vacant.pop_front() {
            Some(place) => place as usize,
            None => self.new_place()?,
        };
        let handle = MetaHandle::new(place, self.places[place].generation).ok_or(TableFull)?;
        let meta = Arc::new(meta);
        let entry = Arc::new(Entry::new(handle, Arc::clone(&meta)));
        let was_vacant = self.chunks[place / CHUNK][place % CHUNK].set(entry).is_ok();
        debug_assert!(was_vacant, "a vacant place has no entry");
        self.handles.insert(meta, handle);
        Ok(handle)
    }

    fn new_place(&mut self) -> Result<usize, TableFull> {
        let place = self.places.len();
        if place >= PLACES {
            return Err(TableFull);
        }
        if place.is_multiple_of(CHUNK) {
            self.chunks.push((0..CHUNK).map(|_| OnceLock::new()).collect());
            self.publish();
        }
        self.places.push(Place::default());
        Ok(place)
    }

    /// Copies a chunk without the entries of some of its places.
    fn replace_chunk(&mut self, without: &[usize]) {
        let Some(number) = without.first().map(|place| place / CHUNK) else { return };
        let mut left_out = without.iter().map(|place| place % CHUNK).peekable();
        let old = Arc::clone(&self.chunks[number]);
        let copied = old.iter().enumerate().map(|(index, entry)| {
            if left_out.next_if_eq(&index).is_some() { OnceLock::new() } else { entry.clone() }
        });
        self.chunks[number] = copied.collect();
        for place in without {
            if let Some(entry) = old[place % CHUNK].get() {
                self.handles.remove(&entry.meta);
            }
            self.places[*place].generation += 1;
            // A place without further generations stays empty for ever.
            if self.places[*place].generation < GENERATIONS {
                self.vacant.extend(u32::try_from(*place));
            }
        }
    }

    fn publish(&self) {
        self.table.chunks.store(Arc::new(self.chunks.clone()));
    }

    /// The place of an entry that was not freed.
    fn current(&self, handle: MetaHandle) -> Option<&Place> {
        let place = self.places.get(handle.place()?)?;
        (MetaHandle::new(handle.place()?, place.generation)? == handle).then_some(place)
    }

    fn place_mut(&mut self, handle: MetaHandle) -> Option<&mut Place> {
        self.current(handle)?;
        self.places.get_mut(handle.place()?)
    }
}

/// Places in a chunk: few, because freeing one entry copies the others' pointers.
const CHUNK: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: impl ToString) -> EndpointMeta {
        EndpointMeta { namespace: "shop".into(), pod_name: name.to_string(), ..EndpointMeta::default() }
    }

    fn name(interner: &MetaInterner, handle: MetaHandle) -> Option<String> {
        interner.table().load().get(handle).map(|meta| meta.pod_name.clone())
    }

    #[test]
    fn equal_entries_share_a_handle() {
        let mut interner = MetaInterner::new();
        let web = interner.intern(pod("web")).unwrap();
        let db = interner.intern(pod("db")).unwrap();
        assert_ne!(web, db);
        assert_eq!(interner.intern(pod("web")).unwrap(), web);
        assert_eq!(
            (name(&interner, web).as_deref(), name(&interner, db).as_deref()),
            (Some("web"), Some("db"))
        );
        for handle in [MetaHandle::NONE, MetaHandle::new(2, 0).unwrap(), MetaHandle(u32::MAX)] {
            assert_eq!(name(&interner, handle), None);
        }
    }

    #[test]
    fn handles_cross_chunks() {
        let mut interner = MetaInterner::new();
        let handles: Vec<_> = (0..3 * CHUNK).map(|n| interner.intern(pod(n)).unwrap()).collect();
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(name(&interner, handle), Some(n.to_string()));
        }
    }

    #[test]
    fn only_what_nobody_holds_is_freed() {
        let mut interner = MetaInterner::new();
        let web = interner.intern(pod("web")).unwrap();
        interner.intern(pod("web")).unwrap();
        let db = interner.intern(pod("db")).unwrap();
        assert!(!interner.release(web), "it is held twice");
        assert_eq!(interner.free([web, db, MetaHandle::NONE]), 0);
        assert!(interner.release(web) && interner.is_released(web));
        assert_eq!(interner.free([web, web, db]), 1);
        assert_eq!((name(&interner, web), interner.len()), (None, 1));
        assert_eq!(name(&interner, db).as_deref(), Some("db"));
        assert!(!interner.release(web) && interner.free([web]) == 0, "a handle of old is no handle");
    }

    #[test]
    fn a_handle_never_leads_to_the_next_entry_of_its_place() {
        let mut interner = MetaInterner::new();
        let old = interner.intern(pod("old")).unwrap();
        let before = interner.table().load();
        interner.release(old);
        interner.free([old]);
        let new = interner.intern(pod("new")).unwrap();
        assert_eq!(new.place(), old.place());
        assert_eq!((name(&interner, old), name(&interner, new).as_deref()), (None, Some("new")));
        // Who loaded the table before goes on with what it held, and does not see what came into its place.
        assert_eq!(before.get(old).map(|meta| meta.pod_name.as_str()), Some("old"));
        assert_eq!(before.get(new), None);
    }

    #[test]
    fn an_entry_that_comes_back_before_it_is_freed_keeps_its_handle() {
        let mut interner = MetaInterner::new();
        let web = interner.intern(pod("web")).unwrap();
        interner.release(web);
        assert_eq!(interner.intern(pod("web")).unwrap(), web);
        assert_eq!(interner.free([web]), 0);
        assert_eq!(name(&interner, web).as_deref(), Some("web"));
    }

    #[test]
    fn uses_are_noted_by_class() {
        let mut interner = MetaInterner::new();
        let web = interner.intern(pod("web")).unwrap();
        let last = |interner: &MetaInterner| interner.last_use(web).map(|last| (last.common, last.protected));
        assert_eq!(last(&interner), Some((None, None)));
        let metas = interner.table().load();
        metas.note_use(web, 0, true);
        metas.note_use(web, 7, false);
        assert_eq!(last(&interner), Some((Some(7), Some(0))));
        interner.release(web);
        interner.free([web]);
        metas.note_use(web, 8, false);
        assert_eq!(last(&interner), None);
    }

    #[test]
    fn places_are_used_again_and_handles_are_not() {
        let mut interner = MetaInterner::new();
        let mut handles = std::collections::HashSet::new();
        for round in 0..3 * GENERATIONS {
            let handle = interner.intern(pod(round)).unwrap();
            assert!(handles.insert(handle));
            assert_eq!(name(&interner, handle), Some(round.to_string()));
            interner.release(handle);
            assert_eq!(interner.free([handle]), 1);
        }
        assert_eq!((interner.places.len(), interner.len()), (3, 0));
    }
}
