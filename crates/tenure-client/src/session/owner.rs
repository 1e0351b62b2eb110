//! Who a process is, for those who look at its leases and locks.

use std::sync::OnceLock;

use crate::clock::{BootClock, Clock as _};

/// What a lock's server takes at most.
pub(crate) const OWNER_BYTES_MAX: usize = 128;
const HOST_BYTES_MAX: usize = 64;

/// `host-pid-boot-random`, the same as long as the process lives: its host's name, its number, when it first asked in seconds
/// since the machine started, and a random number, which tells it from others that had its number.
pub(crate) fn of_this_process() -> &'static str {
    static OWNER: OnceLock<String> = OnceLock::new();
    OWNER.get_or_init(|| {
        let host = rustix::system::uname();
        let host: String = host.nodename().to_string_lossy().chars().filter(|c| !c.is_control()).collect();
        let end = host.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= HOST_BYTES_MAX).last();
        let boot = BootClock.now().to_origin().as_secs();
        format!("{}-{}-{boot}-{:08x}", &host[..end.unwrap_or(0)], std::process::id(), rand::random::<u32>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_the_same_owner_whenever_it_asks() {
        let owner = of_this_process();
        assert_eq!(owner, of_this_process());
        assert!(owner.contains(&format!("-{}-", std::process::id())) && owner.len() <= OWNER_BYTES_MAX, "{owner}");
    }
}
