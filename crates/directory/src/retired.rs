//! What the directory does not name any more, but flows may.
//!
//! An entry is freed when three things are certain, in this order:
//! 1. No further flow can refer to it: every snapshot that named it is gone, so no batch of events is at work with one.
//! 2. No flow that can be read refers to it: those that did were overwritten.
//! 3. Whoever copied such a flow just before has resolved it: [`LINGER`] went by.
//!
//! A reader that was stopped for longer than that finds nothing, never another pod: handles carry a generation.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use specola_flow::{MetaHandle, MetaInterner};

use crate::snapshot::Directory;

/// How long an entry stays after the last flow that referred to it was overwritten.
pub const LINGER: Duration = Duration::from_secs(5);

/// Which flows can be read, by sequence number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Number of the next flow.
    pub head: u64,
    /// Common flows from this one on.
    pub oldest: u64,
    /// Protected flows from this one on.
    pub oldest_protected: u64,
}

/// Entries on their way out.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    /// Number of the current snapshot.
    epoch: u64,
    /// Replaced snapshots that someone may still use, oldest first.
    snapshots: VecDeque<(u64, Weak<Directory>)>,
    /// What was retired and not taken up again or freed: the last snapshot that named it. Other items of the same are
    /// of earlier times and void.
    latest: HashMap<What, u64>,
    /// Waits until nobody uses a snapshot that named it. Oldest first.
    named: VecDeque<Item>,
    /// Waits until the flows that refer to it are overwritten; those of a cookie are before this number.
    used: Vec<(Item, u64)>,
    /// Nothing refers to it since then. Oldest first.
    lingering: VecDeque<(Instant, Item)>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum What {
    Meta(MetaHandle),
    Cookie(u32),
}

#[derive(Clone, Copy, Debug)]
struct Item {
    what: What,
    /// Number of the last snapshot that named it.
    epoch: u64,
}

impl Retired {
    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.used.is_empty() && self.lingering.is_empty()
    }

    /// The current snapshot, and those before it, named this entry; later ones do not.
    pub(crate) fn retire_meta(&mut self, handle: MetaHandle) {
        self.retire(What::Meta(handle));
    }

    /// As [`Self::retire_meta`], for the rules of a cookie.
    pub(crate) fn retire_origins(&mut self, cookie: u32) {
        if !self.latest.contains_key(&What::Cookie(cookie)) {
            self.retire(What::Cookie(cookie));
        }
    }

    /// The cookie is in use again.
    pub(crate) fn revive_origins(&mut self, cookie: u32) {
        self.latest.remove(&What::Cookie(cookie));
    }

    /// The current snapshot was replaced.
    pub(crate) fn replaced(&mut self, old: &Arc<Directory>) {
        self.snapshots.push_back((self.epoch, Arc::downgrade(old)));
        self.epoch += 1;
        self.forget_snapshots();
    }

    /// Moves entries on. Frees those of pods in the interner; gives the cookies whose rules can go.
    pub(crate) fn collect(&mut self, interner: &mut MetaInterner, held: Held, now: Instant) -> Vec<u32> {
        self.forget_snapshots();
        let in_use = self.snapshots.front().map_or(self.epoch, |(epoch, _)| *epoch);
        while let Some(item) = self.named.pop_front_if(|item| item.epoch < in_use) {
            self.used.push((item, held.head));
        }
        for (item, head) in std::mem::take(&mut self.used) {
            if self.is_void(interner, item) {
                continue;
            }
            if has_flows(interner, item.what, head, held) {
                self.used.push((item, head));
            } else {
                self.lingering.push_back((now, item));
            }
        }
        self.free(interner, now)
    }

    fn retire(&mut self, what: What) {
        self.latest.insert(what, self.epoch);
        self.named.push_back(Item { what, epoch: self.epoch });
    }

    fn free(&mut self, interner: &mut MetaInterner, now: Instant) -> Vec<u32> {
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= LINGER;
        let (mut handles, mut cookies) = (Vec::new(), Vec::new());
        while let Some((_, item)) = self.lingering.pop_front_if(|(since, _)| is_over(since)) {
            if self.is_void(interner, item) {
                continue;
            }
            self.latest.remove(&item.what);
            match item.what {
                What::Meta(handle) => handles.push(handle),
                What::Cookie(cookie) => cookies.push(cookie),
            }
        }
        interner.free(handles);
        cookies
    }

    /// Whether the item is none any more: someone took the entry up again, and may have given it back since.
    fn is_void(&mut self, interner: &MetaInterner, item: Item) -> bool {
        if self.latest.get(&item.what) != Some(&item.epoch) {
            return true;
        }
        let is_taken_up = matches!(item.what, What::Meta(handle) if !interner.is_released(handle));
        if is_taken_up {
            self.latest.remove(&item.what);
        }
        is_taken_up
    }

    /// Drops the oldest snapshots that nobody uses.
    fn forget_snapshots(&mut self) {
        while self.snapshots.pop_front_if(|(_, snapshot)| snapshot.strong_count() == 0).is_some() {}
        // The count is read relaxed: what the last user of a snapshot did with it happened before what follows.
        fence(Ordering::Acquire);
    }
}

/// Whether a flow that can be read refers to the entry. Flows of a cookie have numbers below `head`.
fn has_flows(interner: &MetaInterner, what: What, head: u64, held: Held) -> bool {
    match what {
        What::Meta(handle) => interner.last_use(handle).is_some_and(|last| {
            last.common.is_some_and(|seq| seq >= held.oldest)
                || last.protected.is_some_and(|seq| seq >= held.oldest_protected)
        }),
        What::Cookie(_) => head > held.oldest_protected.min(held.oldest),
    }
}

#[cfg(test)]
mod tests {
    use specola_flow::{EndpointMeta, NodeInfo};

    use super::*;
    use crate::{Change, DirectoryReader, DirectoryWriter, directory, mapped};

    const PREFIX: &str = "10.0.0.1/32";

    fn upsert(name: &str) -> Change {
        let meta = EndpointMeta { pod_name: name.to_owned(), ..EndpointMeta::default() };
        let identity = specola_labels::NumericIdentity(300);
        Change::UpsertIp { prefix: PREFIX.parse().unwrap(), identity, meta: Some(meta) }
    }

    fn handle(reader: &DirectoryReader) -> MetaHandle {
        reader.load().find(mapped("10.0.0.1".parse().unwrap()), 0).meta
    }

    fn name(reader: &DirectoryReader, handle: MetaHandle) -> Option<String> {
        reader.metas().get(handle).map(|meta| meta.pod_name.clone())
    }

    /// A directory with one pod `a`, and its handle.
    fn pod_a() -> (DirectoryWriter, DirectoryReader, MetaHandle) {
        let (mut writer, reader) = directory(NodeInfo::default());
        writer.apply([upsert("a")]).unwrap();
        let a = handle(&reader);
        (writer, reader, a)
    }

    /// Two looks with so much time between them that nothing lingers.
    fn collect(writer: &mut DirectoryWriter, held: Held) {
        let now = Instant::now();
        writer.collect(held, now);
        writer.collect(held, now + LINGER);
    }

    fn held(head: u64, oldest: u64, oldest_protected: u64) -> Held {
        Held { head, oldest, oldest_protected }
    }

    #[test]
    fn an_entry_without_flows_goes_after_a_while() {
        let (mut writer, reader, a) = pod_a();
        let before = writer.entries();
        writer.apply([upsert("b")]).unwrap();
        assert_eq!(writer.entries(), before + 1);
        let now = Instant::now();
        for (after, expected) in [(0, Some("a")), (LINGER.as_millis() as u64 - 1, Some("a"))] {
            writer.collect(Held::default(), now + Duration::from_millis(after));
            assert_eq!(name(&reader, a).as_deref(), expected);
        }
        writer.collect(Held::default(), now + LINGER);
        assert_eq!((name(&reader, a), writer.has_retired(), writer.entries()), (None, false, before));
        assert_eq!(name(&reader, handle(&reader)).as_deref(), Some("b"));
    }

    #[test]
    fn flows_keep_it_until_they_are_overwritten() {
        for (is_protected, stays, goes) in [
            (false, held(20, 7, 0), held(20, 8, 0)),
            (true, held(20, 8, 7), held(20, 8, 8)),
            (true, held(20, 7, 8), held(20, 8, 8)),
        ] {
            let (mut writer, reader, a) = pod_a();
            reader.metas().note_use(a, 7, is_protected);
            writer.apply([upsert("b")]).unwrap();
            collect(&mut writer, stays);
            assert_eq!(name(&reader, a).as_deref(), Some("a"), "{stays:?}");
            collect(&mut writer, goes);
            assert_eq!(name(&reader, a), None, "{goes:?}");
        }
    }

    #[test]
    fn whoever_is_at_work_with_an_old_snapshot_keeps_it() {
        let (mut writer, reader, a) = pod_a();
        let at_work = reader.load();
        writer.apply([Change::SetNode(NodeInfo::default())]).unwrap();
        writer.apply([upsert("b")]).unwrap();
        collect(&mut writer, held(9, 9, 9));
        reader.metas().note_use(a, 9, false);
        drop(at_work);
        collect(&mut writer, held(10, 9, 9));
        assert_eq!(name(&reader, a).as_deref(), Some("a"), "it was used meanwhile");
        collect(&mut writer, held(11, 10, 9));
        assert_eq!(name(&reader, a), None);
    }

    #[test]
    fn an_entry_that_comes_back_is_kept_and_retired_anew() {
        let (mut writer, reader, a) = pod_a();
        writer.apply([upsert("b")]).unwrap();
        let now = Instant::now();
        writer.collect(Held::default(), now);
        writer.apply([upsert("a")]).unwrap();
        assert_eq!(handle(&reader), a);
        let at_work = reader.load();
        writer.apply([upsert("b")]).unwrap();
        // The first retirement would be over now.
        writer.collect(Held::default(), now + LINGER);
        assert_eq!(name(&reader, a).as_deref(), Some("a"));
        drop(at_work);
        writer.collect(Held::default(), now + LINGER);
        writer.collect(Held::default(), now + 2 * LINGER);
        assert_eq!(name(&reader, a), None);
        assert!(!writer.has_retired());
    }

    #[test]
    fn rules_of_a_cookie_stay_as_long_as_its_flows() {
        let (mut writer, reader) = directory(NodeInfo::default());
        let origins = || Change::UpsertOrigins { cookie: 5, origins: [].into() };
        writer.apply([origins()]).unwrap();
        writer.apply([Change::RetireOrigins(5), Change::RetireOrigins(6)]).unwrap();
        collect(&mut writer, held(10, 6, 4));
        collect(&mut writer, held(50, 46, 9));
        assert!(reader.load().origins(5).is_some());
        writer.apply([origins()]).unwrap();
        collect(&mut writer, held(50, 46, 40));
        assert!(reader.load().origins(5).is_some() && !writer.has_retired(), "it is in use again");
        writer.apply([Change::RetireOrigins(5)]).unwrap();
        collect(&mut writer, held(50, 46, 40));
        collect(&mut writer, held(99, 95, 50));
        assert!(reader.load().origins(5).is_none() && !writer.has_retired());
    }
}
