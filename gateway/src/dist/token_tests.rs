//! Commit tokens over a cluster of fakes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::SqlState;
use quorate_planner::kv::{KvTxn as _, WriteOp};

use super::tests::{cluster, read};
use super::tokens::TokenStatus;
use super::{Dist, Txn};

async fn pay(dist: &Arc<Dist>, token: &str, key: &'static str) -> Result<(), SqlState> {
    let txn = Txn::begin(dist.clone(), true);
    txn.open_token(token).await.map_err(|e| e.sqlstate)?;
    txn.write(WriteOp::put(key, "paid")).expect("there is room");
    txn.write_token(token).expect("there is room");
    let intent = txn.intent().expect("it writes");
    dist.clone().commit(intent).await.map(drop).map_err(|e| e.sqlstate)
}

#[tokio::test]
async fn a_token_commits_once() {
    let (node, dist) = cluster();
    // The token and what it stands for are in different ranges.
    node.split(b"m");
    pay(&dist, "p1", "x").await.expect("the first time");
    assert_eq!(dist.token_status("p1").await, Ok(TokenStatus::Committed));
    assert_eq!(pay(&dist, "p1", "y").await, Err(SqlState::UNIQUE_VIOLATION));
    assert_eq!(read(&dist, "y").await, None);
    assert_eq!(dist.token_status("p1").await, Ok(TokenStatus::Committed));
}

/// Whoever was told "aborted" may pay again by another token: the first one is closed for ever,
/// even for a transaction that was open all the time and whose lock was lost.
#[tokio::test]
async fn nothing_is_committed_under_a_token_that_was_told_aborted() {
    let (node, dist) = cluster();
    let txn = Txn::begin(dist.clone(), true);
    txn.open_token("p2").await.expect("it is new");
    assert_eq!(dist.token_status("p2").await, Ok(TokenStatus::InProgress));
    node.lose_row_locks();
    assert_eq!(dist.token_status("p2").await, Ok(TokenStatus::Aborted));
    txn.write(WriteOp::put("x", "paid")).expect("there is room");
    txn.write_token("p2").expect("there is room");
    let error = dist.clone().commit(txn.intent().expect("it writes")).await;
    assert_eq!(error.expect_err("it is closed").sqlstate, SqlState::UNIQUE_VIOLATION);
    assert_eq!(read(&dist, "x").await, None);
}

#[tokio::test]
async fn old_tokens_are_forgotten_and_young_ones_are_not() {
    let (_node, dist) = cluster();
    pay(&dist, "p3", "x").await.expect("the first time");
    assert_eq!(dist.sweep_tokens(Duration::from_secs(3600)).await, Ok(0));
    assert_eq!(dist.sweep_tokens(Duration::ZERO).await, Ok(1));
    assert_eq!(read(&dist, "x").await, Some(Bytes::from("paid")));
}

#[tokio::test]
async fn a_token_has_a_length() {
    let (_node, dist) = cluster();
    let state = |token: String| {
        let dist = dist.clone();
        async move { dist.token_status(&token).await.expect_err("refused").sqlstate }
    };
    assert_eq!(state(String::new()).await, SqlState::INVALID_PARAMETER_VALUE);
    assert_eq!(state("x".repeat(201)).await, SqlState::INVALID_PARAMETER_VALUE);
}
