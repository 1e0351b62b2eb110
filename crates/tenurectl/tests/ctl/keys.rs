//! `get`, `put`, `del`, `txn` and `compact`: what people see, what programs see, and what is refused.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;

use super::{Ctl, same};

/// Every command on keys, on a store of its own: the revisions in the texts are exact.
pub(crate) async fn keys(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    same(&ctl.says(&["put", "service/web/1", "10.0.0.7:8080"]).await?, "written at revision 2\n")?;
    same(&ctl.says(&["get", "service/web/1"]).await?, "10.0.0.7:8080\n")?;
    ctl.says(&["put", "service/web/2", "10.0.0.8:8080"]).await?;
    same(
        &ctl.says(&["get", "service/", "--prefix"]).await?,
        "KEY            VALUE\nservice/web/1  10.0.0.7:8080\nservice/web/2  10.0.0.8:8080\n",
    )?;
    same(
        &ctl.says(&["put", "service/web/1", "gone", "--prev-kv"]).await?,
        "written at revision 4, before:\n\
         KEY            CREATED  MODIFIED  VERSION  LEASE  VALUE\n\
         service/web/1        2         2        1  -      10.0.0.7:8080\n",
    )?;
    let found = ctl.json(&["get", "service/web/1"]).await?;
    let kv = json!({"key": "service/web/1", "value": "gone", "create_revision": 2, "mod_revision": 4, "version": 2});
    ensure!(found == json!({"revision": 4, "count": 1, "more": false, "kvs": [kv]}), "{found}");
    absent(&ctl).await?;
    selections(&ctl).await?;
    values(&ctl, home).await?;
    bytes(&ctl).await?;
    deletes(&ctl).await?;
    kept(&ctl).await
}

async fn absent(ctl: &Ctl) -> Result<()> {
    let said = ctl.run(&["get", "nothing"]).await?;
    ensure!(said.code == Some(0) && said.out.is_empty(), "{said:?}");
    same(&said.err, "the key does not exist (revision 4)\n")?;
    let found = ctl.json(&["get", "nothing"]).await?;
    ensure!(found == json!({"revision": 4, "count": 0, "more": false, "kvs": []}), "{found}");
    same(&ctl.fails(1, &["get", "nothing", "--raw"]).await?, "tenurectl: the key does not exist\n")
}

async fn selections(ctl: &Ctl) -> Result<()> {
    for (arguments, expected) in [
        (&["get", "service/web/1", "service/web/2"][..], "KEY            VALUE\nservice/web/1  gone\n"),
        (&["get", "service/web/2", "--from-key"], "KEY            VALUE\nservice/web/2  10.0.0.8:8080\n"),
        (&["get", "", "--prefix", "--keys-only"], "service/web/1\nservice/web/2\n"),
        (&["get", "", "--prefix", "--count-only"], "2\n"),
        (&["get", "", "--prefix", "--value-only", "--sort-by=modify", "--order=descend"], "gone\n10.0.0.8:8080\n"),
        (&["get", "", "--from-key", "--keys-only", "--order=DESCEND"], "service/web/2\nservice/web/1\n"),
        (&["get", "service/web/1", "--rev", "3"], "10.0.0.7:8080\n"),
        (&["get", "service/web/1", "--consistency=s"], "gone\n"),
        (&["get", "service/web/1", "--hex"], "676f6e65\n"),
        (
            &["get", "service/web/1", "--detail"],
            "KEY            CREATED  MODIFIED  VERSION  LEASE  VALUE\n\
             service/web/1        2         4        2  -      gone\n",
        ),
    ] {
        same(&ctl.says(arguments).await?, expected)?;
    }
    let said = ctl.run(&["get", "", "--prefix", "--limit=1", "--keys-only"]).await?;
    ensure!(said.out == b"service/web/1\n" && said.err == "more keys follow: these are 1 of 2\n", "{said:?}");
    let found = ctl.json(&["get", "", "--prefix", "--limit=1", "--keys-only"]).await?;
    ensure!(found["more"] == true && found["count"] == 2 && found["kvs"][0].get("value").is_none(), "{found}");
    Ok(())
}

/// Values from stdin and from files, as they are.
async fn values(ctl: &Ctl, home: &Path) -> Result<()> {
    let text = "first line\n\tsecond \\ line\n";
    let said = ctl.feed(text.as_bytes(), &["put", "text", "-"]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    same(&ctl.says(&["get", "text"]).await?, text)?;
    same(&ctl.says(&["get", "text", "text0"]).await?, "KEY   VALUE\ntext  first line\\n\\tsecond \\\\ line\\n\n")?;
    let blob: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = home.join("blob");
    fs::write(&file, &blob)?;
    let said = ctl.run(&[OsStr::new("put"), OsStr::new("blob"), OsStr::new("--file"), file.as_os_str()]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    let said = ctl.run(&["get", "blob", "--raw"]).await?;
    ensure!(said.code == Some(0) && said.out == blob, "{:?}: {} bytes", said.code, said.out.len());
    let missing = ctl.fails(1, &["put", "blob", "--file", "/does/not/exist"]).await?;
    ensure!(missing.contains("cannot open /does/not/exist"), "{missing}");
    Ok(())
}

/// Keys that are no text, in by escapes or as they are, out escaped.
async fn bytes(ctl: &Ctl) -> Result<()> {
    ctl.says(&["put", "--unescape", r"bin/\x00\xff", r"\x1b[31m"]).await?;
    same(&ctl.says(&["get", "bin/", "--prefix"]).await?, "KEY           VALUE\nbin/\\x00\\xff  \\x1b[31m\n")?;
    same(&ctl.says(&["get", "--unescape", r"bin/\x00\xff"]).await?, "\\x1b[31m\n")?;
    let found = ctl.json(&["get", "bin/", "--prefix"]).await?;
    ensure!(
        found["kvs"][0]["key"] == json!({"hex": "62696e2f00ff"}) && found["kvs"][0]["value"] == "\u{1b}[31m",
        "{found}"
    );
    let raw = [OsStr::new("put"), OsStr::from_bytes(b"bin/\xfe"), OsStr::new("v")];
    ensure!(ctl.run(&raw).await?.code == Some(0), "a key that is not UTF-8");
    same(&ctl.says(&["get", "--unescape", r"bin/\xfe"]).await?, "v\n")?;
    let wrong = ctl.fails(2, &["get", "--unescape", r"\q"]).await?;
    ensure!(wrong.contains(r"the escapes are"), "{wrong}");
    Ok(())
}

async fn deletes(ctl: &Ctl) -> Result<()> {
    let before: i64 = ctl.json(&["get", "x"]).await?["revision"].as_i64().unwrap_or(0);
    same(&ctl.says(&["del", "bin/", "--prefix"]).await?, &format!("deleted 2 keys (revision {})\n", before + 1))?;
    let gone = ctl.says(&["del", "service/web/2", "--prev-kv"]).await?;
    ensure!(gone.starts_with("deleted 1 key (revision ") && gone.ends_with("  10.0.0.8:8080\n"), "{gone}");
    let none = ctl.json(&["del", "service/web/2"]).await?;
    ensure!(none["deleted"] == 0 && none["prev_kvs"] == json!([]), "{none}");
    ctl.says(&["put", "y", "1"]).await?;
    ensure!(ctl.json(&["del", "x", "z", "--prev-kv"]).await?["prev_kvs"][0]["value"] == "1");
    ensure!(ctl.json(&["del", "", "--from-key"]).await?["deleted"] == 3, "service/web/1, text and blob are left");
    Ok(())
}

async fn kept(ctl: &Ctl) -> Result<()> {
    let error = ctl.fails_as("key_not_found", 1, &["put", "kept", "--ignore-value"]).await?;
    ensure!(error["hint"].as_str().is_some_and(|hint| hint.contains("does not exist yet")), "{error}");
    ctl.says(&["put", "kept", "value"]).await?;
    ctl.says(&["put", "kept", "--ignore-value"]).await?;
    let kv = ctl.json(&["get", "kept"]).await?["kvs"][0].clone();
    ensure!(kv["value"] == "value" && kv["version"] == 2, "{kv}");
    ctl.says(&["put", "kept", "again", "--ignore-lease"]).await?;
    same(&ctl.says(&["get", "kept"]).await?, "again\n")
}

/// Transactions from stdin.
pub(crate) async fn transactions(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let txn = async |text: &str, arguments: &[&str]| -> Result<String> {
        let said = ctl.feed(text.as_bytes(), &[&["txn"], arguments].concat()).await?;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(String::from_utf8(said.out)?)
    };
    let create = "create(\"lock\") = \"0\"\n\nput lock \"held by \\\"me\\\"\"\nput 'other key' x\n\nget lock\n";
    same(&txn(create, &[]).await?, "the conditions hold (revision 2)\n\nput: written\n\nput: written\n")?;
    same(&txn(create, &[]).await?, "the conditions do not hold (revision 2)\n\nget\nheld by \"me\"\n")?;
    let change = "mod(\"lock\") = \"2\"\nval(\"other key\") = \"x\"\nver(\"lock\") < \"2\"\n\n\
                  put lock new --prev-kv\nget \"\" --prefix\ndel other --prefix\n\n";
    same(
        &txn(change, &[]).await?,
        "the conditions hold (revision 3)\n\n\
         put: written\nKEY   CREATED  MODIFIED  VERSION  LEASE  VALUE\nlock        2         2        1  -      held by \"me\"\n\n\
         get\nKEY        VALUE\nlock       new\nother key  x\n\n\
         del: deleted 1 key\n",
    )?;
    let done: serde_json::Value =
        serde_json::from_str(&txn("\nput a b\nget lock --keys-only\ndel zzz\n", &["-ojson"]).await?)?;
    ensure!(done["succeeded"] == true && done["revision"] == 4, "{done}");
    ensure!(
        done["responses"][1]["get"]["kvs"][0]["key"] == "lock" && done["responses"][2]["del"]["deleted"] == 0,
        "{done}"
    );
    for (text, error) in [
        ("lock = 1\n", "tenurectl: line 1: lock = 1 is no condition"),
        ("\nput k\n", "tenurectl: line 2: the following required arguments were not provided: <VALUE"),
        ("\nput k v --file f\n", "tenurectl: line 2: the argument"),
        ("\nput 'k v\n", "tenurectl: line 2: a quote is not closed"),
    ] {
        let said = ctl.feed(text.as_bytes(), &["txn"]).await?;
        ensure!(said.code == Some(2) && said.err.starts_with(error), "{said:?}");
    }
    let said = ctl.feed(b"\nput k 1\nput k 2\n", &["txn"]).await?;
    ensure!(said.code == Some(1) && said.err == "tenurectl: duplicate key given in txn request\n", "{said:?}");
    Ok(())
}

/// Compaction, and what is said to those who come too late or too early.
pub(crate) async fn compaction(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    for value in 2..=9 {
        ctl.says(&["put", "key", &value.to_string()]).await?;
    }
    same(&ctl.says(&["compact", "5"]).await?, "compacted: the oldest revision that can be read is 5\n")?;
    same(&ctl.says(&["get", "key", "--rev=5"]).await?, "5\n")?;
    same(
        &ctl.fails(1, &["get", "key", "--rev=4"]).await?,
        "tenurectl: revision 4 has been compacted: the oldest revision that can be read is 5\n",
    )?;
    same(
        &ctl.fails(1, &["compact", "4"]).await?,
        "tenurectl: revision 4 is compacted already: the oldest revision that can be read is 5\n",
    )?;
    let future = "tenurectl: revision 100 is in the future: the store is at 9\n";
    same(&ctl.fails(1, &["get", "key", "--rev=100"]).await?, future)?;
    same(&ctl.fails(1, &["compact", "100"]).await?, future)?;
    ctl.fails_as("compacted", 1, &["get", "key", "--rev=4"]).await?;
    ctl.fails_as("future_revision", 1, &["compact", "100"]).await?;
    let done = ctl.json(&["compact", "8", "--physical"]).await?;
    ensure!(done == json!({"compacted": 8}), "{done}");
    let said = ctl.run(&["watch", "key", "--rev=7"]).await?;
    // It says where it begins, and then why it cannot.
    let (_, error) = said.err.split_once('\n').unwrap_or_default();
    ensure!(said.code == Some(1), "{said:?}");
    same(
        error,
        "tenurectl: the watch from revision 7 cannot go on: history before 8 has been compacted\n\
         --rev 8 watches what is left; the changes before it are gone.\n",
    )
}

/// More than a server takes, in both ways of being too large: for the log, and for gRPC.
pub(crate) async fn too_large(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    for bytes in [1_600_000, 3_000_000] {
        let said = ctl.feed(&vec![b'v'; bytes], &["put", "key", "-"]).await?;
        ensure!(said.code == Some(1) && said.err.contains("--max-request-bytes is the limit"), "{said:?}");
    }
    Ok(())
}
