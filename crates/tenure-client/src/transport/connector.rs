//! How bytes get to a member. Programs need none but the one that is here; tests and simulations bring their own.

use std::fmt::Debug;
use std::io;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Address;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Makes connections. TLS is not its business: it is spoken within what this returns.
pub trait Connector: Debug + Send + Sync + 'static {
    /// Connects to an endpoint, which is given as `HOST:PORT` or `unix://PATH`. The future is dropped when it takes too long.
    fn connect(&self, endpoint: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Sockets of the machine, TCP and unix ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SocketConnector;

impl Connector for SocketConnector {
    fn connect(&self, endpoint: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let endpoint = endpoint.to_owned();
        async move {
            if let Some(path) = endpoint.strip_prefix("unix://") {
                return Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Stream>);
            }
            let stream = TcpStream::connect(endpoint).await?;
            // Requests are small and somebody waits for each.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }
}

impl Address {
    /// As connectors are told of it.
    pub(super) fn target(&self) -> String {
        match self {
            Address::Tcp { authority, .. } => authority.clone(),
            Address::Unix(path) => format!("unix://{}", path.display()),
        }
    }
}
