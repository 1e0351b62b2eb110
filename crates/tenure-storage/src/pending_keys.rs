//! The keys that a run changed, in order.
//!
//! Those that come in ascending order, as the keys of a range or of a lease do, are appended to a row; only others need the
//! tree. A hundred thousand of them at once are the longest that anybody waits for a command, and insertions into a tree
//! were a sixth of it.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use crate::row_cache::KnownKey;

/// What a run did to one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingKey {
    /// The place of its newest event among the run's.
    pub(crate) event: usize,
    /// 1 if the run brought it into being, −1 if it removed it, 0 if it exists (or not) as before.
    pub(crate) live_change: i8,
    /// What the view below says of the key, if that is known already.
    pub(crate) before: Option<Option<KnownKey>>,
}

/// See the module's header. A key is in one of the two.
#[derive(Debug, Default)]
pub(crate) struct PendingKeys {
    row: Vec<(Bytes, PendingKey)>,
    tree: BTreeMap<Bytes, PendingKey>,
}

impl PendingKeys {
    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.row.reserve(count);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.row.len() + self.tree.len()
    }

    /// What was done to a key, if anything.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&PendingKey> {
        if self.row.last().is_some_and(|(last, _)| key <= &last[..])
            && let Ok(place) = self.place(key)
        {
            return Some(&self.row[place].1);
        }
        self.tree.get(key)
    }

    /// What was done to a key, to change; `new` if nothing was.
    pub(crate) fn get_or_insert(&mut self, key: &Bytes, new: PendingKey) -> &mut PendingKey {
        let beyond_row = self.row.last().is_none_or(|(last, _)| key > last);
        let beyond_tree = self.tree.last_key_value().is_none_or(|(last, _)| key > last);
        if beyond_row && beyond_tree {
            self.row.push((key.clone(), new));
            let last = self.row.len() - 1;
            return &mut self.row[last].1;
        }
        match self.place(key) {
            Ok(place) => &mut self.row[place].1,
            Err(_) => self.tree.entry(key.clone()).or_insert(new),
        }
    }

    /// All of them, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &PendingKey)> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    /// Those within bounds, in ascending order. The lower bound is not above the upper one.
    pub(crate) fn range(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = (&Bytes, &PendingKey)> {
        let from = match bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(lower) => self.row.partition_point(|(key, _)| &key[..] < lower),
            Bound::Excluded(lower) => self.row.partition_point(|(key, _)| &key[..] <= lower),
        };
        let to = match bounds.1 {
            Bound::Unbounded => self.row.len(),
            Bound::Included(upper) => self.row.partition_point(|(key, _)| &key[..] <= upper),
            Bound::Excluded(upper) => self.row.partition_point(|(key, _)| &key[..] < upper),
        };
        let row = self.row[from..to.max(from)].iter().map(|(key, pending)| (key, pending));
        Merged { row: row.peekable(), tree: self.tree.range::<[u8], _>(bounds).peekable() }
    }

    /// The greatest key.
    pub(crate) fn last(&self) -> Option<&Bytes> {
        let row = self.row.last().map(|(key, _)| key);
        row.max(self.tree.last_key_value().map(|(key, _)| key))
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.row.binary_search_by(|(other, _)| other[..].cmp(key))
    }
}

struct Merged<A: Iterator, B: Iterator> {
    row: Peekable<A>,
    tree: Peekable<B>,
}

impl<'a, A, B> Iterator for Merged<A, B>
where
    A: Iterator<Item = (&'a Bytes, &'a PendingKey)>,
    B: Iterator<Item = (&'a Bytes, &'a PendingKey)>,
{
    type Item = (&'a Bytes, &'a PendingKey);

    fn next(&mut self) -> Option<Self::Item> {
        match (self.row.peek(), self.tree.peek()) {
            (Some((one, _)), Some((other, _))) if one > other => self.tree.next(),
            (None, _) => self.tree.next(),
            (Some(_), _) => self.row.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeBounds;

    use proptest::prelude::*;

    use super::*;

    fn new(event: usize) -> PendingKey {
        PendingKey { event, live_change: 0, before: None }
    }

    fn bytes(key: u8) -> Bytes {
        Bytes::copy_from_slice(&[key])
    }

    proptest! {
        #[test]
        fn it_is_a_map_whatever_the_order(keys: Vec<u8>, from: u8, to: u8) {
            let (mut pending, mut model) = (PendingKeys::default(), BTreeMap::new());
            for (event, key) in keys.iter().enumerate() {
                let place = pending.get_or_insert(&bytes(*key), new(event)).event;
                prop_assert_eq!(place, *model.entry(bytes(*key)).or_insert(event));
            }
            let all = |(key, pending): (&Bytes, &PendingKey)| (key.clone(), pending.event);
            prop_assert!(pending.iter().map(all).eq(model.clone()));
            prop_assert_eq!(pending.len(), model.len());
            prop_assert_eq!(pending.last(), model.last_key_value().map(|(key, _)| key));
            for key in 0..=u8::MAX {
                prop_assert_eq!(pending.get(&[key]).map(|found| found.event), model.get(&bytes(key)).copied());
            }
            let (from, to) = (from.min(to), from.max(to));
            let (lower, upper) = ([from], [to]);
            for bounds in [
                (Bound::Included(&lower[..]), Bound::Excluded(&upper[..])),
                (Bound::Included(&lower[..]), Bound::Included(&upper[..])),
                (Bound::Excluded(&lower[..]), Bound::Unbounded),
            ] {
                let inside = model.clone().into_iter().filter(|(key, _)| RangeBounds::<[u8]>::contains(&bounds, &key[..]));
                prop_assert!(from == to || pending.range(bounds).map(all).eq(inside));
            }
        }
    }
}
