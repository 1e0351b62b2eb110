//! Frames made and read by hand, for clients that do what no library lets them do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream, ReadBuf};

use super::framed;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn head(stream: u32, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("short");
    frame(1, 4, stream, &[&[0x83, 0x86, 0x04, length][..], path.as_bytes()].concat())
}

pub fn request(stream: u32, path: &str) -> Vec<u8> {
    [head(stream, path), frame(0, 1, stream, &framed(b"hello"))].concat()
}

/// All frames that arrive until nothing does for a while: kind, stream and payload.
pub async fn frames(client: &mut DuplexStream) -> Vec<(u8, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(10), client.read_buf(&mut all)).await {
        if count == 0 {
            break;
        }
    }
    let (mut rest, mut found) = (&all[..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        found.push((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), after[..length].to_vec()));
        rest = &after[length..];
    }
    found
}

/// A pipe that counts writes.
pub struct Counted(pub DuplexStream, pub Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
