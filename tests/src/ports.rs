//! Free TCP ports for server processes.
//!
//! They are taken from below the kernel's ephemeral range (32768 and up by default). A port inside it can be handed to an
//! outgoing connection while its server is down between kill and restart, and a client dialling it can even connect to
//! itself.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt;

const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;
/// Far more tries than a machine with a few thousand open ports needs.
const TRIES_MAX: usize = 1_000;

/// Every port ever given out by this process: a node keeps its ports across restarts.
static GIVEN_OUT: LazyLock<Mutex<BTreeSet<u16>>> = LazyLock::new(|| Mutex::new(BTreeSet::new()));

/// A port on 127.0.0.1 that nobody listens on and that this process never gave out before.
pub fn free_port() -> Result<u16> {
    let mut given_out = GIVEN_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = rand::rng();
    for _ in 0..TRIES_MAX {
        let port = rng.random_range(FIRST..=LAST);
        if !given_out.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given_out.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {LAST} after {TRIES_MAX} tries")
}

/// A port for the first node of `cluster-scripts/start`: all ports of three nodes, three each, are free and below
/// the ephemeral range.
pub fn free_base_port() -> Result<u16> {
    for _ in 0..TRIES_MAX {
        let base = rand::rng().random_range(1_100..=2_600);
        let taken = |up: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, base + up)).is_err();
        let mut given_out = GIVEN_OUT.lock().unwrap_or_else(PoisonError::into_inner);
        // The first node's port for peers and that for faults are the neighbours, so a base takes three numbers.
        let is_new = (base..base + 3).all(|port| !given_out.contains(&port));
        if is_new && ![0, 20_000, 30_000].into_iter().any(|node| (node..node + 3).any(taken)) {
            given_out.extend(base..base + 3);
            return Ok(base);
        }
    }
    bail!("no nine free ports in their places after {TRIES_MAX} tries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_never_given_out_twice() {
        let ports: BTreeSet<u16> = (0..200).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 200);
    }
}
