//! Those who have a lock, in words.

use tenure_proto::tenure::v1 as pb;

use crate::commands::span;
use crate::text::{Style, one_line};

/// Who it is: as it calls itself, or else by its key.
pub(crate) fn who(contender: &pb::LockContender) -> String {
    if contender.owner.is_empty() {
        return format!("key {}", Style::default().blob(&contender.key).line());
    }
    one_line(&contender.owner)
}

/// What the oldest contender has of the lock.
pub(crate) fn holds(holder: &pb::LockContender) -> String {
    let who = who(holder);
    match (holder.delayed, holder.holds_lock, holder.held_ms) {
        (true, _, _) => format!("{who} has lost it, and its delay is not over"),
        (false, true, 0) => format!("{who} holds it"),
        (false, true, held) => format!("{who} has held it for {}", span(held)),
        (false, false, _) => format!("{who} is the next to hold it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_told_by_its_owner_or_its_key() {
        let mut holder = pb::LockContender { key: "a/1f".into(), holds_lock: true, ..pb::LockContender::default() };
        assert_eq!(holds(&holder), "key a/1f holds it");
        holder.owner = "web\n1".to_owned();
        holder.held_ms = 12_340;
        assert_eq!(holds(&holder), "web\\n1 has held it for 12.3 s");
        holder.delayed = true;
        assert_eq!(holds(&holder), "web\\n1 has lost it, and its delay is not over");
    }
}
