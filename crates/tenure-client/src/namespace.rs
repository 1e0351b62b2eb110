//! A part of the store that a client takes for the whole.
//!
//! Everything that a client sends gets the prefix, and everything that it is shown loses it, keys and names of locks alike. The
//! ends of ranges follow etcd's `namespace` package: "from this key on" ends where the prefix does.

use bytes::{BufMut as _, Bytes, BytesMut};

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace(Bytes);

impl Namespace {
    /// The keys that begin with this; the whole store if it is empty.
    pub(crate) fn new(prefix: Bytes) -> Namespace {
        Namespace(prefix)
    }

    pub(crate) fn prefix(&self) -> &Bytes {
        &self.0
    }

    /// A namespace within this one.
    pub(crate) fn within(&self, prefix: &[u8]) -> Namespace {
        Namespace(self.wrap(Bytes::copy_from_slice(prefix)))
    }

    /// The key as the store knows it.
    pub(crate) fn wrap(&self, key: impl Into<Bytes>) -> Bytes {
        let key = key.into();
        if self.0.is_empty() {
            return key;
        }
        let mut wrapped = BytesMut::with_capacity(self.0.len() + key.len());
        wrapped.put_slice(&self.0);
        wrapped.put_slice(&key);
        wrapped.freeze()
    }

    /// A range as the store knows it. `end` is as on the wire: empty for one key, a zero byte for "from the key on".
    pub(crate) fn wrap_range(&self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> (Bytes, Bytes) {
        let (start, end) = (start.into(), end.into());
        if self.0.is_empty() || end.is_empty() {
            return (self.wrap(start), end);
        }
        let end = if end.as_ref() == [0] { prefix_end(&self.0) } else { self.wrap(end) };
        (self.wrap(start), end)
    }

    /// The key as the client knows it; none if it is not of this namespace.
    pub(crate) fn unwrap(&self, key: &Bytes) -> Option<Bytes> {
        key.starts_with(&self.0).then(|| key.slice(self.0.len()..))
    }
}

/// The first key after all that begin with the prefix, as the end of a range: a zero byte, which stands for no end, if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX);
    match kept {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(&[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_namespace() {
        let space = Namespace::new(Bytes::from_static(b"app/"));
        let wrap = |start: &'static [u8], end: &'static [u8]| space.wrap_range(start, end);
        assert_eq!(wrap(b"a", b""), ("app/a".into(), "".into()));
        assert_eq!(wrap(b"a", b"c"), ("app/a".into(), "app/c".into()));
        assert_eq!(wrap(b"a", &[0]), ("app/a".into(), "app0".into()), "from a key on");
        let highest = Namespace::new(Bytes::from_static(&[0xff, 0xff]));
        assert_eq!(highest.wrap_range(&b"a"[..], &[0][..]).1, Bytes::from_static(&[0]), "nothing comes after it");
        assert_eq!(Namespace::default().wrap_range(&b"a"[..], &[0][..]).1, Bytes::from_static(&[0]));
    }

    #[test]
    fn keys_lose_the_prefix_that_they_got_and_others_are_not_shown() {
        let space = Namespace::new(Bytes::from_static(b"app/")).within(b"eu/");
        assert_eq!(space.wrap("k"), Bytes::from("app/eu/k"));
        assert_eq!(space.unwrap(&space.wrap("k")), Some(Bytes::from("k")));
        assert_eq!(space.unwrap(&Bytes::from("app/us/k")), None);
        assert_eq!(space.unwrap(&Bytes::new()), None);
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(prefix_end(b"a"), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(&[b'a', 0xff]), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(&[0xff]), Bytes::from_static(&[0]));
        assert_eq!(prefix_end(b""), Bytes::from_static(&[0]));
    }
}
