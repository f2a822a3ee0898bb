//! Port ranges as blocks that share their leading bits.

/// Splits `first..=last` into the fewest blocks (first port, leading bits).
pub(crate) fn port_blocks(first: u16, last: u16) -> Vec<(u16, u8)> {
    let mut blocks = Vec::new();
    let mut next = u32::from(first);
    let end = u32::from(last) + 1;
    while next < end {
        let aligned = if next == 0 { 16 } else { next.trailing_zeros().min(16) };
        let fits = (end - next).ilog2();
        let free = aligned.min(fits);
        let port = u16::try_from(next).expect("next is below end, which is at most 65536");
        let bits = u8::try_from(16 - free).expect("free is at most 16");
        blocks.push((port, bits));
        next += 1 << free;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::mask;
    use super::*;

    #[test]
    fn known_ranges() {
        assert_eq!(port_blocks(80, 80), [(80, 16)]);
        assert_eq!(port_blocks(0, 65535), [(0, 0)]);
        assert_eq!(port_blocks(1, 3), [(1, 16), (2, 15)]);
        assert_eq!(port_blocks(65535, 65535), [(65535, 16)]);
        assert_eq!(port_blocks(2, 1), []);
    }

    proptest! {
        #[test]
        fn blocks_are_exactly_the_range(a in any::<u16>(), b in any::<u16>(), probe in any::<u16>()) {
            let (first, last) = (a.min(b), a.max(b));
            let blocks = port_blocks(first, last);
            prop_assert!(blocks.len() <= 30);
            let hits = blocks.iter().filter(|(port, bits)| probe & mask(*bits) == *port).count();
            prop_assert_eq!(hits, usize::from((first..=last).contains(&probe)));
            for (port, bits) in blocks {
                prop_assert_eq!(port & !mask(bits), 0);
            }
        }
    }
}
