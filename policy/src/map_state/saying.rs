//! What rules say of a key, and which of them decides.

use super::{Entry, Key, byte};
use crate::origin::OriginSet;
use crate::rule::{AuthMode, Tier};

/// What a rule says of a key.
#[derive(Clone, Debug)]
pub(crate) struct Saying {
    /// What happens; `auth` is not set yet.
    pub(crate) entry: Entry,
    /// Tier of the rule; none for "nothing else matched".
    pub(crate) tier: Option<Tier>,
    /// Later tiers decide.
    pub(crate) pass: bool,
    /// Authentication that the rule itself asks for.
    pub(crate) auth: Option<AuthMode>,
}

/// Everything that covers one key.
pub(super) type Covering<'a> = Vec<(Key, &'a Saying)>;

impl Saying {
    /// Whether the highest precedence is not the whole answer where this is said.
    pub(super) fn is_layered(&self) -> bool {
        self.pass || self.entry.audit
    }

    /// Place among what is said of one key; two of one place are one.
    pub(super) fn place(&self) -> (u32, bool) {
        (self.entry.precedence, self.entry.audit)
    }
}

impl Entry {
    /// An entry that passes everything, of one built-in rule.
    pub(crate) fn plain_allow(precedence: u32, origins: OriginSet) -> Self {
        Self { deny: false, audit: false, by_default: false, redirect: false, auth: 0, precedence, origins }
    }

    pub(super) fn would_pass(&self) -> bool {
        (!self.deny && !self.redirect && self.auth == 0) || self.audit
    }
}

/// The saying of the highest precedence, in the first tier that does not pass the packet on.
pub(super) fn deciding<'a>(covering: &Covering<'a>) -> Option<(Key, &'a Saying)> {
    // Where nothing else matched is after every tier.
    let place = |saying: &Saying| saying.tier.map_or(u8::MAX, |tier| tier as u8);
    let mut passed = None;
    loop {
        let open = covering.iter().filter(|(_, saying)| passed.is_none_or(|tier| place(saying) > tier));
        // Of equal ones the more specific decides on authentication.
        let best = open.max_by_key(|(key, saying)| {
            (saying.entry.precedence, !saying.entry.audit, key.l4_prefix(), key.identity != 0)
        })?;
        if !best.1.pass {
            return Some(*best);
        }
        passed = Some(place(best.1));
    }
}

/// The entry with the names of all that decide alike, and the authentication that it needs.
pub(super) fn named(covering: &Covering<'_>, (key, best): (Key, &Saying)) -> Entry {
    let alike = covering.iter().map(|(_, saying)| saying).filter(|saying| {
        saying.entry.deny == best.entry.deny
            && saying.entry.audit == best.entry.audit
            && !saying.pass
            && same_level(&saying.entry, &best.entry)
    });
    let origins = alike.fold(best.entry.origins.clone(), |all, saying| all.union(&saying.entry.origins));
    let auth = if best.entry.deny { None } else { auth_of(covering, key, best) };
    Entry { origins, auth: auth.map_or(0, AuthMode::number), ..best.entry.clone() }
}

/// What the saying itself asks for, or the most specific broader one of the same peer and level. The local node needs
/// none.
fn auth_of(covering: &Covering<'_>, key: Key, best: &Saying) -> Option<AuthMode> {
    if best.entry.precedence & 0xff == u32::from(byte::LOCALHOST) {
        return None;
    }
    let broader = covering.iter().filter(|(own, saying)| {
        own.identity == key.identity
            && own.l4_prefix() <= key.l4_prefix()
            && saying.auth.is_some()
            && !saying.entry.deny
            && same_level(&saying.entry, &best.entry)
    });
    broader.max_by_key(|(own, saying)| (own.l4_prefix(), saying.auth)).and_then(|(_, saying)| saying.auth)
}

/// Entries of one level are weighed by what they do.
fn same_level(a: &Entry, b: &Entry) -> bool {
    a.precedence >> 8 == b.precedence >> 8
}
