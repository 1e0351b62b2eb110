//! A way to a member that can be blocked: bytes stop, and nothing says so.
//!
//! It is what a client sees whose network is gone: connections stay, nothing is answered, new ones are accepted and lead
//! nowhere. It forwards bytes and knows nothing of what they say.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const PIECE_BYTES: usize = 16 * 1024;

/// One way to one member.
#[derive(Debug)]
pub struct Proxy {
    at: SocketAddr,
    blocked: watch::Sender<bool>,
    serving: AbortHandle,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, and leads to the member with this client URL.
    pub async fn start(endpoint: &str) -> Result<Proxy> {
        let target: SocketAddr = endpoint.trim_start_matches("http://").parse().context("a member's address")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let (blocked, seen) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, target, seen)).abort_handle();
        Ok(Proxy { at, blocked, serving })
    }

    /// Where clients reach it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Stops, or lets pass again, everything.
    pub fn block(&self, blocked: bool) {
        self.blocked.send_replace(blocked);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, blocked: watch::Receiver<bool>) {
    let mut ways = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let mut blocked = blocked.clone();
        ways.spawn(async move {
            // Nobody answers before the block ends.
            if blocked.wait_for(|blocked| !blocked).await.is_err() {
                return;
            }
            let Ok(server) = TcpStream::connect(target).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // Either end closes both.
            tokio::select! {
                () = carry(from_client, to_server, blocked.clone()) => {}
                () = carry(from_server, to_client, blocked) => {}
            }
        });
        while ways.try_join_next().is_some() {}
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut blocked: watch::Receiver<bool>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let Ok(count @ 1..) = from.read(&mut piece).await else { return };
        if blocked.wait_for(|blocked| !blocked).await.is_err() || to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
