//! What a map must look like before its pin is reused: aya itself would take any.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_map_type::{BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_RINGBUF};
use aya_obj::{EbpfSectionKind, Object};
use specola_datapath_common::names;

use super::LoadError;

/// The maps that the object defines.
#[derive(Debug)]
pub(super) struct Definitions {
    maps: BTreeMap<String, aya_obj::Map>,
}

impl Definitions {
    /// Reads the object; `sizes` replace its own.
    pub(super) fn parse(object: &[u8], sizes: &HashMap<&'static str, u32>) -> Result<Self, LoadError> {
        let object = Object::parse(object).map_err(|source| LoadError::Object { source })?;
        let mut maps: BTreeMap<_, _> = object.maps.into_iter().collect();
        for (name, map) in &mut maps {
            if let Some(size) = sizes.get(name.as_str()) {
                map.set_max_entries(*size);
            }
        }
        Ok(Self { maps })
    }

    /// Maps that are pinned: all but the sections of constants and variables.
    pub(super) fn pinned(&self) -> impl Iterator<Item = (&str, Layout)> {
        let is_map = |map: &aya_obj::Map| {
            matches!(map.section_kind(), EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps)
        };
        self.maps
            .iter()
            .filter(move |(_, map)| is_map(map))
            .map(|(name, map)| (name.as_str(), Layout::of_definition(map)))
    }

    /// The outer policy map, which knows the layout of the inner ones.
    pub(super) fn outer_policy(&self) -> Option<aya_obj::Map> {
        self.maps.get(names::POLICY).cloned()
    }
}

/// What decides whether content written under one definition can be read under another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Layout {
    fn of_definition(map: &aya_obj::Map) -> Self {
        let has_no_values = map.map_type() == BPF_MAP_TYPE_RINGBUF as u32;
        let has_handles = map.map_type() == BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
        Self {
            map_type: map.map_type(),
            key_size: if has_no_values { 0 } else { map.key_size() },
            value_size: match map.value_size() {
                _ if has_no_values => 0,
                _ if has_handles => 4,
                size => size,
            },
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        }
    }

    /// Layout of a pinned map.
    pub(super) fn of_pin(path: &Path) -> Result<Self, MapError> {
        let info = MapData::from_pin(path)?.info()?;
        Ok(Self {
            map_type: info.map_type()? as u32,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// Says in words how a map that was found differs from this one.
    pub(super) fn difference(&self, found: &Self) -> Option<String> {
        let fields = [
            ("type", found.map_type, self.map_type),
            ("key size", found.key_size, self.key_size),
            ("value size", found.value_size, self.value_size),
            ("entries", found.max_entries, self.max_entries),
            ("flags", found.flags, self.flags),
        ];
        let mut text = String::new();
        for (field, have, want) in fields.into_iter().filter(|(_, have, want)| have != want) {
            let separator = if text.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            write!(text, "{separator}{field} {have}, wanted {want}").ok()?;
        }
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_say_how_they_differ() {
        let wanted = Layout { map_type: 1, key_size: 4, value_size: 8, max_entries: 10, flags: 0 };
        assert_eq!(wanted.difference(&wanted), None);
        let found = Layout { value_size: 16, flags: 1, ..wanted };
        assert_eq!(wanted.difference(&found).as_deref(), Some("value size 16, wanted 8, flags 1, wanted 0"));
    }

    #[test]
    fn the_object_defines_the_maps_of_the_abi() {
        let sizes = HashMap::from([(names::CT4_TCP, 5000)]);
        let definitions = Definitions::parse(crate::OBJECT, &sizes).unwrap();
        let layouts: HashMap<_, _> = definitions.pinned().collect();
        for name in [names::ENDPOINTS, names::POLICY, names::IPCACHE, names::RING_DENY, names::METRICS] {
            assert!(layouts.contains_key(name), "{name} is not in the object");
        }
        assert_eq!(layouts[names::CT4_TCP].max_entries, 5000);
        assert!(definitions.outer_policy().is_some_and(|outer| outer.inner().is_some()));
    }
}
