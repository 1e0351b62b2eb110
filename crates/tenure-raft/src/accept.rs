//! Accepting connections: at most so many at once, answers sent without delay, and no spinning when files run out.
//!
//! What is above does not see whether a connection is plain, over TLS, or a unix socket.
//!
//! Every connection is an open file, and so is every table of the storage engine and every segment of the log: without
//! a bound, idle clients could take the files that a member needs to go on.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

use crate::tls::{Plain, Secured, ServerTls};

/// The pause after an accept that failed, which it does again and again while files are short.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// A socket that is bound and takes connections.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(std::net::TcpListener),
    /// At a path.
    Unix(std::os::unix::net::UnixListener),
}

/// A socket, and how it is spoken to.
#[derive(Debug)]
pub struct Listening {
    /// Where connections come from.
    pub listener: Listener,
    /// TLS, if that is spoken.
    pub tls: Option<Arc<ServerTls>>,
}

impl From<std::net::TcpListener> for Listening {
    /// Without TLS.
    fn from(listener: std::net::TcpListener) -> Listening {
        Listening { listener: Listener::Tcp(listener), tls: None }
    }
}

/// The same on a runtime.
enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Accepting {
    fn on_this_runtime(listener: Listener) -> io::Result<Accepting> {
        match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener).map(Accepting::Tcp)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(Accepting::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Plain> {
        match self {
            Accepting::Tcp(listener) => listener.accept().await.map(|(stream, _)| Plain::Tcp(stream)),
            Accepting::Unix(listener) => listener.accept().await.map(|(stream, _)| Plain::Unix(stream)),
        }
    }
}

/// Without it, an answer over TCP waits 40 ms for the acknowledgement of the one before.
fn send_at_once(socket: &Plain) -> io::Result<()> {
    match socket {
        Plain::Tcp(stream) => stream.set_nodelay(true),
        Plain::Unix(_) => Ok(()),
    }
}

/// An accepted connection; its place is free again when it is dropped.
pub struct Connection {
    socket: Socket,
    _place: OwnedSemaphorePermit,
}

/// The connections of a listener, each waiting for a place before it is accepted: those beyond the bound wait in the
/// kernel's queue.
pub fn connections(
    listening: Listening,
    places: Arc<Semaphore>,
) -> io::Result<impl Stream<Item = io::Result<Connection>> + Send> {
    let listener = Accepting::on_this_runtime(listening.listener)?;
    Ok(futures::stream::unfold((listener, listening.tls, places), |(listener, tls, places)| async move {
        // Nobody closes the semaphore.
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok(plain) => {
                    if let Err(error) = send_at_once(&plain) {
                        tracing::debug!(%error, "a connection ended before it was served");
                        continue;
                    }
                    let connection = Connection { socket: Socket::over(plain, tls.as_ref()), _place: place };
                    return Some((Ok(connection), (listener, tls, places)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }))
}

/// Who is at the other end of a connection. Every request that comes over it has this among its extensions.
#[derive(Clone, Debug, Default)]
pub struct ClientInfo {
    address: Option<SocketAddr>,
    /// Set when a handshake is done, which is before the first request.
    certificate_name: Arc<OnceLock<String>>,
}

impl ClientInfo {
    pub(crate) fn at(address: Option<SocketAddr>) -> ClientInfo {
        ClientInfo { address, ..ClientInfo::default() }
    }

    pub(crate) fn showed(&self, certificate_name: String) {
        // A connection has one handshake.
        drop(self.certificate_name.set(certificate_name));
    }

    /// Where it comes from; not known of a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The common name in the certificate that it showed, if it showed one.
    pub fn certificate_name(&self) -> Option<&str> {
        self.certificate_name.get().map(String::as_str)
    }
}

impl Connected for Connection {
    type ConnectInfo = ClientInfo;

    fn connect_info(&self) -> ClientInfo {
        match &self.socket {
            Socket::Tcp(stream) => ClientInfo::at(stream.peer_addr().ok()),
            Socket::Unix(_) => ClientInfo::default(),
            Socket::Secured(stream) => stream.client().clone(),
        }
    }
}

/// A connection's bytes, whatever carries them.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Secured(Box<Secured>),
}

impl Socket {
    fn over(plain: Plain, tls: Option<&Arc<ServerTls>>) -> Socket {
        match (tls, plain) {
            (None, Plain::Tcp(stream)) => Socket::Tcp(stream),
            (None, Plain::Unix(stream)) => Socket::Unix(stream),
            (Some(tls), plain) => Socket::Secured(Box::new(Secured::new(plain, tls.clone()))),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Secured(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Secured(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Secured(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Tcp(stream) => stream.is_write_vectored(),
            Socket::Unix(stream) => stream.is_write_vectored(),
            Socket::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_until_another_ends() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("address");
        let mut accepted = Box::pin(connections(listener.into(), Arc::new(Semaphore::new(1))).expect("listening"));
        let _first_client = TcpStream::connect(address).await.expect("first");
        let first = accepted.next().await;
        let _second_client = TcpStream::connect(address).await.expect("second");
        assert!(futures::poll!(accepted.next()).is_pending());
        drop(first);
        assert!(accepted.next().await.is_some_and(|connection| connection.is_ok()));
    }
}
