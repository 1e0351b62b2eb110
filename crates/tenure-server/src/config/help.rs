//! The text of `tenured --help`, made from the table of flags.

use std::fmt::Write as _;

use super::table::{Flag, Role, SECTIONS};

const HEAD: &str = "\
Tenure is a coordination database: versioned keys, watches, leases and locks,
replicated by Raft. It speaks the etcd v3 API.

Usage:
  tenured [flags]     Run a member. Without flags: a cluster of one, for clients
                      on 127.0.0.1:2379, with its data in ./default.tenure.
  tenured snapshot restore FILE, tenured snapshot status FILE
                      What to do with a saved snapshot: see tenured snapshot --help.
  tenured --version   Print the version.
  tenured --help      Print this text.

Flags are etcd's: --flag=value, --flag value, or with one dash. A switch alone
means true. The last of several wins. Each flag is also an environment variable,
TENURE_<FLAG> or else ETCD_<FLAG> (--data-dir: TENURE_DATA_DIR); a flag beats
both. URLs are lists separated by commas; durations are like 300ms, 10s or 1h30m.

Three members on one machine:
  all=a=http://127.0.0.1:2380,b=http://127.0.0.1:22380,c=http://127.0.0.1:32380
  tenured --name a --initial-cluster $all \\
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \\
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380
  and so on for b (22379, 22380) and c (32379, 32380).
";

const TEXT_COLUMNS: usize = 80;

/// The whole text.
pub(super) fn text() -> String {
    let mut out = HEAD.to_owned();
    for section in SECTIONS {
        // Writing to a String cannot fail.
        _ = writeln!(out, "\n{}:", section.title);
        if section.flags.iter().all(|flag| flag.role == Role::Used) {
            section.flags.iter().for_each(|flag| entry(&mut out, flag));
        } else {
            let names = section.flags.iter().map(|flag| format!("--{}", flag.name));
            wrap(&mut out, "  ", names);
        }
    }
    out
}

fn entry(out: &mut String, flag: &Flag) {
    let placeholder = flag.placeholder.map(|name| format!(" {name}")).unwrap_or_default();
    let default = match flag.default() {
        "" => String::new(),
        _ if matches!(flag.name, "help" | "version") => String::new(),
        default => format!(" (default {default})"),
    };
    _ = writeln!(out, "  --{}{placeholder}{default}", flag.name);
    wrap(out, "      ", flag.help.split(' ').map(str::to_owned));
}

fn wrap(out: &mut String, indent: &str, words: impl Iterator<Item = String>) {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > TEXT_COLUMNS {
            _ = writeln!(out, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    _ = writeln!(out, "{indent}{line}");
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    #[test]
    fn the_help_text_names_every_flag_and_fits_a_terminal() {
        let text = text();
        for flag in table::flags() {
            assert!(text.contains(&format!("--{}", flag.name)), "--{}", flag.name);
        }
        let body = text.strip_prefix(HEAD).unwrap();
        for line in body.lines() {
            assert!(line.len() <= TEXT_COLUMNS, "{line}");
        }
    }

    #[test]
    fn an_entry_shows_its_default() {
        assert!(text().contains("\n  --election-timeout MS (default 1000)\n      Milliseconds"));
        assert!(text().contains("\n  --version\n      Print"));
    }
}
