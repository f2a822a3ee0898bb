//! Who an endpoint was at the time of an event: immutable entries behind small handles.

mod table;

use specola_labels::{Label, LabelSet, NumericIdentity, Scope, parse_cidr_key, source};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use table::{LastUse, MetaInterner, MetaTable, Metas, TableFull};

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
///
/// The low bits are the entry's place, the high bits the place's generation: when an entry is freed and another one
/// takes its place, handles of the old one lead nowhere. A table never gives the same handle to two entries.
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

/// Bits of a handle that say the place: more places than pods that one node can know of.
const PLACE_BITS: u32 = 22;
/// Number of generations of a place. The highest bit of a handle is never set.
const GENERATIONS: u32 = 1 << (31 - PLACE_BITS);
/// Number of places.
const PLACES: usize = (1 << PLACE_BITS) - 1;

impl MetaHandle {
    /// No entry.
    pub const NONE: Self = Self(0);

    /// The entry's place in the table, from 0 without large gaps; `None` for [`Self::NONE`]. One entry has it at a time.
    pub const fn place(self) -> Option<usize> {
        (self.0 as usize & PLACES).checked_sub(1)
    }

    /// The number, below 2^31.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// `None` when there is no such place or generation. The generation tells apart entries that had the same place one
    /// after the other.
    fn new(place: usize, generation: u32) -> Option<Self> {
        let place = u32::try_from(place).ok().filter(|place| (*place as usize) < PLACES)?;
        (generation < GENERATIONS).then_some(Self(generation << PLACE_BITS | (place + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_say_place_and_generation() {
        assert_eq!(MetaHandle::NONE.place(), None);
        for (place, generation) in [(0, 0), (1, 1), (PLACES - 1, GENERATIONS - 1)] {
            let handle = MetaHandle::new(place, generation).unwrap();
            assert_eq!((handle.place(), handle.0 >> PLACE_BITS), (Some(place), generation));
            assert!(handle != MetaHandle::NONE && handle.get() < 1 << 31);
        }
        assert_eq!(MetaHandle::new(PLACES, 0), None);
        assert_eq!(MetaHandle::new(0, GENERATIONS), None);
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
        let metas = interner.table().load();
        assert_eq!(metas.shown_labels(handle), ["cidr:10.1.0.0/16", "reserved:world"]);
        assert!(metas.shown_labels(MetaHandle::NONE).is_empty());
    }
}
