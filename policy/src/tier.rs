//! The order in which rules are asked, as ranks in a map: an entry of a lower level has a higher precedence.

use crate::repository::{CompiledEntry, CompiledRule};
use crate::rule::Tier;

/// Place of an entry: tier, priority of its object, index of the entry. In the normal tier all are equal.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Rank {
    pub(crate) tier: Tier,
    priority: u16,
    index: u32,
}

/// Levels of one endpoint and direction: the distinct ranks of its rules, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Levels(Vec<Rank>);

impl Rank {
    /// Rank of everything in the normal tier.
    pub(crate) const NORMAL: Self = Self { tier: Tier::Normal, priority: 0, index: 0 };

    pub(crate) const fn new(tier: Tier, priority: u16, index: u32) -> Self {
        match tier {
            Tier::Normal => Self::NORMAL,
            Tier::Admin | Tier::Baseline => Self { tier, priority, index },
        }
    }
}

impl Levels {
    /// Levels of the rules that select an endpoint.
    pub(crate) fn new(rules: &[&CompiledRule], egress: bool) -> Self {
        let entries = rules.iter().flat_map(|rule| &rule.direction(egress).entries);
        let mut ranks: Vec<Rank> = entries.map(|entry: &CompiledEntry| entry.rank).collect();
        ranks.push(Rank::NORMAL);
        ranks.sort_unstable();
        ranks.dedup();
        Self(ranks)
    }

    /// Precedence of an entry; `byte` weighs entries of one rank.
    pub(crate) fn precedence(&self, rank: Rank, byte: u8) -> u32 {
        let level = self.0.binary_search(&rank).unwrap_or_else(|place| place);
        // The last level is that of "nothing else matched".
        let level = u32::try_from(level).unwrap_or(u32::MAX).min(LAST - 1);
        (LAST - level) << 8 | u32::from(byte)
    }
}

/// Levels are numbers of 24 bits.
const LAST: u32 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map_state::{PRECEDENCE_ALLOW, PRECEDENCE_DENY};

    #[test]
    fn without_tiers_the_normal_one_is_the_highest() {
        let levels = Levels::new(&[], false);
        assert_eq!(levels.precedence(Rank::NORMAL, 255), PRECEDENCE_DENY);
        assert_eq!(levels.precedence(Rank::NORMAL, 1), PRECEDENCE_ALLOW);
    }

    #[test]
    fn tiers_then_priorities_then_entries() {
        let ranks = [
            Rank::new(Tier::Admin, 5, 0),
            Rank::new(Tier::Admin, 5, 1),
            Rank::new(Tier::Admin, 10, 0),
            Rank::new(Tier::Normal, 9, 9),
            Rank::new(Tier::Baseline, 0, 0),
        ];
        let levels = Levels(ranks.to_vec());
        let precedences: Vec<u32> = ranks.iter().map(|rank| levels.precedence(*rank, 1)).collect();
        assert!(precedences.is_sorted_by(|a, b| a > b), "{precedences:x?}");
        assert!(levels.precedence(ranks[1], 0) > levels.precedence(ranks[2], 255));
        assert_eq!(ranks[3], Rank::NORMAL);
    }
}
