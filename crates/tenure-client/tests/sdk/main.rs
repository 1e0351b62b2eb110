//! The client against real members, and against servers that lie: what a program is told, whatever happens between them.

mod auth;
mod blocking;
mod dialling;
mod etcd;
mod failures;
mod fake;
mod hostile;
mod kv;
mod leases;
#[path = "../support/mod.rs"]
mod support;
mod tls;
