//! The cases of the conformance check, each a question with evidence for an answer.

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{StreamExt, TryStreamExt};
use pgkeep_base::{ErrorKind, Result};

use super::{Effort, Evidence, Run, Scratch, told};
use crate::{Created, ObjectName, Payload};

const LARGE_BYTES: usize = 8 << 20;
const RIVALS: usize = 12;

pub(super) async fn run_all(run: &mut Run, scratch: &Scratch<'_>, effort: Effort) {
    run.case("create-and-read", create_and_read(scratch)).await;
    run.case("create-only", create_only(scratch)).await;
    run.case("concurrent-creates", concurrent_creates(scratch)).await;
    run.case("ranged-reads", ranged_reads(scratch)).await;
    run.case("read-limit", read_limit(scratch)).await;
    run.case("stat", stat(scratch)).await;
    run.case("empty-object", empty_object(scratch)).await;
    run.case("large-object", large_object(scratch)).await;
    run.case("names", names(scratch)).await;
    run.case("missing", missing(scratch)).await;
    run.case("list-prefix", list_prefix(scratch)).await;
    run.case("list-complete", list_complete(scratch, effort.listed_names()))
        .await;
    run.case("list-directories", list_directories(scratch)).await;
    run.case("delete", delete(scratch)).await;
}

/// Fails the case with `why` unless `holds`.
fn ensure(holds: bool, why: impl FnOnce() -> String) -> std::result::Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

async fn put(scratch: &Scratch<'_>, rest: &str, body: impl Into<Payload>) -> std::result::Result<ObjectName, String> {
    let name = scratch.name(rest);
    match scratch.store.create(&name, body.into()).await {
        Ok(Created::New) => Ok(name),
        Ok(Created::AlreadyThere) => Err(format!("creating the fresh name {name} said that it is already there")),
        Err(error) => Err(told(&error)),
    }
}

async fn create_and_read(scratch: &Scratch<'_>) -> Evidence {
    let body = "written once";
    let name = put(scratch, "plain", body).await?;
    let read = scratch.store.read(&name, 100).await.map_err(|e| told(&e))?;
    ensure(read == body, || format!("{} other bytes came back", read.len()))?;
    Ok(format!("{} bytes came back as written", read.len()))
}

async fn create_only(scratch: &Scratch<'_>) -> Evidence {
    let name = put(scratch, "once", "first").await?;
    let second = scratch.store.create(&name, Payload::from("second")).await;
    let second = second.map_err(|e| told(&e))?;
    let read = scratch.store.read(&name, 100).await.map_err(|e| told(&e))?;
    ensure(read == "first", || {
        "a second create overwrote the first object".to_owned()
    })?;
    ensure(second == Created::AlreadyThere, || {
        "a second create reported success".to_owned()
    })?;
    Ok("a second create was told that the name is taken, and changed nothing".to_owned())
}

async fn concurrent_creates(scratch: &Scratch<'_>) -> Evidence {
    let name = scratch.name("contended");
    let body = |rival: usize| format!("written by rival {rival}");
    let attempts = (0..RIVALS).map(|rival| scratch.store.create(&name, Payload::from(body(rival))));
    let outcomes: Vec<Result<Created>> = join_all(attempts).await;
    let read = scratch.store.read(&name, 100).await.map_err(|e| told(&e))?;
    let mut winners = Vec::new();
    for (rival, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(Created::New) => winners.push(rival),
            Ok(Created::AlreadyThere) => {}
            Err(error) => return Err(told(error)),
        }
    }
    ensure(winners.len() == 1, || {
        format!("{} of {RIVALS} concurrent creates won", winners.len())
    })?;
    ensure(read == body(winners[0]), || {
        "what is stored is not what the winner wrote".to_owned()
    })?;
    Ok(format!(
        "exactly one of {RIVALS} concurrent creates won, and its bytes are stored"
    ))
}

async fn ranged_reads(scratch: &Scratch<'_>) -> Evidence {
    let body: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
    let name = put(scratch, "ranged", body.clone()).await?;
    for range in [0..1, 0..10_000, 17..4_099, 9_999..10_000, 5..5] {
        let read = scratch
            .store
            .read_range(&name, range.clone())
            .await
            .map_err(|e| told(&e))?;
        let expected = &body[range.start as usize..range.end as usize];
        ensure(read == expected, || {
            format!("bytes {range:?} came back as {} others", read.len())
        })?;
    }
    for range in [9_999..10_001, 10_000..10_001, 20_000..20_010] {
        let kind = scratch
            .store
            .read_range(&name, range.clone())
            .await
            .map_err(|e| e.kind());
        ensure(kind == Err(ErrorKind::Corrupt), || {
            format!("bytes {range:?} of 10000 gave {kind:?}")
        })?;
    }
    Ok("first, last, inner and whole ranges are exact; ranges past the end are refused".to_owned())
}

async fn read_limit(scratch: &Scratch<'_>) -> Evidence {
    let name = put(scratch, "limited", vec![7; 1_000]).await?;
    let within = scratch.store.read(&name, 1_000).await.map_err(|e| told(&e))?;
    ensure(within.len() == 1_000, || {
        "an object as long as the limit was cut".to_owned()
    })?;
    let kind = scratch.store.read(&name, 999).await.map_err(|e| e.kind());
    ensure(kind == Err(ErrorKind::Corrupt), || {
        "an object beyond the limit was read".to_owned()
    })?;
    Ok("an object beyond the limit is refused".to_owned())
}

async fn stat(scratch: &Scratch<'_>) -> Evidence {
    let name = put(scratch, "looked-at", vec![1; 4_321]).await?;
    let meta = scratch.store.stat(&name).await.map_err(|e| told(&e))?;
    ensure(meta.name == name && meta.bytes == 4_321, || {
        format!("stat says {meta:?}")
    })?;
    let there = scratch.store.exists(&name).await.map_err(|e| told(&e))?;
    ensure(there, || "an object that was just written does not exist".to_owned())?;
    let modified = meta.modified.map_or("unknown".to_owned(), |time| time.to_string());
    Ok(format!("length 4321, modified {modified}"))
}

async fn empty_object(scratch: &Scratch<'_>) -> Evidence {
    let name = put(scratch, "empty", Payload::default()).await?;
    let read = scratch.store.read(&name, 0).await.map_err(|e| told(&e))?;
    let meta = scratch.store.stat(&name).await.map_err(|e| told(&e))?;
    let there = scratch.store.exists(&name).await.map_err(|e| told(&e))?;
    ensure(read.is_empty() && meta.bytes == 0 && there, || {
        format!("it came back as {meta:?}")
    })?;
    Ok("an object of no bytes is an object".to_owned())
}

async fn large_object(scratch: &Scratch<'_>) -> Evidence {
    // A period that is no power of two, so that parts in the wrong order show.
    let body: Bytes = (0..LARGE_BYTES).map(|i| (i % 65_521 % 256) as u8).collect();
    let parts: Payload = [body.slice(..13), body.slice(13..5 << 20), body.slice(5 << 20..)]
        .into_iter()
        .collect();
    let name = put(scratch, "large", parts).await?;
    let read = scratch
        .store
        .read(&name, LARGE_BYTES as u64)
        .await
        .map_err(|e| told(&e))?;
    ensure(read == body, || format!("{} other bytes came back", read.len()))?;
    let middle = 5 << 20;
    let around = middle as u64 - 10..middle as u64 + 10;
    let part = scratch.store.read_range(&name, around).await.map_err(|e| told(&e))?;
    ensure(part == body[middle - 10..middle + 10], || {
        "a range across two parts came back wrong".to_owned()
    })?;
    Ok("8 MiB in three parts came back as one".to_owned())
}

async fn names(scratch: &Scratch<'_>) -> Evidence {
    let deep = vec!["d"; 40].join("/");
    let long = "n".repeat(255);
    let odd = [
        ".dot",
        "...",
        "-dash",
        "a=b",
        "a+b",
        "50%",
        "%2F",
        "%41",
        "mail@host",
        "CASE",
        "case",
        "x.tar.zst",
        &deep,
        &long,
    ];
    for rest in odd {
        let name = put(scratch, &format!("names/{rest}"), rest.to_owned()).await?;
        let read = scratch.store.read(&name, 1_000).await.map_err(|e| told(&e))?;
        ensure(read == rest, || format!("{name} came back with other bytes"))?;
    }
    let mut expected: Vec<ObjectName> = odd.iter().map(|rest| scratch.name(&format!("names/{rest}"))).collect();
    expected.sort_unstable();
    let listed = scratch
        .listed(&scratch.prefix("names"), None)
        .await
        .map_err(|e| told(&e))?;
    ensure(listed == expected, || format!("listed as {listed:?}"))?;
    Ok(format!("{} odd names are distinct, and listed as they are", odd.len()))
}

async fn missing(scratch: &Scratch<'_>) -> Evidence {
    let name = scratch.name("never/written");
    let store = scratch.store;
    let there = store.exists(&name).await.map_err(|e| told(&e))?;
    ensure(!there, || "an object that nobody wrote exists".to_owned())?;
    let kinds = [
        ("read", store.read(&name, 100).await.map(drop)),
        ("ranged read", store.read_range(&name, 0..1).await.map(drop)),
        ("stat", store.stat(&name).await.map(drop)),
    ];
    for (what, outcome) in kinds {
        let kind = outcome.map_err(|e| e.kind());
        ensure(kind == Err(ErrorKind::NotFound), || {
            format!("{what} of a missing object gave {kind:?}")
        })?;
    }
    store.delete(&name).await.map_err(|e| told(&e))?;
    let listed = scratch
        .listed(&scratch.prefix("never"), None)
        .await
        .map_err(|e| told(&e))?;
    ensure(listed.is_empty(), || {
        format!("{} objects are listed where none is", listed.len())
    })?;
    Ok("absence is told as absence by every call".to_owned())
}

async fn list_prefix(scratch: &Scratch<'_>) -> Evidence {
    for rest in ["p/a/1", "p/a/2", "p/a/b/3", "p/ab/4", "p/a-b/5"] {
        put(scratch, rest, rest.to_owned()).await?;
    }
    let expected: Vec<ObjectName> = ["p/a/1", "p/a/2", "p/a/b/3"]
        .iter()
        .map(|rest| scratch.name(rest))
        .collect();
    for prefix in [scratch.prefix("p/a"), scratch.prefix("p/a/")] {
        let listed = scratch.listed(&prefix, None).await.map_err(|e| told(&e))?;
        ensure(listed == expected, || format!("listing {prefix} gave {listed:?}"))?;
    }
    // Byte order of whole names: `-` comes before `/`, and so does everything in `a-b` before everything in `a`.
    let in_order = ["p/a-b/5", "p/a/1", "p/a/2", "p/a/b/3", "p/ab/4"];
    for (i, after) in in_order.iter().enumerate() {
        let listed = scratch.listed(&scratch.prefix("p"), Some(&scratch.name(after))).await;
        let listed = listed.map_err(|e| told(&e))?;
        let expected: Vec<ObjectName> = in_order[i + 1..].iter().map(|rest| scratch.name(rest)).collect();
        ensure(listed == expected, || format!("listing after {after} gave {listed:?}"))?;
    }
    Ok("a listing is exact to whole segments, and begins after the name it is given".to_owned())
}

async fn list_complete(scratch: &Scratch<'_>, count: usize) -> Evidence {
    let names: Vec<ObjectName> = (0..count)
        .map(|i| scratch.name(&format!("many/{}/{i:06}", i % 3)))
        .collect();
    let writes = futures::stream::iter(&names).map(Ok::<_, pgkeep_base::Error>);
    writes
        .try_for_each_concurrent(scratch.store.requests_wanted(), |name| async move {
            scratch.store.create(name, Payload::from("x")).await.map(drop)
        })
        .await
        .map_err(|e| told(&e))?;
    let mut expected = names.clone();
    expected.sort_unstable();
    let listed = scratch
        .listed(&scratch.prefix("many"), None)
        .await
        .map_err(|e| told(&e))?;
    ensure(listed == expected, || {
        format!("{} of {count} objects were listed", listed.len())
    })?;
    scratch.delete_all(&names).await.map_err(|e| told(&e))?;
    Ok(format!("{count} objects written, listed and deleted"))
}

async fn list_directories(scratch: &Scratch<'_>) -> Evidence {
    for rest in ["dirs/b/1", "dirs/a/x/2", "dirs/a/y/3", "dirs/file"] {
        put(scratch, rest, rest.to_owned()).await?;
    }
    let found = scratch.store.list_directories(&scratch.prefix("dirs")).await;
    let found = found.map_err(|e| told(&e))?;
    ensure(found == ["a", "b"], || {
        format!("the directories are said to be {found:?}")
    })?;
    let none = scratch
        .store
        .list_directories(&scratch.prefix("no-such-directory"))
        .await;
    let none = none.map_err(|e| told(&e))?;
    ensure(none.is_empty(), || {
        format!("a missing directory is said to hold {none:?}")
    })?;
    Ok("directories are told apart from objects".to_owned())
}

async fn delete(scratch: &Scratch<'_>) -> Evidence {
    let name = put(scratch, "deleted", "x").await?;
    for _ in 0..2 {
        scratch.store.delete(&name).await.map_err(|e| told(&e))?;
    }
    let there = scratch.store.exists(&name).await.map_err(|e| told(&e))?;
    ensure(!there, || "a deleted object still exists".to_owned())?;
    put(scratch, "deleted", "y").await?;
    Ok("a deleted object is gone, deleting it again is no error, and its name is free".to_owned())
}
