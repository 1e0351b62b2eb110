//! The socket, read into memory that all connections of a thread share, and written from as many pieces as there are.
//!
//! What is read is dealt with before the next connection's turn, but for a frame whose end has not arrived: only that is
//! kept, so an idle connection keeps nothing.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frame::{HEAD_BYTES, PAYLOAD_BYTES_MAX};
use crate::output::{Output, SLICES_MAX};

/// Read at once: a few of the longest frames.
const READ_BYTES: usize = 64 * 1024;

/// What is kept is less than a frame, so there is always room to read.
const _: () = assert!(READ_BYTES > HEAD_BYTES + PAYLOAD_BYTES_MAX);

thread_local! {
    static MEMORY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What was read, in memory that is given back.
pub(super) struct Input {
    memory: Vec<u8>,
    length: usize,
    is_end: bool,
}

impl Input {
    fn lend() -> Input {
        let mut memory = MEMORY.take();
        memory.resize(READ_BYTES, 0);
        Input { memory, length: 0, is_end: false }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[..self.length]
    }

    /// Whether the peer will send no more.
    pub(super) fn is_end(&self) -> bool {
        self.is_end
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        MEMORY.set(std::mem::take(&mut self.memory));
    }
}

pub(super) struct Socket<I> {
    io: I,
    /// The beginning of a frame; or, if there is a backlog, all that was read and not dealt with.
    partial: Vec<u8>,
    has_backlog: bool,
    is_flushed: bool,
    /// The peer did not take all that was to be written.
    is_blocked: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Socket<I> {
    pub(super) fn new(io: I) -> Socket<I> {
        Socket { io, partial: Vec::new(), has_backlog: false, is_flushed: true, is_blocked: false }
    }

    /// Reads once, unless there is a backlog; nothing if nothing is there. What was kept comes first.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> io::Result<Option<Input>> {
        let mut input = Input::lend();
        let kept = self.partial.len();
        if self.has_backlog {
            input.memory[..kept].copy_from_slice(&self.partial);
            input.length = kept;
            return Ok(Some(input));
        }
        let mut memory = ReadBuf::new(&mut input.memory[kept..]);
        match Pin::new(&mut self.io).poll_read(cx, &mut memory) {
            Poll::Pending => return Ok(None),
            Poll::Ready(result) => result?,
        }
        let count = memory.filled().len();
        input.memory[..kept].copy_from_slice(&self.partial);
        input.length = kept + count;
        input.is_end = count == 0;
        Ok(Some(input))
    }

    /// Keeps the last bytes of what was read for the next time. With a backlog, they are more than the beginning of a frame,
    /// and nothing is read until that is different.
    #[expect(clippy::needless_pass_by_value, reason = "the memory is given back here")]
    pub(super) fn keep(&mut self, input: Input, count: usize, has_backlog: bool) {
        self.has_backlog = has_backlog && count > 0;
        self.partial.clear();
        self.partial.extend_from_slice(&input.bytes()[input.length - count..]);
        if count == 0 {
            self.partial = Vec::new();
        }
    }

    /// Whether the peer did not take all that was last to be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Writes what it can; answers whether that was all.
    pub(super) fn write(&mut self, cx: &mut Context<'_>, output: &mut Output) -> io::Result<bool> {
        while !output.is_empty() {
            let written = match output.single() {
                Some(bytes) => Pin::new(&mut self.io).poll_write(cx, bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let count = output.slices(&mut slices);
                    Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count])
                }
            };
            match written {
                Poll::Pending => {
                    self.is_blocked = true;
                    return Ok(false);
                }
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => output.advance(count),
                Poll::Ready(Err(error)) => return Err(error),
            }
            self.is_flushed = false;
        }
        self.is_blocked = false;
        if !self.is_flushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            }
            self.is_flushed = true;
        }
        Ok(true)
    }

    /// Closes our side; answers whether that is done.
    pub(super) fn shut_down(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => Ok(true),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Reads and forgets; answers whether the peer has closed its side, or nothing if there may be more.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) -> io::Result<Option<bool>> {
        (self.partial, self.has_backlog) = (Vec::new(), false);
        Ok(match self.read(cx)? {
            None => Some(false),
            Some(input) if input.is_end() => Some(true),
            Some(_) => None,
        })
    }
}
