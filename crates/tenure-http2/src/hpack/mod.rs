//! HPACK (RFC 7541): header blocks, read and written.
//!
//! Read with all that the RFC has. Written with what pays for a server of gRPC: the two fields that every answer has go
//! through the dynamic table, so that they are a byte each; everything else is written as it is.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub(crate) use decoder::{Decoder, Effect};
pub(crate) use encoder::Encoder;

/// A header block that cannot be read. The connection ends: its table can no longer be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("a header block ends within a field")]
    Truncated,
    #[error("an integer in a header block is too large")]
    Integer,
    #[error("text in a header block is not coded as it should be")]
    Huffman,
    #[error("a header block names a field that is not in the table")]
    Index,
    #[error("a header block changes the size of the table where it may not")]
    TableSize,
    #[error("a header block stands for far too much")]
    TooLong,
}
