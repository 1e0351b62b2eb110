//! Which key an operation is for, and what it writes there.
//!
//! Both follow from the operation's number alone, without state: runs against two programs do the same work, however their
//! clients interleave. Values are slices of one pool of noise, so that a fresh one costs no copy and no engine can
//! compress it.

use bytes::{BufMut, Bytes, BytesMut};

/// How large the pool of noise is, beyond one value.
const POOL_BYTES: usize = 4 * 1024 * 1024;
/// How much more often than the tenth key the first is used, roughly: the exponent that such benchmarks share.
const ZIPF_THETA: f64 = 0.99;

/// In which order keys are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// One after the other, from the first again after the last.
    #[default]
    Sequential,
    /// Any, all alike.
    Random,
    /// Some much more often than others.
    Zipf,
}

/// The keys of a run.
#[derive(Clone, Debug)]
pub struct Keys {
    /// What all of them begin with.
    pub prefix: Bytes,
    /// Digits after the prefix.
    pub digits: usize,
    /// How many there are.
    pub count: u64,
    pub order: Order,
    zipf: Zipf,
}

/// Where noise is taken from.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pool: Bytes,
    bytes: usize,
    is_fresh: bool,
}

impl Keys {
    /// Keys of `bytes` bytes, their prefix included.
    pub fn new(prefix: &str, bytes: usize, count: u64, order: Order) -> Keys {
        let digits = bytes.saturating_sub(prefix.len()).max(1);
        // No more keys than can be told apart by so many digits.
        let told_apart = u32::try_from(digits).ok().and_then(|digits| 10_u64.checked_pow(digits)).unwrap_or(u64::MAX);
        let count = count.clamp(1, told_apart);
        let zipf = if order == Order::Zipf { Zipf::new(count) } else { Zipf::default() };
        Keys { prefix: prefix.to_owned().into(), digits, count, order, zipf }
    }

    /// Which of the keys an operation is for.
    pub fn index(&self, operation: u64) -> u64 {
        match self.order {
            Order::Sequential => operation % self.count,
            Order::Random => mixed(operation) % self.count,
            Order::Zipf => self.zipf.pick(mixed(operation)).min(self.count - 1),
        }
    }

    /// The key of an operation.
    pub fn of(&self, operation: u64) -> Bytes {
        self.at(self.index(operation))
    }

    /// The key of an index.
    pub fn at(&self, index: u64) -> Bytes {
        let mut key = BytesMut::with_capacity(self.prefix.len() + self.digits);
        key.put_slice(&self.prefix);
        let from = key.len();
        key.put_bytes(b'0', self.digits);
        let mut rest = index;
        for digit in key[from..].iter_mut().rev() {
            *digit = b"0123456789"[usize::try_from(rest % 10).unwrap_or(0)];
            rest /= 10;
        }
        key.freeze()
    }

    /// What follows the last key that begins with the prefix; `\0` for none, which stands for the end of all keys.
    pub fn prefix_end(&self) -> Bytes {
        let mut end = self.prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return end.into();
            }
        }
        Bytes::from_static(b"\0")
    }

    /// The first key of a range of all of them.
    pub fn prefix_start(&self) -> Bytes {
        if self.prefix.is_empty() { Bytes::from_static(b"\0") } else { self.prefix.clone() }
    }
}

impl Values {
    pub(crate) fn new(bytes: usize, is_fresh: bool) -> Values {
        let room = if is_fresh { POOL_BYTES } else { 8 };
        let words = (room + bytes).div_ceil(8) as u64;
        let mut pool = BytesMut::with_capacity(room + bytes + 8);
        (0..words).for_each(|word| pool.put_u64(mixed(word)));
        Values { pool: pool.freeze(), bytes, is_fresh }
    }

    /// The value that an operation writes.
    pub(crate) fn of(&self, operation: u64) -> Bytes {
        let at = if self.is_fresh { mixed(operation ^ 0x5eed) % POOL_BYTES as u64 } else { 0 };
        let at = usize::try_from(at).unwrap_or(0);
        self.pool.slice(at..at + self.bytes)
    }
}

/// A number that looks like chance: the finaliser of SplitMix64.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number from 0 to 1, not included, that looks like chance.
pub(crate) fn fraction(number: u64) -> f64 {
    let high = u32::try_from(mixed(number) >> 32).unwrap_or(0);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// Gray's method, as in YCSB: ranks by one power, without a table.
#[derive(Clone, Copy, Debug, Default)]
struct Zipf {
    count: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: u64) -> Zipf {
        let zeta_of = |count: u64| (1..=count).map(|rank| 1.0 / as_float(rank).powf(ZIPF_THETA)).sum::<f64>();
        let (zeta, count) = (zeta_of(count), as_float(count));
        let eta = (1.0 - (2.0 / count).powf(1.0 - ZIPF_THETA)) / (1.0 - zeta_of(2) / zeta);
        Zipf { count, zeta, eta }
    }

    fn pick(self, chance: u64) -> u64 {
        let share = fraction(chance);
        let scaled = share * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(ZIPF_THETA) {
            return 1;
        }
        let rank = self.count * (self.eta * share - self.eta + 1.0).powf(1.0 / (1.0 - ZIPF_THETA));
        as_rank(rank)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rank among keys; the last digits do not matter")]
fn as_float(rank: u64) -> f64 {
    rank as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float becomes the nearest rank")]
fn as_rank(rank: f64) -> u64 {
    rank as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_run_in_sequence_and_start_over() {
        let keys = Keys::new("k/", 6, 1000, Order::Sequential);
        assert_eq!([0, 7, 1012].map(|at| keys.of(at)), ["k/0000", "k/0007", "k/0012"].map(Bytes::from));
        assert_eq!((&keys.prefix_start()[..], &keys.prefix_end()[..]), (&b"k/"[..], &b"k0"[..]));
    }

    #[test]
    fn there_are_no_more_keys_than_digits_tell_apart() {
        assert_eq!(Keys::new("", 2, 5_000, Order::Sequential).count, 100);
        assert_eq!(Keys::new("", 8, u64::MAX, Order::Sequential).count, 100_000_000);
        let all = Keys::new("", 8, 10, Order::Sequential);
        assert_eq!((&all.prefix_start()[..], &all.prefix_end()[..]), (&b"\0"[..], &b"\0"[..]));
    }

    #[test]
    fn random_keys_are_spread_and_zipf_prefers_the_first() {
        let hits = |order| {
            let keys = Keys::new("", 8, 100, order);
            let mut hits = vec![0_u32; 100];
            (0..100_000).for_each(|at| hits[usize::try_from(keys.index(at)).unwrap()] += 1);
            hits
        };
        let even = hits(Order::Random);
        assert!(even.iter().all(|hits| (800..1200).contains(hits)), "{even:?}");
        let steep = hits(Order::Zipf);
        assert!(steep[0] > 8 * steep[20] && steep[20] > steep[99] && steep[99] > 0, "{steep:?}");
    }

    #[test]
    fn fresh_values_differ_and_the_same_operation_writes_the_same() {
        let values = Values::new(256, true);
        assert_eq!((values.of(1).len(), values.of(1)), (256, values.of(1)));
        assert_ne!(values.of(1), values.of(2));
        let same = Values::new(256, false);
        assert_eq!(same.of(1), same.of(2));
    }
}
