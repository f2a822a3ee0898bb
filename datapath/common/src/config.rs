//! Constants that the loader writes into the programs' read-only data before the verifier sees them.

/// `u32`: ifindex of the host device (`specola_host`); 0 = none, packets for the node go to the stack.
pub const HOST_IFINDEX: &str = "CFG_HOST_IFINDEX";
/// `u64`: MAC of the host device, made by [`mac_word`].
pub const HOST_MAC: &str = "CFG_HOST_MAC";
/// `u32`: least time between two trace records of one direction of a connection, milliseconds; 0 = every packet.
pub const TRACE_INTERVAL_MS: &str = "CFG_TRACE_INTERVAL_MS";
/// `u32`: 1 = the node has both address families, so that the world is two identities (9 and 10), else 0.
pub const DUAL_STACK: &str = "CFG_DUAL_STACK";
/// `u32`: records per second of denied packets that have one [`crate::fold::FoldKey`]; further ones are counted.
/// 0 = every packet has a record.
pub const FOLD_PER_SECOND: &str = "CFG_FOLD_PER_SECOND";

/// `u32`: what the programs on node devices do for the node itself; see [`host_mode`].
pub const HOST_MODE: &str = "CFG_HOST_MODE";

/// Values of [`HOST_MODE`].
pub mod host_mode {
    /// Nothing: only traffic of pods is theirs.
    pub const OFF: u32 = 0;
    /// Traffic of the node is reported and may be enforced, beside that of pods.
    pub const WITH_PODS: u32 = 1;
    /// The same on a machine without pods: where no policy is enforced, no packet is ever dropped.
    pub const ONLY: u32 = 2;
}

/// What the object holds for [`TRACE_INTERVAL_MS`] when the loader does not set it.
pub const TRACE_INTERVAL_MS_DEFAULT: u32 = 5_000;

/// Packs a MAC address into a word, its first byte lowest, so that programs read it in one load.
#[inline(always)]
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Undoes [`mac_word`].
#[inline(always)]
pub const fn mac_of(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_survives_the_word() {
        let mac = [2, 3, 4, 5, 6, 255];
        assert_eq!(mac_of(mac_word(mac)), mac);
        assert_eq!(mac_word(mac) & 0xff, 2);
        assert_eq!(mac_word(mac) >> 48, 0);
    }
}
