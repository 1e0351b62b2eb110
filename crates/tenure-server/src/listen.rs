//! Binding what the flags name: ports, several times where several threads serve one, and unix sockets.
//!
//! A socket's path outlives the process that bound it. One that nobody answers at any more makes room; one that somebody
//! answers at, or anything else of that name, does not. A server that stops leaves its own: removing it could hit that of
//! its successor.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use tenure_raft::accept::{Listener, Listening};
use tenure_raft::tls::ServerTls;

use crate::config::{ListenAddress, ListenUrl};
use crate::serve::ServeError;

/// Connections that the kernel may hold before they are accepted.
const ACCEPT_BACKLOG: i32 = 1024;

/// Binds every URL `copies` times; returns the copies, each with all URLs. Those that are secure speak `tls`.
pub(crate) fn on(
    urls: &[ListenUrl],
    copies: usize,
    tls: Option<&Arc<ServerTls>>,
) -> Result<Vec<Vec<Listening>>, ServeError> {
    let mut listeners: Vec<Vec<Listening>> = (0..copies).map(|_| Vec::new()).collect();
    for url in urls {
        let tls = tls.filter(|_| url.url.is_secure());
        let bound = bind(&url.address, copies).map_err(|error| ServeError::Listen(url.url.clone(), error))?;
        for (copy, listener) in listeners.iter_mut().zip(bound) {
            copy.push(Listening { listener, tls: tls.cloned() });
        }
    }
    Ok(listeners)
}

fn bind(address: &ListenAddress, copies: usize) -> io::Result<Vec<Listener>> {
    match address {
        ListenAddress::Tcp(address) => {
            (0..copies).map(|_| bind_port(*address, copies > 1).map(Listener::Tcp)).collect()
        }
        ListenAddress::Unix(path) => {
            let listener = bind_socket(path)?;
            (0..copies).map(|_| listener.try_clone().map(Listener::Unix)).collect()
        }
    }
}

fn bind_port(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted member must get its port back although old connections linger.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket.into())
}

fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("there is something of that name that is no socket"));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_behind_makes_room_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = bind_socket(&path).unwrap();
        assert_eq!(bind_socket(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists(), "it outlives its process");
        let second = bind_socket(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(bind_socket(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert!(bind_socket(&dir.path().join("no/such/directory")).is_err());
    }

    #[test]
    fn copies_of_a_socket_share_its_connections() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let bound = bind(&ListenAddress::Unix(path.clone()), 2).unwrap();
        let _clients = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        for listener in bound {
            let Listener::Unix(listener) = listener else { panic!("{listener:?}") };
            listener.accept().unwrap();
        }
    }
}
