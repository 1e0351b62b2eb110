//! The server: the node (what it does) and the services (how it is asked), put together by [`serve()`].
//!
//! `node/` knows nothing of gRPC or HTTP; `grpc/` and `http/` hold no state of their own.

pub mod config;
pub mod data_dir;
mod faults;
pub mod grpc;
mod http;
mod listen;
pub mod member;
pub mod node;
mod serve;
pub mod snapshot_file;
mod tls;

pub use serve::{ServeError, serve};
