//! Who an endpoint was at the time of an event: immutable entries behind small handles.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use specola_labels::{Label, LabelSet, NumericIdentity, Scope, parse_cidr_key, source};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A workload that owns a pod.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Workload {
    /// Name, such as `frontend`.
    pub name: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
}

/// What is known of a source or destination besides its address. Never changes: a changed pod gets a new entry.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct EndpointMeta {
    /// Endpoint id when it is local, else 0.
    pub id: u16,
    /// Security identity.
    pub identity: NumericIdentity,
    /// Kubernetes namespace; empty when it is no pod.
    pub namespace: String,
    /// Pod name; empty when it is no pod.
    pub pod_name: String,
    /// Labels of the identity.
    pub labels: LabelSet,
    /// Owners of the pod.
    pub workloads: Vec<Workload>,
    /// Name of its cluster.
    pub cluster_name: String,
}

impl EndpointMeta {
    /// Labels as users see them: of an identity that stands for a prefix, only the longest `cidr` label stays.
    pub fn shown_labels(&self) -> impl Iterator<Item = &Label> {
        let longest = if self.identity.scope() == Scope::Local { self.longest_cidr() } else { None };
        let keeps =
            move |label: &Label| longest.is_none_or(|kept| label.source() != source::CIDR || label == kept);
        self.labels.iter().filter(move |label| keeps(label))
    }

    fn longest_cidr(&self) -> Option<&Label> {
        let length = |label: &Label| parse_cidr_key(label.key()).map_or(0, |prefix| prefix.prefix_len());
        self.labels.iter().filter(|label| label.source() == source::CIDR).max_by_key(|label| length(label))
    }
}

/// Names an entry of a [`MetaTable`]; 0 names none.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    FromBytes,
    Hash,
    Immutable,
    IntoBytes,
    KnownLayout,
    Ord,
    PartialEq,
    PartialOrd,
)]
#[repr(transparent)]
pub struct MetaHandle(u32);

impl MetaHandle {
    /// No entry.
    pub const NONE: Self = Self(0);

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Append-only table of entries, shared by the one writer and all readers. Look-ups take no lock.
#[derive(Debug)]
pub struct MetaTable {
    chunks: Box<[OnceLock<Chunk>]>,
}

type Chunk = Box<[OnceLock<Entry>]>;

/// An entry with what is made of it over and over.
#[derive(Debug)]
struct Entry {
    meta: Arc<EndpointMeta>,
    shown_labels: Box<[String]>,
    /// What of the endpoint's message follows from the entry.
    #[cfg(feature = "proto")]
    wire: Box<[u8]>,
}

impl Entry {
    fn new(meta: Arc<EndpointMeta>) -> Self {
        let shown_labels: Box<[String]> = meta.shown_labels().map(ToString::to_string).collect();
        Self {
            #[cfg(feature = "proto")]
            wire: crate::wire::endpoint_tail(&meta, &shown_labels),
            meta,
            shown_labels,
        }
    }
}

impl MetaTable {
    /// The entry behind a handle; `None` for [`MetaHandle::NONE`] and for numbers that were never given out.
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

    fn entry(&self, handle: MetaHandle) -> Option<&Entry> {
        let index = handle.0.checked_sub(1)? as usize;
        let chunk = self.chunks.get(index / CHUNK)?.get()?;
        chunk.get(index % CHUNK)?.get()
    }

    fn new() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    /// Fills a place that was never used.
    fn put(&self, index: usize, meta: Arc<EndpointMeta>) -> Option<MetaHandle> {
        let chunk = self.chunks.get(index / CHUNK)?;
        let places = chunk.get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        places.get(index % CHUNK)?.set(Entry::new(meta)).ok()?;
        u32::try_from(index + 1).ok().map(MetaHandle)
    }
}

/// The side that adds entries. Equal entries share one handle.
#[derive(Debug)]
pub struct MetaInterner {
    table: Arc<MetaTable>,
    handles: HashMap<Arc<EndpointMeta>, MetaHandle>,
}

/// The table holds as many different entries as it can.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("endpoint table is full with {} entries: restart the agent", CHUNK * CHUNKS)]
pub struct TableFull;

impl MetaInterner {
    /// An interner with an empty table.
    pub fn new() -> Self {
        Self { table: Arc::new(MetaTable::new()), handles: HashMap::new() }
    }

    /// The table that handles point into.
    pub fn table(&self) -> Arc<MetaTable> {
        Arc::clone(&self.table)
    }

    /// The handle of this entry, which is new when no equal one exists.
    ///
    /// # Errors
    /// No place is left; the entry is not in the table.
    pub fn intern(&mut self, meta: EndpointMeta) -> Result<MetaHandle, TableFull> {
        if let Some(handle) = self.handles.get(&meta) {
            return Ok(*handle);
        }
        let meta = Arc::new(meta);
        let handle = self.table.put(self.handles.len(), Arc::clone(&meta)).ok_or(TableFull)?;
        self.handles.insert(meta, handle);
        Ok(handle)
    }
}

impl Default for MetaInterner {
    fn default() -> Self {
        Self::new()
    }
}

/// Entries in a chunk.
const CHUNK: usize = 1024;
/// Chunks in a table.
const CHUNKS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> EndpointMeta {
        EndpointMeta { namespace: "shop".into(), pod_name: name.into(), ..EndpointMeta::default() }
    }

    #[test]
    fn equal_entries_share_a_handle_and_old_ones_stay() {
        let mut interner = MetaInterner::new();
        let table = interner.table();
        let web = interner.intern(pod("web")).unwrap();
        let db = interner.intern(pod("db")).unwrap();
        assert_ne!(web, db);
        assert_eq!(interner.intern(pod("web")).unwrap(), web);
        assert_eq!(table.get(web), Some(&pod("web")));
        assert_eq!(table.get(db), Some(&pod("db")));
        for handle in [MetaHandle::NONE, MetaHandle(3), MetaHandle(u32::MAX)] {
            assert_eq!(table.get(handle), None);
        }
    }

    #[test]
    fn handles_cross_chunks() {
        let mut interner = MetaInterner::new();
        let handles: Vec<_> = (0..3 * CHUNK).map(|n| interner.intern(pod(&n.to_string())).unwrap()).collect();
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(interner.table.get(handle).unwrap().pod_name, n.to_string());
        }
    }

    #[test]
    fn prefix_identities_show_their_longest_prefix() {
        let labels = ["cidr:10.0.0.0/8", "cidr:10.1.0.0/16", "cidr:0.0.0.0/1", "reserved:world"];
        let meta = |identity| EndpointMeta {
            identity,
            labels: labels.iter().map(|text| text.parse::<Label>().unwrap()).collect(),
            ..EndpointMeta::default()
        };
        let shown = |meta: EndpointMeta| meta.shown_labels().map(Label::to_string).collect::<Vec<_>>();
        assert_eq!(shown(meta(NumericIdentity::LOCAL_MIN)), ["cidr:10.1.0.0/16", "reserved:world"]);
        assert_eq!(shown(meta(NumericIdentity::USER_MIN)).len(), 4);
        let mut interner = MetaInterner::new();
        let handle = interner.intern(meta(NumericIdentity::LOCAL_MIN)).unwrap();
        assert_eq!(interner.table.shown_labels(handle), ["cidr:10.1.0.0/16", "reserved:world"]);
        assert!(interner.table.shown_labels(MetaHandle::NONE).is_empty());
    }
}
