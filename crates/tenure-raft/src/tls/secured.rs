//! A connection that speaks TLS, from its first byte on.
//!
//! The handshake is part of the first read or write, so that whoever is slow at it, or never begins, holds up nobody but
//! himself; and not for longer than [`HANDSHAKE_TIMEOUT`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::Accept;
use tokio_rustls::server::TlsStream;

use super::ServerTls;

/// How long a handshake may take: far more than a healthy client needs over any link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What TLS runs on.
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// See the module's header.
pub(crate) struct Secured {
    state: State,
    from: Option<SocketAddr>,
    tls: Arc<ServerTls>,
}

enum State {
    Handshake(Box<Accept<Plain>>, Pin<Box<Sleep>>),
    Open(Box<TlsStream<Plain>>),
    Failed,
}

impl Secured {
    pub(crate) fn new(plain: Plain, tls: Arc<ServerTls>) -> Secured {
        let from = match &plain {
            Plain::Tcp(stream) => stream.peer_addr().ok(),
            Plain::Unix(_) => None,
        };
        let deadline = Box::pin(tokio::time::sleep(HANDSHAKE_TIMEOUT));
        Secured { state: State::Handshake(Box::new(tls.acceptor().accept(plain)), deadline), from, tls }
    }

    /// Who is at the other end.
    pub(crate) fn from(&self) -> Option<SocketAddr> {
        self.from
    }

    /// The stream, once the handshake is done.
    fn open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut TlsStream<Plain>>> {
        if let State::Handshake(accept, deadline) = &mut self.state {
            let result = match Pin::new(accept).poll(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => {
                    ready!(deadline.as_mut().poll(cx));
                    Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))
                }
            };
            match result {
                Ok(stream) => self.state = State::Open(Box::new(stream)),
                Err(error) => {
                    self.state = State::Failed;
                    self.tls.note_rejected(self.from, &error);
                    return Poll::Ready(Err(error));
                }
            }
        }
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(stream)),
            State::Handshake(..) | State::Failed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.open(cx))?).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.open(cx))?).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.open(cx))?).poll_write_vectored(cx, bufs)
    }

    /// TLS gathers what it is given into its own records.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.open(cx))?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            // There is nobody to say goodbye to.
            State::Handshake(..) | State::Failed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Plain::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Plain::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Plain::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Plain::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Plain::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Plain::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Plain::Tcp(stream) => stream.is_write_vectored(),
            Plain::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Plain::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Plain::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Plain::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Plain::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
