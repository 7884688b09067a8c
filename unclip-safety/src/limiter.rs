//! How much each user may ask for.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Users remembered before those whose buckets are full again are forgotten.
const REMEMBERED: usize = 10_000;

/// A bucket of tokens for each user: a request takes tokens out, and they come back with time.
///
/// ```
/// use std::time::{Duration, Instant};
/// use unclip_safety::Limiter;
///
/// let limiter = Limiter::new(2.0, 0.5)?;
/// let now = Instant::now();
/// assert!(limiter.take("ann", 2.0, now).is_ok());
/// let limited = limiter.take("ann", 1.0, now).unwrap_err();
/// assert_eq!(limited.retry_after, Some(Duration::from_secs(2)));
/// assert!(limiter.take("bob", 1.0, now).is_ok(), "each has their own");
/// assert!(limiter.take("ann", 1.0, now + Duration::from_secs(2)).is_ok());
/// # Ok::<(), unclip_safety::Error>(())
/// ```
#[derive(Debug)]
pub struct Limiter {
    capacity: f64,
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// A user has asked for too much.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("too many requests: {asked} tokens asked for, {left:.1} left")]
pub struct Limited {
    /// The tokens asked for.
    pub asked: f64,
    /// The tokens left.
    pub left: f64,
    /// When enough will have come back; `None` when a bucket never holds as many.
    pub retry_after: Option<Duration>,
}

impl Limiter {
    /// Buckets that hold `capacity` tokens and gain `per_second` of them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when either is not a positive number.
    pub fn new(capacity: f64, per_second: f64) -> Result<Self> {
        for (field, value) in [("capacity", capacity), ("per_second", per_second)] {
            if !(value.is_finite() && value > 0.0) {
                let (found, expected) = (value.to_string(), "a positive number".into());
                return Err(Error::InvalidInput { field, found, expected });
            }
        }
        Ok(Self { capacity, per_second, buckets: Mutex::default() })
    }

    /// Takes `tokens` out of `user`'s bucket at the time `now`, which should not run backwards; a cost that is negative
    /// or no number counts as 0.
    ///
    /// # Errors
    ///
    /// [`Limited`] when the bucket holds fewer; nothing is taken then.
    pub fn take(&self, user: &str, tokens: f64, now: Instant) -> Result<(), Limited> {
        let asked = tokens.max(0.0);
        // A bucket is two numbers, whole at every moment.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED && !buckets.contains_key(user) {
            // A full bucket is what a newcomer gets as well.
            buckets.retain(|_, bucket| self.filled(*bucket, now) < self.capacity);
        }
        let full = Bucket { tokens: self.capacity, at: now };
        let bucket = buckets.entry(user.to_owned()).or_insert(full);
        let left = self.filled(*bucket, now);
        if asked > left {
            let retry_after = (asked <= self.capacity)
                .then(|| Duration::try_from_secs_f64((asked - left) / self.per_second).ok())
                .flatten();
            return Err(Limited { asked, left, retry_after });
        }
        *bucket = Bucket { tokens: left - asked, at: now.max(bucket.at) };
        Ok(())
    }

    /// What a bucket holds at `now`.
    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + elapsed * self.per_second).min(self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn tokens_come_back_up_to_the_capacity() {
        let limiter = Limiter::new(3.0, 1.0).expect("positive");
        let start = Instant::now();
        for _ in 0..3 {
            assert!(limiter.take("a", 1.0, start).is_ok(), "three at once");
        }
        assert!(limiter.take("a", 1.0, start).is_err(), "and no fourth");
        assert!(limiter.take("a", 3.0, after(start, 100)).is_ok(), "full again");
        assert!(limiter.take("a", 1.0, after(start, 100)).is_err(), "but no fuller");
    }

    #[test]
    fn a_refusal_takes_nothing_and_says_when_to_come_back() {
        let limiter = Limiter::new(4.0, 2.0).expect("positive");
        let start = Instant::now();
        limiter.take("a", 4.0, start).expect("full");
        let limited = limiter.take("a", 2.0, start).expect_err("empty");
        assert_eq!(limited.retry_after, Some(Duration::from_secs(1)));
        assert!(limiter.take("a", 2.0, after(start, 1)).is_ok(), "as said");
        assert_eq!(limiter.take("a", 5.0, start).expect_err("never").retry_after, None);
    }

    #[test]
    fn users_whose_buckets_are_full_are_forgotten() {
        let limiter = Limiter::new(1.0, 1.0).expect("positive");
        let start = Instant::now();
        for user in 0..REMEMBERED {
            limiter.take(&user.to_string(), 1.0, start).expect("a newcomer");
        }
        limiter.take("late", 1.0, after(start, 5)).expect("a newcomer");
        assert_eq!(limiter.buckets.lock().expect("no panics").len(), 1);
    }

    #[test]
    fn odd_numbers_are_refused_or_harmless() {
        for (capacity, per_second) in
            [(0.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)]
        {
            assert!(Limiter::new(capacity, per_second).is_err(), "{capacity}, {per_second}");
        }
        let limiter = Limiter::new(1.0, 1e-300).expect("positive");
        let now = Instant::now();
        assert!(limiter.take("a", -5.0, now).is_ok() && limiter.take("a", f64::NAN, now).is_ok());
        limiter.take("a", 1.0, now).expect("nothing was gained");
        let limited = limiter.take("a", 1.0, now).expect_err("empty");
        assert_eq!(limited.retry_after, None, "longer than a duration holds");
    }
}
