//! Who asks: what is recorded of a client with what it ended.

use http::Extensions;
use tenure_core::row::ClientName;
use tenure_raft::accept::ClientInfo;

/// Longer names are cut: they go into the log and stand in the state. X.509 allows 64 characters.
const CLIENT_NAME_BYTES_MAX: usize = 256;

/// The client of a request: the name in its certificate if it showed one, else where it comes from.
pub(super) fn client_name(extensions: &Extensions) -> ClientName {
    // A connection within the process has none.
    let Some(client) = extensions.get::<ClientInfo>() else { return ClientName::Unknown };
    match (client.certificate_name(), client.address()) {
        (Some(name), _) => ClientName::Certificate(cut(name).to_owned()),
        (None, Some(address)) => ClientName::Address(address.to_string()),
        (None, None) => ClientName::Unknown,
    }
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(CLIENT_NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(cut("ops"), "ops");
        let long = "é".repeat(CLIENT_NAME_BYTES_MAX);
        assert_eq!(cut(&long).len(), CLIENT_NAME_BYTES_MAX);
        let long = format!("x{long}");
        assert_eq!(cut(&long).len(), CLIENT_NAME_BYTES_MAX - 1);
    }

    #[test]
    fn who_comes_from_nowhere_is_unknown() {
        let mut extensions = Extensions::new();
        assert_eq!(client_name(&extensions), ClientName::Unknown);
        extensions.insert(ClientInfo::default());
        assert_eq!(client_name(&extensions), ClientName::Unknown);
    }
}
