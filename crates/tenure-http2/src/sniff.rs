//! Tells HTTP/2 from HTTP/1 on one port, by the first bytes of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::frame::PREFACE;

/// Reads as much as it takes to see whether a client speaks HTTP/2, and answers that with a socket from which everything
/// can be read. The caller bounds the time that it may take.
pub async fn sniff<I: AsyncRead + AsyncWrite + Unpin>(mut io: I) -> io::Result<(bool, Replayed<I>)> {
    let mut first = [0; PREFACE.len()];
    let mut count = 0;
    while count < PREFACE.len() && first[..count] == PREFACE[..count] {
        match io.read(&mut first[count..]).await? {
            0 => break,
            more => count += more,
        }
    }
    let is_http2 = first == *PREFACE;
    Ok((is_http2, Replayed { io, first: first[..count].to_vec(), replayed: 0 }))
}

/// A socket whose first bytes were read already, and are read again.
#[derive(Debug)]
pub struct Replayed<I> {
    io: I,
    first: Vec<u8>,
    replayed: usize,
}

impl<I> Replayed<I> {
    /// The socket itself.
    pub fn get_ref(&self) -> &I {
        &self.io
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Replayed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let rest = &this.first[this.replayed..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.replayed += count;
        if this.replayed == this.first.len() {
            this.first = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Replayed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn the_protocol_is_told_at_any_split_and_nothing_is_lost() {
        for sent in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI *", b"P", b""] {
            for cut in 0..=sent.len() {
                let (mut client, server) = tokio::io::duplex(64);
                let sending = async {
                    client.write_all(&sent[..cut]).await.expect("sent");
                    tokio::task::yield_now().await;
                    client.write_all(&sent[cut..]).await.expect("sent");
                    drop(client);
                };
                let sniffing = async {
                    let (is_http2, mut io) = sniff(server).await.expect("sniffed");
                    let mut all = Vec::new();
                    io.read_to_end(&mut all).await.expect("read");
                    (is_http2, all)
                };
                let (_, (is_http2, all)) = tokio::join!(sending, sniffing);
                assert_eq!(is_http2, sent.len() > 24);
                assert_eq!(all, sent);
            }
        }
    }
}
