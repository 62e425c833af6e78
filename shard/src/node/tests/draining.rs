//! Nodes that leave on purpose.

use super::*;

/// While something waits at the node that leaves, whoever is refused there finds another leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_refuses_nobody_before_its_leads_have_moved() {
    let cluster = Cluster::start(3).await;
    cluster.commit(&key("a"), b"1").await.expect("it commits");
    let leader = until("another node than the first leads", || async {
        let leader = cluster.leader_of(FIRST_DB_RANGE)?;
        if leader.id() != cluster.any().id() {
            return Some(leader);
        }
        let other = cluster.nodes[1].clone()?;
        leader.move_lead(FIRST_DB_RANGE, other.id()).await;
        None
    })
    .await;
    let range = leader.ranges().replica(FIRST_DB_RANGE).expect("it leads it").descriptor();
    let ask = |body| {
        let range = pb::RangeRef { range_id: range.range_id, epoch: range.epoch };
        cluster.make_call(vec![pb::RangeRequest { range: Some(range), body: Some(body) }])
    };
    // Of a transaction that nobody has heard of: it is waited for.
    let lookup = pb::LookupRequest { txn: Some(cluster.txn(&key("b"))), wait_ms: 1500 };
    let waits = cluster.call(&leader, ask(Ask::Lookup(lookup)));
    let reads = async {
        loop {
            let read = pb::ReadRequest {
                keys: vec![key("a").into()],
                read_ts: cluster.any().clock().now().0,
                ..pb::ReadRequest::default()
            };
            // Once it has left, nobody is refused any more.
            let Some(service) = cluster.any().connector().node(leader.id()) else { return false };
            let Ok(reply) = service.call(ask(Ask::Read(read))).await else { return false };
            if reply.error.is_some_and(|error| error.message.contains("stopping")) {
                return leader.led().iter().any(|led| led.range == FIRST_DB_RANGE);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let leaves = async {
        until("the look-up waits", || async {
            (leader.in_flight.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
        leader.shutdown().await;
    };
    let (_, still_leads, ()) = futures::join!(waits, reads, leaves);
    assert!(!still_leads, "it refuses calls for a range that it leads");
    drop(leader);
    cluster.stop().await;
}

/// What was known of a node a moment ago is not enough to give it a lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_asked_whether_it_leaves_before_it_is_given_a_lead() {
    let cluster = Cluster::start(3).await;
    let (one, other) = (cluster.any(), cluster.nodes[1].clone().expect("it runs"));
    until("they know each other", || async {
        one.still_takes_leads(other.id()).await.then_some(())
    })
    .await;
    other.leaving.store(true, Ordering::SeqCst);
    assert!(!one.still_takes_leads(other.id()).await);
    other.leaving.store(false, Ordering::SeqCst);
    assert!(one.still_takes_leads(other.id()).await);
    drop(other);
    cluster.stop().await;
}
