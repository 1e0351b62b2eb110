//! What waits to be written: one buffer that frames are put into, and between its parts large bodies that are not copied.
//!
//! The buffer is lent from a pool of the thread while there is something in it, so that an idle connection has none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// From here on, a piece of a body is not copied.
const SHARED_BYTES_MIN: usize = 4096;
/// Slices of one vectored write.
pub(crate) const SLICES_MAX: usize = 16;

const BUFFER_BYTES: usize = 16 * 1024;
/// A buffer that grew beyond this is not kept.
const KEPT_BYTES_MAX: usize = 128 * 1024;
const KEPT_MAX: usize = 8;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn lend() -> Vec<u8> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

fn take_back(mut buffer: Vec<u8>) {
    if (1..=KEPT_BYTES_MAX).contains(&buffer.capacity()) {
        buffer.clear();
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < KEPT_MAX {
                buffers.push(buffer);
            }
        });
    }
}

enum Part {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Owned(bytes) => bytes,
            Part::Shared(bytes) => bytes,
        }
    }
}

/// See the module's header.
#[derive(Default)]
pub(crate) struct Output {
    parts: VecDeque<Part>,
    tail: Vec<u8>,
    /// How much of the first part, or of the tail if there is none, is written.
    written: usize,
    /// What is in the parts.
    parts_bytes: usize,
    /// How often something was taken from the buffer, or put behind it.
    turns: u64,
}

impl Output {
    /// Where frames are put.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = lend();
        }
        &mut self.tail
    }

    /// Adds a piece of a body.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.buffer().extend_from_slice(&bytes);
            return;
        }
        self.turns += 1;
        if !self.tail.is_empty() {
            self.parts_bytes += self.tail.len();
            self.parts.push_back(Part::Owned(std::mem::take(&mut self.tail)));
        }
        self.parts_bytes += bytes.len();
        self.parts.push_back(Part::Shared(bytes));
    }

    /// Where the buffer ends: the same as long as nothing was put into it, behind it, or taken from it.
    pub(crate) fn end(&self) -> (u64, usize) {
        (self.turns, self.tail.len())
    }

    pub(crate) fn len(&self) -> usize {
        self.parts_bytes + self.tail.len() - self.written
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is to be written if it is in one piece.
    pub(crate) fn single(&self) -> Option<&[u8]> {
        self.parts.is_empty().then(|| &self.tail[self.written..])
    }

    /// What is to be written next, in pieces; answers how many.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let pieces = self.parts.iter().map(Part::bytes).chain([&self.tail[..]]);
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            let skipped = if count == 0 { self.written } else { 0 };
            *slot = IoSlice::new(&piece[skipped..]);
            count += 1;
        }
        count
    }

    /// Forgets what was written.
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "more is written than there was");
        self.written += count;
        self.turns += 1;
        while let Some(part) = self.parts.front() {
            let length = part.bytes().len();
            if self.written < length {
                return;
            }
            self.written -= length;
            self.parts_bytes -= length;
            if let Some(Part::Owned(buffer)) = self.parts.pop_front() {
                take_back(buffer);
            }
        }
        if self.written == self.tail.len() {
            self.written = 0;
            take_back(std::mem::take(&mut self.tail));
        }
    }

    /// All that is to be written, for tests.
    #[cfg(test)]
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.slices(&mut slices);
            let before = all.len();
            for slice in &slices[..count] {
                all.extend_from_slice(slice);
            }
            let written = all.len() - before;
            self.advance(written);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_comes_out_in_order_whatever_is_written_at_once() {
        for step in [100, 4096, 10_000] {
            let mut output = Output::default();
            let mut wanted = Vec::new();
            for round in 0..12_u8 {
                output.buffer().extend_from_slice(&[round; 9]);
                wanted.extend_from_slice(&[round; 9]);
                let body = vec![round; if round % 3 == 0 { 5000 } else { 30 }];
                wanted.extend_from_slice(&body);
                output.push(body.into());
            }
            assert_eq!(output.len(), wanted.len());
            let mut found = Vec::new();
            while !output.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = output.slices(&mut slices);
                let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let written = bytes.len().min(step);
                found.extend_from_slice(&bytes[..written]);
                output.advance(written);
            }
            assert_eq!(found, wanted);
        }
    }
}
