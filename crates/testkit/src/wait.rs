//! Waiting for a condition instead of for a time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks at a condition until it holds and returns its value.
///
/// # Panics
/// It did not hold within `limit`; the message has `what` and the last answer.
#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("{what}: not within {limit:?}; last: {last:?}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// [`eventually`] for probes that must be awaited; the probe may block its thread between awaits.
///
/// # Panics
/// It did not hold within `limit`; the message has `what` and the last answer.
pub async fn eventually_async<T, E, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("{what}: not within {limit:?}; last: {last:?}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_good_answer() {
        let mut tries = 0;
        let value = eventually("third try", Duration::from_secs(5), || {
            tries += 1;
            if tries == 3 { Ok(tries) } else { Err(tries) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "never: not within 0ns; last: \"no\"")]
    fn says_what_it_waited_for() {
        eventually::<(), _>("never", Duration::ZERO, || Err("no"));
    }
}
