//! A message in pieces, with the length of all of them, which is asked for at each step on the way to the socket.

use bytes::Bytes;

/// See the module's header.
pub(crate) struct Pieces {
    /// Without the spare room of a vector: the items of the outbox, of which most are small answers, stay as long as they are.
    list: Box<[Bytes]>,
    length: usize,
}

impl Pieces {
    pub(crate) fn new(list: Vec<Bytes>) -> Pieces {
        let length = list.iter().map(Bytes::len).sum();
        Pieces { list: list.into_boxed_slice(), length }
    }

    /// How many bytes the message has.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn list(&self) -> &[Bytes] {
        &self.list
    }

    pub(crate) fn into_list(self) -> Box<[Bytes]> {
        self.list
    }
}
