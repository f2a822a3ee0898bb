//! Seeds of random tests: usual ones, so that a failure stays, and fresh ones, so that something new is tried.

use std::hash::{BuildHasher, RandomState};

/// The seed that `SPECOLA_POLICY_SEED` names; `fresh` is one of its own. None: the variable is not set.
///
/// # Panics
/// It is neither a number nor `fresh`.
pub fn given() -> Option<u64> {
    let text = std::env::var("SPECOLA_POLICY_SEED").ok()?;
    Some(match text.as_str() {
        "fresh" => fresh(),
        number => number.parse().unwrap_or_else(|error| panic!("SPECOLA_POLICY_SEED={number}: {error}")),
    })
}

/// A seed that was not tried yet.
pub fn fresh() -> u64 {
    // Keys of hashers are the randomness that the standard library has.
    RandomState::new().hash_one("seed") >> 16
}
