//! What the first entry of an archive says of the rest.

use std::fmt::Write as _;

use tenure_core::{ClusterId, LogIndex, MemberId, Revision, Term};

/// The name of the entry.
pub(super) const ABOUT_FILE: &str = "tenure-snapshot";

/// Far above the length of any; more is not read.
pub(super) const ABOUT_BYTES_MAX: u64 = 4096;

const HEADER: &str = "tenure-snapshot 1";

/// A backup, in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The cluster that it is of.
    pub cluster: ClusterId,
    /// The member that made it.
    pub member: MemberId,
    /// The last log entry whose effects are in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The store's revision.
    pub revision: Revision,
    /// The revision compacted to.
    pub compacted: Revision,
    /// Whether a majority confirmed that it holds everything acknowledged before it was asked for. A member without a
    /// leader gives what it has.
    pub confirmed: bool,
}

impl About {
    pub(super) fn render(&self) -> String {
        let mut text = format!("{HEADER}\n");
        // Writing to a String cannot fail.
        _ = writeln!(text, "cluster {:016x}\nmember {:016x}", self.cluster.0, self.member.0);
        _ = writeln!(text, "index {}\nterm {}", self.index.0, self.term.0);
        _ = writeln!(text, "revision {}\ncompacted {}", self.revision.0, self.compacted.0);
        _ = writeln!(text, "confirmed {}", if self.confirmed { "yes" } else { "no" });
        text
    }

    /// Reads exactly what [`About::render`] makes.
    pub(super) fn parse(text: &str) -> Option<About> {
        let mut lines = text.lines();
        if lines.next()? != HEADER {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let about = About {
            cluster: ClusterId(hex(field("cluster")?)?),
            member: MemberId(hex(field("member")?)?),
            index: LogIndex(field("index")?.parse().ok()?),
            term: Term(field("term")?.parse().ok()?),
            revision: Revision(field("revision")?.parse().ok()?),
            compacted: Revision(field("compacted")?.parse().ok()?),
            confirmed: field("confirmed")? == "yes",
        };
        (about.render() == text).then_some(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_read_back_and_nothing_else_is() {
        let about = About {
            cluster: ClusterId(0xcdf8_1819_4e3a_8c32),
            member: MemberId(7),
            index: LogIndex(12),
            term: Term(3),
            revision: Revision(40),
            compacted: Revision(-1),
            confirmed: true,
        };
        let text = about.render();
        assert_eq!(
            text,
            "tenure-snapshot 1\ncluster cdf818194e3a8c32\nmember 0000000000000007\nindex 12\nterm 3\nrevision 40\n\
             compacted -1\nconfirmed yes\n"
        );
        assert_eq!(About::parse(&text), Some(about.clone()));
        let unconfirmed = About { confirmed: false, ..about };
        assert_eq!(About::parse(&unconfirmed.render()), Some(unconfirmed));
        for end in 0..text.len() {
            assert_eq!(About::parse(&text[..end]), None, "cut at {end}");
        }
        for (from, to) in [("snapshot 1", "snapshot 2"), ("yes", "perhaps"), ("index 12", "index +12"), ("40", "040")] {
            assert_eq!(About::parse(&text.replace(from, to)), None, "{to}");
        }
        assert_eq!(About::parse(&(text + "more\n")), None);
    }
}
