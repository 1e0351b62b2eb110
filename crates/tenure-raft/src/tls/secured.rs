//! A connection that speaks TLS, from its first byte on.
//!
//! The handshake is part of the first read or write, so that whoever is slow at it, or never begins, holds up nobody but
//! himself; and not for longer than [`HANDSHAKE_TIMEOUT`], nor when too many others came after him.

use std::future::Future;
use std::io;
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
use super::handshakes::Turn;
use super::subject::common_name;
use crate::accept::ClientInfo;

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
    client: ClientInfo,
    tls: Arc<ServerTls>,
}

enum State {
    Handshake(Box<Accept<Plain>>, Pin<Box<Sleep>>, Turn),
    Open(Box<TlsStream<Plain>>),
    Failed,
}

impl Secured {
    pub(crate) fn new(plain: Plain, tls: Arc<ServerTls>) -> Secured {
        Secured::within(HANDSHAKE_TIMEOUT, plain, tls)
    }

    fn within(timeout: Duration, plain: Plain, tls: Arc<ServerTls>) -> Secured {
        let client = ClientInfo::at(match &plain {
            Plain::Tcp(stream) => stream.peer_addr().ok(),
            Plain::Unix(_) => None,
        });
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let turn = tls.handshakes.begin();
        Secured { state: State::Handshake(Box::new(tls.acceptor().accept(plain)), deadline, turn), client, tls }
    }

    /// Who is at the other end. A certificate is known once the handshake is done.
    pub(crate) fn client(&self) -> &ClientInfo {
        &self.client
    }

    /// The stream, once the handshake is done.
    fn open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut TlsStream<Plain>>> {
        if let State::Handshake(accept, deadline, turn) = &mut self.state {
            let result = match Pin::new(accept).poll(cx) {
                Poll::Ready(result) => result,
                Poll::Pending if turn.poll_pushed_out(cx).is_ready() => {
                    Err(io::Error::other("too many other handshakes began while this one went on"))
                }
                Poll::Pending => {
                    ready!(deadline.as_mut().poll(cx));
                    Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))
                }
            };
            match result {
                Ok(stream) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    if let Some(name) = shown.and_then(|certificate| common_name(certificate)) {
                        self.client.showed(name);
                    }
                    self.state = State::Open(Box::new(stream));
                }
                Err(error) => {
                    self.state = State::Failed;
                    self.tls.note_rejected(self.client.address(), &error);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::handshakes::HANDSHAKES_MAX;
    use super::super::{Ciphers, IdentityFiles, ServerTlsOptions};
    use super::*;

    fn server(dir: &Path) -> Arc<ServerTls> {
        let identity = IdentityFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        std::fs::write(&identity.cert, params.self_signed(&key).expect("a certificate").pem()).expect("written");
        std::fs::write(&identity.key, key.serialize_pem()).expect("written");
        ServerTls::new(ServerTlsOptions { identity, client_ca: None, ciphers: Ciphers::default() }).expect("a server")
    }

    fn connection(server: &Arc<ServerTls>, timeout: Duration) -> (UnixStream, Secured) {
        let (client, accepted) = UnixStream::pair().expect("a pair");
        (client, Secured::within(timeout, Plain::Unix(accepted), server.clone()))
    }

    #[tokio::test]
    async fn who_is_silent_or_slow_at_the_handshake_is_let_go_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = server(dir.path());
        // The first bytes of a record that would be a client's hello, if the rest of it came.
        for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            let (mut client, mut secured) = connection(&server, Duration::from_millis(50));
            client.write_all(said).await.expect("sent");
            let error = secured.read_u8().await.expect_err("no byte is there");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(secured.read_u8().await.expect_err("it is over").kind(), io::ErrorKind::NotConnected);
        }
    }

    #[tokio::test]
    async fn of_too_many_handshakes_those_that_took_longest_are_let_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = server(dir.path());
        let (_client, mut oldest) = connection(&server, HANDSHAKE_TIMEOUT);
        let turns: Vec<Turn> = (1..HANDSHAKES_MAX).map(|_| server.handshakes.begin()).collect();
        let mut read = Box::pin(oldest.read_u8());
        assert!(futures::poll!(&mut read).is_pending(), "as many as there may be");
        let one_more = server.handshakes.begin();
        let error = read.await.expect_err("pushed out");
        assert!(error.to_string().contains("too many other handshakes"), "{error}");
        // The next oldest is next; those that ended do not count.
        drop(one_more);
        drop(turns);
        let (_client, mut alone) = connection(&server, HANDSHAKE_TIMEOUT);
        let _others: Vec<Turn> = (1..HANDSHAKES_MAX).map(|_| server.handshakes.begin()).collect();
        assert!(futures::poll!(Box::pin(alone.read_u8())).is_pending());
    }
}
