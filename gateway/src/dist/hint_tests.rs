//! Hints of verdicts (rule P10) over a cluster of fakes.

use bytes::Bytes;
use quorate_proto::pb::range_request::Body;

use super::tests::{cluster, read, until, write};
use crate::testing::FaultKind;

/// Everything passes but what replicates a verdict.
fn undecided(body: &Body) -> FaultKind {
    match body {
        Body::Verdict(_) | Body::Resolve(_) => FaultKind::LoseRequest,
        _ => FaultKind::Pass,
    }
}

#[tokio::test]
async fn a_reader_sees_through_a_lock_before_the_verdict_is_replicated() {
    let (node, dist) = cluster();
    node.split(b"m");
    write(&dist, &["a", "z"], "1").await.unwrap();
    until(|| node.locks() == 0).await;
    node.set_fault(Some(Box::new(undecided)));
    write(&dist, &["a", "z"], "2").await.unwrap();
    until(|| node.log.lock().iter().filter(|name| **name == "hint").count() >= 4).await;
    node.log.lock().clear();
    for key in ["a", "z"] {
        assert_eq!(read(&dist, key).await, Some(Bytes::from("2")));
    }
    assert!(!node.log.lock().contains(&"lookup"), "nobody had to ask: {:?}", node.log.lock());
    assert_eq!(node.locks(), 2, "what is replicated is as it was");
}

/// A proposal on top waits until the anchor has the verdict.
#[tokio::test]
async fn a_writer_waits_for_the_resolve() {
    let (node, dist) = cluster();
    node.split(b"m");
    node.set_fault(Some(Box::new(undecided)));
    write(&dist, &["a", "z"], "1").await.unwrap();
    until(|| node.log.lock().iter().filter(|name| **name == "hint").count() == 2).await;
    node.log.lock().clear();
    let next = tokio::spawn({
        let dist = dist.clone();
        async move { write(&dist, &["z"], "2").await }
    });
    until(|| node.log.lock().contains(&"commit")).await;
    assert_eq!(node.locks(), 2);
    assert_eq!(read(&dist, "z").await, Some(Bytes::from("1")));
    assert!(!next.is_finished());
    node.set_fault(None);
    next.await.unwrap().unwrap();
    assert_eq!(read(&dist, "z").await, Some(Bytes::from("2")));
    until(|| node.locks() == 0).await;
}
