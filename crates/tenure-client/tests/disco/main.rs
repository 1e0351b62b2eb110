//! Discovery against real members: what programs and their caches are told, whatever becomes of connections, members and processes.

mod caching;
mod churn;
mod registering;
mod resolving;
#[path = "../support/mod.rs"]
mod support;
mod world;
