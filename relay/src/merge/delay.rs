//! The largest value of the last seconds.

/// Largest value of the current span of time and the one before it.
#[derive(Clone, Debug, Default)]
pub(super) struct WindowMax {
    current: Option<i64>,
    before: Option<i64>,
    ends_ns: u64,
}

/// Length of a span, ns.
const SPAN_NS: u64 = 5_000_000_000;

impl WindowMax {
    pub(super) fn note(&mut self, value: i64, now_ns: u64) {
        if now_ns >= self.ends_ns {
            self.before = self.current.take();
            self.ends_ns = now_ns.saturating_add(SPAN_NS);
        }
        self.current = self.current.max(Some(value));
    }

    pub(super) fn get(&self) -> Option<i64> {
        self.current.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_values_are_forgotten() {
        let mut max = WindowMax::default();
        assert_eq!(max.get(), None);
        for (at, value, expected) in
            [(0, 9, 9), (1, 3, 9), (SPAN_NS, 4, 9), (2 * SPAN_NS, 2, 4), (3 * SPAN_NS, -1, 2)]
        {
            max.note(value, at);
            assert_eq!(max.get(), Some(expected), "{at}");
        }
    }
}
