//! What a call ends with if what came for it makes no sense: gRPC's codes, and the words of the servers that clients know.

use std::borrow::Cow;

pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
pub(crate) const UNIMPLEMENTED: u32 = 12;
pub(crate) const INTERNAL: u32 = 13;

/// A code, and a message.
pub(crate) type Failure = (u32, Cow<'static, str>);

/// A message says that it is compressed, and its request named no compression.
pub(crate) fn compressed() -> Failure {
    (INTERNAL, "grpc: compressed flag set with identity or empty encoding".into())
}

/// A message has more bytes than are allowed.
pub(crate) fn oversized(length: usize, length_max: usize) -> Failure {
    (RESOURCE_EXHAUSTED, format!("grpc: received message larger than max ({length} vs. {length_max})").into())
}
